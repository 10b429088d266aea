#!/bin/bash
# PID 1 of a host: plugs in its cables, mounts its disk, boots it and becomes its sshd (which reaps).
# It starts what a Debian would: the enabled units in their order, one after the other. What a real
# boot has and this has not: systemd and its generators, udev (no rule is ever applied), unit types
# other than service and target, restarts, users other than root. Output goes to the console.
set -u
# The machine's /proc is still here and shows the pid as the lab sees it.
read -r stat </proc/self/stat
pid=${stat%% *}
stat=${stat##*) }
read -ra stat <<<"$stat"
echo "$pid ${stat[19]}" >"$LAB_HOST/pid.new" && mv "$LAB_HOST/pid.new" "$LAB_HOST/pid" || exit 1
echo "--- boot $LAB_NAME"
echo "$LAB_NAME" >/proc/sys/kernel/hostname

# Cables: the far ends go to the switch and to the neighbour. Interface numbers are set as the kernel
# reports the carrier of a veth at once only if its two ends have different ones; else within a second.
ip -batch - <<E || exit 1
link add eth0 index 2 address $LAB_ETH0 type veth peer name $LAB_NAME index $((1000 + LAB_NUM)) address $LAB_PORT netns $LAB_ID-ctl
link add eth1 index 3 address $LAB_ETH1 type veth peer name eth0 index 1000 address $LAB_FAR netns $LAB_ID-$LAB_NAME-nb
E
nsenter "--net=/run/netns/$LAB_ID-ctl" ip link set "$LAB_NAME" master sw0 up || exit 1
nsenter "--net=/run/netns/$LAB_ID-$LAB_NAME-nb" ip -batch - <<E || exit 1
link set lo up
addr replace 192.168.1.53/24 brd + dev eth0
addr replace fd00:1::53/64 dev eth0 nodad
link set eth0 up
E

# A reference to another host's namespace would keep it alive past its power cut.
while read -r _ _ _ _ at _; do
    # And one to another host's disk would keep that busy.
    [[ $at == /run/netns || $at == /run/netns/* || $at == */hosts/*/disk && $at != "$LAB_HOST/disk" ]] && echo "$at"
done </proc/self/mountinfo | sort -r | uniq | while read -r at; do umount -l "$at" 2>/dev/null; done

# shellcheck source=guests.sh
. "$LAB_HERE/guests.sh"
# /run hides the lab from here on, so what is still needed of it is read now.
planner=$(<"$LAB_HERE/units.awk")
unit_file() { printf '\001F %s\n%s\n' "${1##*/}" "$(<"$1")"; }
built_in=$(for f in "$LAB_HERE/units/$LAB_ORDER"/* "$LAB_HERE"/units/*.{target,service}; do unit_file "$f"; done)
mount -a -T "$LAB_HOST/fstab" || exit 1
mount -o remount,bind,ro / || exit 1
cd / || exit 1
umask 022
mkdir -p /run/sshd /run/lock /run/network /run/sudo
[[ $LAB_SERVICES == yes ]] && mkdir -p /run/systemd/system
chmod 1777 /run/lock
# Every boot has an id of its own, by which one is told from a process that merely died.
read -r boot_id </proc/sys/kernel/random/uuid && echo "$boot_id" >/run/boot_id &&
    mount --bind /run/boot_id /proc/sys/kernel/random/boot_id || exit 1

# --- the units ------------------------------------------------------------------------------------
# Everything systemd would read when it starts, as one text: what comes first under a name is it.
collect() {
    local f to
    shopt -s nullglob
    for f in /etc/systemd/system/*.{service,target}; do
        to=$(readlink -f "$f")
        if [[ ! -L $f ]]; then unit_file "$f"
        elif [[ $to == /dev/null ]]; then printf '\001F %s\n[Masked]\n' "${f##*/}"
        elif [[ ${to##*/} != "${f##*/}" ]]; then printf '\001A %s %s\n' "${f##*/}" "${to##*/}"
        elif [[ -r $f ]]; then unit_file "$f"
        fi
    done
    printf '%s\n' "$built_in"
    for f in /etc/systemd/system/*.{wants,requires}/*; do
        to=${f%/*}
        to=${to##*/}
        printf '\001%s %s %s\n' "$([[ $to == *.wants ]] && echo W || echo R)" "${to%.*}" "${f##*/}"
        # A link may lead to a unit of a package.
        [[ -r $f ]] && unit_file "$f"
    done
    for f in /etc/systemd/system/*.d/*.conf; do
        to=${f%/*}
        to=${to##*/}
        printf '\001D %s\n%s\n' "${to%.d}" "$(<"$f")"
    done
}

# The planner's answer is a script of these words, in the order of the boot:
#   U name type timeout 'units it requires' 'units to start if it fails' · N NAME=VALUE (environment)
#   C | not kind argument (a condition; | is "any of these") · M directory · X phase prefix command…
#   B why (a line systemd would not accept) · Z (end of the unit)
bad=' ' # units that failed
U() {
    unit=$1 type=$2 timeout=$3 onfail=$5 skip='' failed='' any='' any_ok='' ran='' envs=()
    local need
    for need in $4; do
        [[ $bad == *" $need "* ]] && failed="dependency $need failed" skip=x
    done
}
N() { envs+=("$1"); }
M() { [[ $skip ]] || mkdir -p "$1"; }
B() { echo "$unit: $1" ; failed=$1; }
C() {
    local ok='' trigger=$1 not=$2 kind=$3 what=$4
    [[ $skip ]] && return
    case $kind in
    PathExists) [[ -e $what ]] && ok=x ;;
    PathExistsGlob) compgen -G "$what" >/dev/null && ok=x ;;
    PathIsDirectory) [[ -d $what ]] && ok=x ;;
    PathIsSymbolicLink) [[ -L $what ]] && ok=x ;;
    PathIsReadWrite) [[ -w $what ]] && ok=x ;;
    DirectoryNotEmpty) [[ -n $(ls -A "$what" 2>/dev/null) ]] && ok=x ;;
    FileNotEmpty) [[ -f $what && -s $what ]] && ok=x ;;
    FileIsExecutable) [[ -f $what && -x $what ]] && ok=x ;;
    *) echo "$unit: condition $kind is not understood here, and taken as true"; return ;;
    esac
    if [[ $not ]]; then ok=$([[ $ok ]] || echo x); fi
    if [[ $trigger ]]; then any=x any_ok+=$ok
    elif [[ ! $ok ]]; then skip="condition $kind=$not$what"
    fi
}
X() {
    local phase=$1 prefix=$2 rc
    shift 2
    if [[ $any && ! $any_ok && ! $skip ]]; then skip='conditions'; fi
    [[ $skip || $failed ]] && return
    ran=x
    if [[ $phase == main && $type == background ]]; then
        env "${envs[@]}" setsid "$@" </dev/null &
        return
    fi
    env "${envs[@]}" timeout -k 5 "$timeout" "$@" </dev/null
    rc=$?
    if [[ $phase == condition ]]; then
        ((rc == 0)) || skip="ExecCondition ($rc)"
        ((rc == 255)) && failed='ExecCondition (255)'
    elif ((rc)) && [[ $prefix != *-* ]]; then failed="exit $rc: $*"
    fi
}
Z() {
    if [[ $failed ]]; then
        bad+="$unit "
        echo "[FAILED] $unit: $failed"
        later+=" $onfail"
    elif [[ $skip ]]; then echo "[ SKIP ] $unit: $skip"
    elif [[ $ran || $unit != *.service ]]; then echo "[  OK  ] $unit"
    fi
}
later=''
eval "$(collect | awk -f <(printf '%s\n' "$planner") -v start=multi-user.target)"
for unit in $later; do
    eval "$(collect | awk -f <(printf '%s\n' "$planner") -v only="$unit")"
done

[[ $LAB_GUESTS ]] && guests_start
exec env -i PATH="$PATH" LANG=C.UTF-8 /usr/sbin/sshd -D -e
