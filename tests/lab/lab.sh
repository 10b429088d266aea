#!/bin/bash
# Brings up KVM hosts on one machine, as namespaces. README.md says what a host is made of.
# Everything of a lab hangs off its id: network namespaces ID-ctl and ID-kvmN-nb, and processes whose
# pid and start time are on record. Nothing is ever found, or killed, by a name pattern.
set -u
here=${BASH_SOURCE[0]}
[[ $here == */* ]] || here=./$here
here=$(cd "${here%/*}" && pwd) || exit 1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
: "${TERM:=dumb}"

usage() {
    cat <<'TEXT'
usage: lab.sh COMMAND [--dir DIR] …          (DIR: else $LAB_DIR, else /run/lab)
  up [-n N] [--backend nft|legacy] [--shell dash|bash|busybox] [--bridges 1|2] [--no-guests]
     [--sysctl-order systemd|procps] [--persistent yes|no] [--disk folder|image] [--services yes|no]
  down                                  exec -- CMD…             (beside the hosts, as their controller)
  host NAME -- CMD…                     guest NAME G -- CMD…     neighbour NAME -- CMD…
  ssh NAME -- CMD…                      cut NAME both|to|from|new    mend NAME
  power-cut NAME   boot NAME   reboot NAME                       guests NAME start|stop
  dump NAME [--exclude PATH]…           klog NAME                list   status
TEXT
}
one_of() { # OPTION VALUE ALLOWED…
    local option=$1 value=$2
    shift 2
    [[ " $* " == *" $value "* ]] || die "--$option wants one of: $*"
}
die() { printf 'lab: %s\n' "$*" >&2; exit 1; }

# --- a lab and its parts --------------------------------------------------------------------------

load() {
    [[ -r $DIR/conf ]] || die "no lab in $DIR"
    # shellcheck source=/dev/null
    . "$DIR/conf"
}

number() { # NAME -> $num
    num=${1#kvm}
    [[ $1 == kvm[1-9]* && -d $DIR/hosts/$1 ]] || die "no host $1 in $DIR"
}
v4() { # NUMBER -> $addr4
    if (($1 <= 240)); then addr4=10.99.0.$((10 + $1)); else addr4=10.99.1.$(($1 - 240)); fi
}
v6() { printf -v addr6 'fd99::%x' $((10 + $1)); }
# MACs carry the lab's id and the host's number: XX:id:id:host:host:part.
mac() { printf -v mac '%s:%s:%s:%02x:%02x:%s' "$2" "${ID:3:2}" "${ID:5:2}" $(($1 >> 8)) $(($1 & 255)) "$3"; }

in_net() { local net=$1; shift; nsenter --net="/run/netns/$net" "$@"; }

# The start time tells a process from a later one with the same pid.
started() { # PID -> $start
    local stat
    start=
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    stat=${stat##*) }
    # shellcheck disable=SC2086 # split on purpose
    set -- $stat
    [[ $1 != Z ]] && start=${20}
}
alive() { # FILE with "pid start" -> $pid
    local was
    pid=
    { read -r pid was <"$1"; } 2>/dev/null || return 1
    started "$pid" && [[ $start == "$was" ]]
}
running() { alive "$DIR/hosts/$1/pid"; }
exec {never}<> <(:) # a pipe nothing is ever written to, to wait on without a process
pause() { read -rt "$1" -u "$never" _ || :; }

# Waits, in steps of 10 ms without a fork, until a command succeeds.
until_ok() { # STEPS COMMAND…
    local steps=$1
    shift
    while ! "$@"; do
        ((steps-- > 0)) || return 1
        pause 0.01
    done
}
gone() { ! alive "$DIR/hosts/$1/pid" && ! alive "$DIR/hosts/$1/launcher"; }
dead() { until_ok 1000 gone "$1" || die "$1 does not die"; }
listening() { # of a host: is its port 22 open? Asked of the kernel, so no firewall can hide it.
    local at state
    running "$1" || { alive "$DIR/hosts/$1/launcher" || return 0; return 1; }
    while read -r _ at _ state _; do
        [[ $at == *:0016 && $state == 0A ]] && return 0
    done 2>/dev/null <"/proc/$pid/net/tcp"
    return 1
}

# --- making it ------------------------------------------------------------------------------------

# The installed system all hosts are copies of: a small Debian /etc, with nothing in it of this
# machine's network, units, sysctls or SSH.
make_base() {
    local base=$DIR/base/etc f tool to uid
    mkdir -p "$base" && cd /etc || return 1
    for f in passwd group shadow gshadow login.defs nsswitch.conf host.conf protocols services ethertypes \
        networks rpc gai.conf ld.so.cache ld.so.conf ld.so.conf.d libaudit.conf localtime timezone os-release \
        debian_version profile bash.bashrc environment shells skel pam.conf pam.d security sudo.conf iproute2 \
        default xattr.conf terminfo inputrc adduser.conf bindresvport.blacklist; do
        [[ -e $f ]] && set -- "$@" "$f"
    done
    cp -a -- "$@" "$base/" && cd "$base" || return 1
    mkdir -p alternatives ssh/sshd_config.d network/if-{pre-up,up,down,post-down}.d network/interfaces.d \
        sysctl.d modules-load.d modprobe.d udev/rules.d iptables sudoers.d systemd/system/multi-user.target.wants \
        systemd/system/network-online.target.wants
    for f in awk nawk nc netcat pager editor vi which; do
        [[ -e /etc/alternatives/$f ]] && cp -a "/etc/alternatives/$f" alternatives/
    done
    for tool in iptables ip6tables arptables ebtables; do
        for f in '' -save -restore; do
            to=/usr/sbin/$tool-$BACKEND$f
            [[ -e $to ]] && ln -s "$to" "alternatives/$tool$f"
        done
    done
    [[ -x /lib/bridge-utils/ifupdown.sh ]] && for f in if-pre-up.d if-down.d if-post-down.d; do
        ln -s /lib/bridge-utils/ifupdown.sh "network/$f/bridge"
    done
    [[ $PERSISTENT == yes ]] || rmdir iptables
    for f in networking ssh; do
        ln -s "/lib/systemd/system/$f.service" systemd/system/multi-user.target.wants/
    done
    ln -s /lib/systemd/system/networking.service systemd/system/network-online.target.wants/
    [[ $PERSISTENT == yes ]] &&
        ln -s /lib/systemd/system/netfilter-persistent.service systemd/system/multi-user.target.wants/
    ln -s ../proc/self/mounts mtab
    echo '# Kernel sysctl configuration file, see sysctl.conf(5).' >sysctl.conf
    ln -s ../sysctl.conf sysctl.d/99-sysctl.conf
    touch resolv.conf modules fstab
    uid=2000
    sed -i -E '/^[^:]*:[^:]*:[1-9][0-9]{3}:/d; /^admin:/d' passwd
    echo "admin:x:$uid:$uid::/home/admin:/bin/bash" >>passwd
    sed -i '/^admin:/d' group
    echo "admin:x:$uid:" >>group
    # Without PAM, sshd takes a leading ! for a locked account.
    sed -i -E '/^admin:/d; s/^([^:]*):[^:]*:[^:]*:.*/\1:*:19000:0:99999:7:::/' shadow
    echo 'admin:*:19000:0:99999:7:::' >>shadow
    cat >sudoers <<'TEXT'
Defaults env_reset
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
root ALL=(ALL:ALL) ALL
@includedir /etc/sudoers.d
TEXT
    echo 'admin ALL=(ALL:ALL) NOPASSWD: ALL' >sudoers.d/admin
    chmod 440 sudoers sudoers.d/admin
    cat >ssh/sshd_config <<'TEXT'
Include /etc/ssh/sshd_config.d/*.conf
HostKey /etc/ssh/ssh_host_ed25519_key
KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxStartups 1000
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
TEXT
}

# A disk of its own, with a filesystem that loses in a power cut what was not synced.
make_disk() { # NAME
    local image=$DIR/hosts/$1/image
    mkdir -p "$DIR/hosts/$1/disk" && truncate -s 48M "$image" && mkfs.ext4 -q -m 0 -N 8192 "$image" &&
        mount -o loop "$image" "$DIR/hosts/$1/disk"
}
# From now on nothing reaches the image: as ext4 has it for tests of exactly this.
cut_disk() { # NAME
    local host=$DIR/hosts/$1
    # EXT4_IOC_SHUTDOWN, without flushing the log.
    perl -e 'my ($f, $how) = (undef, pack("L", 2));
        open($f, "<", $ARGV[0]) or die "$ARGV[0]: $!\n"; ioctl($f, 0x8004587d, $how) or die "ext4 does not shut down: $!\n"' "$host/disk" || return 1
    umount -l "$host/disk"
    # Namespaces that die at their leisure still hold the old one.
    cp --sparse=always "$host/image" "$host/image.new" && mv "$host/image.new" "$host/image" &&
        mount -o loop "$host/image" "$host/disk"
}

# One host's disk: made once, kept by a power cut.
make_host() { # NUMBER
    local name=kvm$1 host=$DIR/hosts/kvm$1 disk=$DIR/hosts/kvm$1/disk home
    v4 "$1"; v6 "$1"; mac "$1" 02 01
    if [[ $DISK == image ]]; then make_disk "$name" || return 1; fi
    mkdir -p "$disk"/{root/.ssh,home/admin/.ssh} \
        "$disk"/var/{cache,lib/misc,lib/sudo/lectured,local,log,mail,opt,spool,tmp} || return 1
    ln -s /run "$disk/var/run"
    ln -s /run/lock "$disk/var/lock"
    chmod 1777 "$disk/var/tmp"
    cp -a "$DIR/base/etc" "$disk/" || return 1
    for home in root home/admin; do
        cp "$DIR/id_ed25519.pub" "$disk/$home/.ssh/authorized_keys"
        chmod 700 "$disk/$home" "$disk/$home/.ssh"
    done
    chown -R 2000:2000 "$disk/home/admin"
    echo "$name" >"$disk/etc/hostname"
    printf '%s\n' '127.0.0.1 localhost' "127.0.1.1 $name" '::1 localhost ip6-localhost' >"$disk/etc/hosts"
    printf '%032x\n' "0x${ID:3}$(printf %04x "$1")" >"$disk/etc/machine-id"
    ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$disk/etc/ssh/ssh_host_ed25519_key" || return 1
    printf '%s,%s,%s %s\n' "$name" "$addr4" "$addr6" "$(<"$disk/etc/ssh/ssh_host_ed25519_key.pub")" >"$host/known_host"
    # hwaddress and not bridge_hw: the Debian hook sleeps a whole second for the latter. The MAC is the
    # uplink's, as is usual; by the time hwaddress comes, the bridge is up and has made its fe80:: address.
    cat >"$disk/etc/network/interfaces" <<TEXT
source /etc/network/interfaces.d/*

auto lo
iface lo inet loopback

auto eth0
iface eth0 inet static
    address $addr4/16
iface eth0 inet6 static
    address $addr6/64
    dad-attempts 0

auto br123
iface br123 inet static
    address 192.168.1.254/24
    hwaddress $mac
    bridge_ports eth1
    bridge_stp off
    bridge_fd 0
    bridge_maxwait 0
iface br123 inet6 static
    address fd00:1::fe/64
    dad-attempts 0
TEXT
    ((BRIDGES < 2)) && return
    mac "$1" 02 11
    cat >>"$disk/etc/network/interfaces" <<TEXT

auto br124
iface br124 inet manual
    pre-up ip link add \$IFACE address $mac type bridge
    bridge_ports none
    bridge_stp off
    bridge_fd 0
    bridge_maxwait 0
TEXT
}

# What the guest part of init.sh wants to know: "name bridge last-part-of-the-address host-MAC guest-MAC" per guest.
guest_list() { # NUMBER -> $guest_list
    local g near far
    guest_list=
    for g in 0 1 2 3; do
        ((g < 2 || BRIDGES == 2)) || break
        mac "$1" fe "2$g"; near=$mac
        mac "$1" 52 "2$g"; far=$mac
        guest_list+="g$g vnet$g br$((123 + g / 2)) $((1 + g % 2)) $near $far;"
    done
}

boot_host() { # NAME
    local name=$1 host=$DIR/hosts/$1 eth0 eth1 port far
    running "$name" && return 0
    number "$name"
    mac "$num" 02 00; eth0=$mac
    mac "$num" 02 01; eth1=$mac
    mac "$num" 02 f0; port=$mac
    mac "$num" 02 f1; far=$mac
    guest_list "$num"
    [[ -e /run/netns/$ID-$name-nb ]] || ip netns add "$ID-$name-nb" || return 1
    rm -f "$host/pid" "$host/launcher"
    # /etc and the rest first, what hides the lab directory last.
    cat >"$host/fstab" <<TEXT
$host/disk/etc  /etc  none bind
$host/disk/var  /var  none bind
$host/disk/root /root none bind
$host/disk/home /home none bind
host-proc /proc proc nosuid,nodev,noexec
host-sys /sys sysfs nosuid,nodev,noexec
host-shm /dev/shm tmpfs nosuid,nodev,mode=1777
TEXT
    [[ -e /proc/sysrq-trigger ]] && echo '/dev/null /proc/sysrq-trigger none bind' >>"$host/fstab"
    case $SHELL_ in
    dash) ;;
    bash) echo '/bin/bash /bin/sh none bind' >>"$host/fstab" ;;
    busybox) echo "$(type -P busybox) /bin/sh none bind" >>"$host/fstab" ;;
    esac
    [[ $SERVICES == yes ]] && printf '%s\n' "$here/services/systemd-run /usr/bin/systemd-run none bind" \
        "$here/services/systemctl /usr/bin/systemctl none bind" >>"$host/fstab"
    printf '%s\n' 'host-tmp /tmp tmpfs nosuid,nodev,mode=1777' 'host-run /run tmpfs nosuid,nodev,mode=755' >>"$host/fstab"
    # The launcher goes on record before it leaves the process group: see cmd_down.
    # shellcheck disable=SC2016 # for the inner shell
    env -i PATH="$PATH" LANG=C.UTF-8 LAB_HERE="$here" LAB_ID="$ID" LAB_NAME="$name" LAB_NUM="$num" LAB_HOST="$host" \
        LAB_ETH0="$eth0" LAB_ETH1="$eth1" LAB_PORT="$port" LAB_FAR="$far" LAB_ORDER="$ORDER" \
        LAB_SERVICES="$SERVICES" \
        LAB_GUESTS="$([[ $GUESTS == yes ]] && echo "$guest_list")" \
        /bin/bash -c 'read -r stat </proc/self/stat; set -- ${stat##*) }; echo "$$ ${20}" >"$LAB_HOST/launcher"
            exec setsid unshare --mount --uts --ipc --net --pid --fork --kill-child /bin/bash "$LAB_HERE/init.sh"' \
        </dev/null >>"$host/console.log" 2>&1 &
    until_ok 500 test -s "$host/launcher"
    if ! until_ok 6000 listening "$name" || ! running "$name"; then
        tail -n 20 "$host/console.log" >&2
        printf 'lab: %s did not come up\n' "$name" >&2
        return 1
    fi
}

power_cut() { # NAME
    local host=$DIR/hosts/$1
    alive "$host/pid" && kill -KILL "$pid"
    alive "$host/launcher" && kill -KILL "$pid" # takes a half-started init with it
    dead "$1"
    rm -f "$host/pid" "$host/launcher"
    if [[ $DISK == image ]]; then cut_disk "$1" || return 1; fi
    # The kernel takes namespaces down at its leisure; the cables go now.
    in_net "$ID-ctl" ip link del "$1" 2>/dev/null
    [[ -e /run/netns/$ID-$1-nb ]] && in_net "$ID-$1-nb" ip link del eth0 2>/dev/null
    return 0
}

cmd_up() {
    local n=1 tool began=$EPOCHREALTIME
    BACKEND=nft SHELL_=dash GUESTS=yes ORDER=systemd PERSISTENT=no BRIDGES=1 DISK=folder SERVICES=no
    while (($#)); do
        case $1 in
        -n) n=$2; shift 2 ;;
        --backend) BACKEND=$2; shift 2 ;;
        --shell) SHELL_=$2; shift 2 ;;
        --no-guests) GUESTS=no; shift ;;
        --sysctl-order) ORDER=$2; shift 2 ;;
        --persistent) PERSISTENT=$2; shift 2 ;;
        --bridges) BRIDGES=$2; shift 2 ;;
        --disk) DISK=$2; shift 2 ;;
        --services) SERVICES=$2; shift 2 ;;
        *) usage >&2; exit 2 ;;
        esac
    done
    one_of backend "$BACKEND" nft legacy
    one_of shell "$SHELL_" dash bash busybox
    one_of sysctl-order "$ORDER" systemd procps
    one_of persistent "$PERSISTENT" yes no
    one_of bridges "$BRIDGES" 1 2
    one_of disk "$DISK" folder image
    one_of services "$SERVICES" yes no
    if [[ ! $n =~ ^[1-9][0-9]{0,2}$ ]] || ((n > 494)); then die '-n wants 1 to 494'; fi
    [[ $EUID == 0 ]] || die 'must be root'
    for tool in ip nsenter unshare setsid sshd ssh-keygen ifup brctl iptables-nft iptables-legacy sudo awk ping busybox dmesg; do
        type -P "$tool" >/dev/null || die "$tool is missing"
    done
    [[ -e $DIR ]] && die "$DIR exists; is a lab up? (lab.sh down --dir $DIR)"
    DIR=$(realpath -m -- "$DIR")
    [[ $DIR =~ ^/[A-Za-z0-9._/-]+$ ]] || die 'the directory may hold letters, digits and ._/- only'
    mkdir -p "$DIR/hosts" && chmod 700 "$DIR" || exit 1
    trap 'cmd_down; exit 130' INT TERM
    set -m # a process group for all who make it, for cmd_down to kill
    make_lab "$n" &
    set +m
    if ! wait $!; then
        cmd_down
        exit 1
    fi
    trap - INT TERM
    load
    rm -f "$DIR/up"
    printf '%s: %d hosts in %s, %s s\n' "$ID" "$n" "$DIR" "$(awk "BEGIN { printf \"%.2f\", $EPOCHREALTIME - $began }")" >&2
}
make_lab() { # HOW MANY
    local n=$1 i jobs=0 failed=0
    started "$BASHPID" && echo "$BASHPID $start" >"$DIR/up"
    # Two labs may start at once: the name itself is the lock.
    for ((i = 0; ; i++)); do
        printf -v ID '%04x' "$SRANDOM"
        ID=lab${ID: -4}
        flock /run ip netns add "$ID-ctl" 2>/dev/null && break
        ((i < 50)) || die 'cannot make a network namespace'
    done
    echo "$ID" >"$DIR/id"
    # A lab's kernel log starts here, in seconds since the machine's boot.
    read -r SINCE _ </proc/uptime
    declare -p ID BACKEND SHELL_ GUESTS ORDER PERSISTENT BRIDGES DISK SERVICES SINCE | sed 's/^declare [-a-z]* //' >"$DIR/conf"
    echo 1 >/proc/sys/net/netfilter/nf_log_all_netns
    make_controller "$n" || die 'cannot set up the controller side'
    if ! ssh-keygen -q -t ed25519 -N '' -C "$ID" -f "$DIR/id_ed25519" || ! (make_base); then
        die 'cannot make the base system'
    fi
    for ((i = 1; i <= n; i++)); do
        # More at once only make each slower.
        if ((jobs == 8)); then wait -n || failed=1; ((jobs--)); fi
        { make_host "$i" && boot_host "kvm$i"; } &
        ((++jobs))
    done
    for ((; jobs > 0; jobs--)); do wait -n || failed=1; done
    ((failed)) && die 'not all hosts came up'
    cat "$DIR"/hosts/*/known_host >"$DIR/known_hosts"
    {
        for ((i = 1; i <= n; i++)); do
            v4 "$i"
            printf 'Host kvm%d\n    HostName %s\n' "$i" "$addr4"
        done
        cat <<TEXT
Host *
    User root
    IdentityFile $DIR/id_ed25519
    IdentitiesOnly yes
    UserKnownHostsFile $DIR/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    KexAlgorithms curve25519-sha256
    BatchMode yes
    ConnectTimeout 5
TEXT
    } >"$DIR/ssh_config"
}
make_controller() { # HOW MANY HOSTS
    in_net "$ID-ctl" /bin/bash -s "$1" <<'TEXT'
ip -batch - <<E || exit 1
link set lo up
link add sw0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link set sw0 up
addr add 10.99.0.1/16 dev sw0
addr add fd99::1/64 dev sw0 nodad
E
cd /proc/sys/net || exit 1
for f in bridge/bridge-nf-call-*; do [[ -e $f ]] && echo 0 >"$f"; done
echo 1 >ipv6/conf/default/disable_ipv6
# One pair of chains per host, for cut and mend to fill.
rules() { # FAMILY HOSTS
    echo '*filter'
    for ((i = 1; i <= $2; i++)); do echo ":to-kvm$i - [0:0]"; echo ":from-kvm$i - [0:0]"; done
    for ((i = 1; i <= $2; i++)); do
        if [[ $1 == 6 ]]; then printf -v a 'fd99::%x' $((10 + i))
        elif ((i <= 240)); then a=10.99.0.$((10 + i)); else a=10.99.1.$((i - 240)); fi
        echo "-A OUTPUT -d $a -j to-kvm$i"
        echo "-A INPUT -s $a -j from-kvm$i"
    done
    echo COMMIT
}
rules 4 "$1" | iptables-nft-restore && rules 6 "$1" | ip6tables-nft-restore
TEXT
}

cmd_down() {
    local host name net p
    [[ -e $DIR ]] || return 0
    [[ -d $DIR/hosts ]] || die "$DIR is no lab"
    { read -r ID <"$DIR/id"; } 2>/dev/null || ID=none
    # First whoever is still making it: nothing new may start from here on.
    if alive "$DIR/up"; then
        kill -KILL -- "-$pid"
        until_ok 500 quiet "$pid"
    fi
    for host in "$DIR"/hosts/*/; do
        alive "$host/pid" && kill -KILL "$pid"
        alive "$host/launcher" && kill -KILL "$pid"
    done
    if [[ $ID == lab[0-9a-f][0-9a-f][0-9a-f][0-9a-f] ]]; then
        # Whoever still runs beside the hosts (exec, neighbour) goes too, but not the caller of this.
        for net in /run/netns/"$ID"-*; do
            [[ -e $net ]] || continue
            for p in $(ip netns pids "${net##*/}" 2>/dev/null); do
                mine "$p" || kill -KILL "$p" 2>/dev/null
            done
        done
    fi
    for host in "$DIR"/hosts/*/; do
        name=${host%/}; name=${name##*/}
        dead "$name"
    done
    if [[ $ID == lab[0-9a-f][0-9a-f][0-9a-f][0-9a-f] ]]; then
        for net in /run/netns/"$ID"-*; do
            [[ -e $net ]] && ip netns del "${net##*/}"
        done
    fi
    for host in "$DIR"/hosts/*/; do
        [[ ! -e ${host}image ]] || umount -l "${host}disk" 2>/dev/null
    done
    rm -rf --one-file-system -- "$DIR"
}
quiet() { ! kill -0 -- "-$1" 2>/dev/null; } # a process group: is nobody left?
mine() { # is this PID the caller, or one of its parents?
    local p=$$
    while ((p > 1)); do
        [[ $p == "$1" ]] && return 0
        p=$(awk '$1 == "PPid:" { print $2 }' "/proc/$p/status" 2>/dev/null) || return 1
        [[ -n $p ]] || return 1
    done
    return 1
}

# --- using it -------------------------------------------------------------------------------------

clean=(env -i HOME=/root USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 "PATH=$PATH" "TERM=$TERM")
enter() { # NAME -> $pid
    number "$1"
    running "$1" || die "$1 is down"
}
cmd_host() {
    enter "$1"; shift
    exec nsenter --target "$pid" --mount --uts --ipc --net --pid "${clean[@]}" "$@"
}
cmd_guest() {
    local name=$1 inner
    enter "$1"
    { read -r inner <"/proc/$pid/root/run/libvirt/qemu/$2.pid"; } 2>/dev/null || die "$name has no running guest $2"
    shift 2
    exec nsenter --target "$pid" --mount --uts --ipc --pid "--net=/proc/$pid/root/proc/$inner/ns/net" "${clean[@]}" "$@"
}
cmd_neighbour() {
    number "$1"
    local net=/run/netns/$ID-$1-nb
    shift
    exec nsenter "--net=$net" "$@"
}
cmd_ssh() {
    number "$1"
    exec nsenter "--net=/run/netns/$ID-ctl" ssh -F "$DIR/ssh_config" "$@"
}
cmd_cut() {
    local to='' from='' new=''
    number "$1"
    case $2 in
    both) to=x from=x ;;
    to) to=x ;;
    from) from=x ;;
    new) new=x ;;
    none) ;;
    *) die 'cut how? both, to, from or new' ;;
    esac
    # ND always passes, so that a cut is silent in v6 too.
    rules() { # HOST FAMILY
        echo '*filter'
        echo ":to-$1 - [0:0]"
        echo ":from-$1 - [0:0]"
        [[ $2 == 6 ]] && for t in 135 136; do
            echo "-A to-$1 -p ipv6-icmp --icmpv6-type $t -j RETURN"
            echo "-A from-$1 -p ipv6-icmp --icmpv6-type $t -j RETURN"
        done
        [[ $to ]] && echo "-A to-$1 -j DROP"
        [[ $from ]] && echo "-A from-$1 -j DROP"
        [[ $new ]] && echo "-A to-$1 -p tcp --syn -j DROP"
        echo COMMIT
    }
    rules "$1" 4 | in_net "$ID-ctl" iptables-nft-restore --noflush &&
        rules "$1" 6 | in_net "$ID-ctl" ip6tables-nft-restore --noflush
}
cmd_reboot() {
    enter "$1"
    # shellcheck disable=SC2016 # for the host's shell
    nsenter --target "$pid" --mount --pid /bin/bash -c '
        kill -TERM -1
        for ((i = 0; i < 200; i++)); do
            left=
            for p in /proc/[0-9]*; do
                p=${p#/proc/}
                [[ $p == 1 || $p == $$ || ! -s /proc/$p/cmdline ]] || left=x
            done
            [[ $left ]] || exit 0
            read -rt 0.01 _ <> <(:)
        done'
    # What a shutdown unmounts is written.
    [[ $DISK == folder ]] || sync -f "$DIR/hosts/$1/disk"
    power_cut "$1"
    boot_host "$1"
}
cmd_guests() {
    enter "$1"
    [[ $2 == start || $2 == stop ]] || die 'guests start, or stop?'
    guest_list "$num"
    nsenter --target "$pid" --mount --uts --ipc --net --pid env -i "PATH=$PATH" LANG=C.UTF-8 "LAB_GUESTS=$guest_list" \
        /bin/bash -c "$(<"$here/guests.sh"); guests_$2" </dev/null >>"$DIR/hosts/$1/console.log" 2>&1
}
cmd_dump() {
    enter "$1"; shift
    exec nsenter --target "$pid" --mount --uts --ipc --net --pid "${clean[@]}" LC_ALL=C /bin/bash -c "$(<"$here/dump.sh")" dump "$@"
}
# A line is the host's if it came in through eth0 for the host's own MAC, or through any other
# interface from or to a MAC of the host or its guests. Lines without a MAC (OUTPUT) carry nothing
# that tells one lab from another.
cmd_klog() {
    number "$1"
    mac "$num" 02 00
    dmesg | awk -v since="$SINCE" -v eth0="$mac" -v part="$(printf '%s:%s:%02x:%02x:' "${ID:3:2}" "${ID:5:2}" $((num >> 8)) $((num & 255)))" '
        { t = $0; sub(/^\[ */, "", t); if (t + 0 < since + 0) next }
        match($0, / MAC=[0-9a-f:]+/) {
            macs = substr($0, RSTART + 5, RLENGTH - 5)
            to = substr(macs, 1, 17)
            if ($0 ~ /IN=eth0 /) { if (to == eth0) print }
            else if (substr(to, 4, 12) == part || substr(macs, 22, 12) == part) print
        }'
}
cmd_list() {
    local i host
    for ((i = 1; ; i++)); do
        host=kvm$i
        [[ -d $DIR/hosts/$host ]] || break
        v4 "$i"; v6 "$i"
        if running "$host"; then printf '%s %s %s up %s\n' "$host" "$addr4" "$addr6" "$pid"
        else printf '%s %s %s down\n' "$host" "$addr4" "$addr6"; fi
    done
}
cmd_status() {
    cat "$DIR/conf"
    cmd_list
}

(($#)) || { usage >&2; exit 2; }
command=$1
shift
DIR=${LAB_DIR:-/run/lab}
words=()
while (($#)); do
    case $1 in
    --dir) DIR=${2-}; shift 2 ;;
    --dir=*) DIR=${1#*=}; shift ;;
    --) shift; break ;;
    *) words+=("$1"); shift ;;
    esac
done
need() { # arguments before --, and whether a command must follow it
    if ((${#words[@]} != $1)) || [[ $2 == cmd && $3 == 0 ]]; then
        usage >&2
        exit 2
    fi
}
case $command in
up) cmd_up "${words[@]}"; exit ;;
down) cmd_down; exit ;;
help | -h | --help) usage; exit ;;
esac
load
case $command in
exec) need 0 cmd $#; exec nsenter "--net=/run/netns/$ID-ctl" "$@" ;;
host) need 1 cmd $#; cmd_host "${words[0]}" "$@" ;;
guest) need 2 cmd $#; cmd_guest "${words[@]}" "$@" ;;
neighbour) need 1 cmd $#; cmd_neighbour "${words[0]}" "$@" ;;
ssh) need 1 '' 0; cmd_ssh "${words[0]}" "$@" ;;
cut) need 2 '' 0; cmd_cut "${words[@]}" ;;
mend) need 1 '' 0; cmd_cut "${words[0]}" none ;;
power-cut) need 1 '' 0; number "${words[0]}"; power_cut "${words[0]}" ;;
boot) need 1 '' 0; boot_host "${words[0]}" ;;
reboot) need 1 '' 0; cmd_reboot "${words[0]}" ;;
guests) need 2 '' 0; cmd_guests "${words[@]}" ;;
dump) ((${#words[@]})) || { usage >&2; exit 2; }; cmd_dump "${words[@]}" ;;
klog) need 1 '' 0; cmd_klog "${words[0]}" ;;
list) cmd_list ;;
status) cmd_status ;;
*) usage >&2; exit 2 ;;
esac
