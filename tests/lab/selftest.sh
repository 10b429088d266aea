#!/bin/bash
# Proves the lab: brings labs up, uses every command, and looks for what a lab leaves behind.
# shellcheck disable=SC2016 # what stands in single quotes is for other shells
set -u
here=${BASH_SOURCE[0]}
[[ $here == */* ]] || here=./$here
here=$(cd "${here%/*}" && pwd) || exit 1
top=$(mktemp -d /run/lab-selftest.XXXXXX) || exit 1
export LAB_DIR=$top/a
failed=0 passed=0
# shellcheck disable=SC2154
trap 'for d in "$top"/*/; do [[ -d $d ]] && "$here/lab.sh" down --dir "${d%/}"; done; rm -rf "$top"' EXIT
trap 'exit 130' INT TERM

lab() { "$here/lab.sh" "$@"; }
ok() { # WHAT COMMAND…
    local what=$1
    shift
    if "$@" >"$top/out" 2>&1; then ((++passed)); else
        ((++failed))
        printf 'FAILED: %s\n' "$what"
        sed 's/^/    /' "$top/out"
    fi
}
fails() { ! "$@"; }
says() { local want=$1; shift; local got; got=$("$@"); [[ $got == "$want" ]] || { printf 'want %s, got %s\n' "$want" "$got"; false; }; }
has() { local want=$1; shift; "$@" 2>&1 | tee /dev/stderr | grep -q -- "$want"; }
ssh_to() { lab exec -- ssh -F "$LAB_DIR/ssh_config" -o ConnectTimeout=1 "$@"; }
ping_from() { lab guest "$1" "$2" -- ping -n -c1 -W1 "$3"; }
took() { # WHAT COMMAND…
    local what=$1 began=$EPOCHREALTIME
    shift
    ok "$what" "$@"
    awk "BEGIN { printf \"%-34s %.2f s\n\", \"$what\", $EPOCHREALTIME - $began }"
}
# All processes in the namespaces of a lab, by the namespaces' numbers.
namespaces() {
    local f id
    id=$(<"$LAB_DIR/id")
    for f in /run/netns/"$id"-*; do stat -Lc 'net:[%i]' "$f"; done
    for f in "$LAB_DIR"/hosts/*/pid; do
        read -r pid _ <"$f" && for ns in net mnt pid uts ipc; do readlink "/proc/$pid/ns/$ns"; done
    done
}
leftovers() { # FILE with namespaces
    local p ns
    for p in /proc/[0-9]*; do
        for ns in net mnt pid_for_children uts ipc; do readlink "$p/ns/$ns"; done
    done 2>/dev/null | sort -u | sed 's/pid_for_children/pid/' | grep -xF -f "$1"
    cat /proc/[0-9]*/mountinfo 2>/dev/null | grep -F "$2"
    ip netns list | grep "^$3-"
    [[ -e $2 ]] && echo "$2 is still there"
}
down_clean() {
    local id dir=$LAB_DIR i
    id=$(<"$dir/id")
    namespaces | sort -u >"$top/ns"
    lab down || return 1
    for ((i = 0; i < 50; i++)); do # the machine's init may take its time to reap
        leftovers "$top/ns" "$dir" "$id" >"$top/left"
        [[ -s $top/left ]] || return 0
        sleep 0.1
    done
    cat "$top/left"
    return 1
}

# --- three hosts, everything default ---------------------------------------------------------------
took 'up -n 3' lab up -n 3
ok 'list' says 3 bash -c '"$0" list | grep -c " up "' "$here/lab.sh"
for h in 1 2 3; do
    ok "kvm$h: guest to guest" ping_from kvm$h g0 192.168.1.2
    ok "kvm$h: guest to guest, v6" ping_from kvm$h g0 fd00:1::2
    ok "kvm$h: guest to host" ping_from kvm$h g1 192.168.1.254
    ok "kvm$h: guest to host, v6" ping_from kvm$h g1 fd00:1::fe
    ok "kvm$h: guest to neighbour" ping_from kvm$h g1 192.168.1.53
    ok "kvm$h: guest to neighbour, v6" ping_from kvm$h g1 fd00:1::53
    ok "kvm$h: neighbour to guest" lab neighbour kvm$h -- ping -n -c1 -W1 192.168.1.1
    ok "kvm$h: ssh" says kvm$h ssh_to kvm$h uname -n
    v6=$(printf 'fd99::%x' $((10 + h)))
    ok "kvm$h: ssh, v6" says kvm$h ssh_to "$v6" uname -n
    ok "kvm$h: ssh as admin" says 0 ssh_to admin@kvm$h sudo -n id -u
done
ok 'host to host' lab host kvm1 -- ping -n -c1 -W1 10.99.0.12
ok 'no systemd' lab host kvm1 -- test ! -e /run/systemd/system
ok 'own hostname' says kvm2 lab host kvm2 -- uname -n
ok 'own /sys' lab host kvm2 -- test -d /sys/class/net/br123/brif/vnet1
ok 'the machine is read-only' fails lab host kvm1 -- touch /usr/lib/x
ok 'nested namespace' lab host kvm1 -- unshare -n iptables-save
ok 'tools' lab host kvm1 -- sh -c 'for t in ip iptables flock awk ping setsid nc conntrack; do command -v $t || exit 1; done'
ok 'exit status' says 7 bash -c '"$0" host kvm1 -- sh -c "exit 7"; echo $?' "$here/lab.sh"

# --- cut and mend ----------------------------------------------------------------------------------
for how in both to from new; do
    ok "cut $how" lab cut kvm1 $how
    ok "cut $how: no ssh" fails ssh_to kvm1 true
    ok "cut $how: no ssh, v6" fails ssh_to fd99::b true
    ok "cut $how: others live" ssh_to kvm2 true
    ok "cut $how: host command" lab host kvm1 -- true
    ok "mend after $how" lab mend kvm1
    ok "mended after $how" ssh_to kvm1 true
    ok "mended after $how, v6" ssh_to fd99::b true
done
coproc session { ssh_to kvm1 'while read -r x; do echo "got $x"; done'; }
ask() { echo "$1" >&"${session[1]}" && read -rt 3 answer <&"${session[0]}" && [[ $answer == "got $1" ]]; }
ok 'session' ask one
lab cut kvm1 new
ok 'cut new: an old session lives' ask two
ok 'cut new: ping lives' lab exec -- ping -n -c1 -W1 10.99.0.11
lab cut kvm1 from
ok 'cut from: an old session stalls' fails ask three
lab mend kvm1
eval "exec ${session[1]}>&-"
wait

# --- dump ------------------------------------------------------------------------------------------
lab dump kvm1 >"$top/dump1"
lab dump kvm1 >"$top/dump2"
ok 'dump is stable' diff "$top/dump1" "$top/dump2"
ok 'dump registers no legacy table' lab host kvm1 -- sh -c '! grep . /proc/net/ip_tables_names'
lab host kvm1 -- iptables -A INPUT -s 192.0.2.1 -j ACCEPT
lab dump kvm1 >"$top/dump2"
ok 'dump sees a rule' fails diff "$top/dump1" "$top/dump2"
lab host kvm1 -- sh -c 'echo x >/etc/sysctl.d/x.conf; sysctl -qw net.ipv4.ip_forward=1'
lab dump kvm1 >"$top/dump1"
ok 'dump sees a file' grep -q '^/etc/sysctl.d/x.conf' "$top/dump1"
ok 'dump leaves a file out' fails grep -q x.conf <(lab dump kvm1 --exclude /etc/sysctl.d)

# --- kernel log ------------------------------------------------------------------------------------
for h in 1 2; do
    lab host kvm$h -- iptables -A INPUT -p icmp -j LOG --log-prefix "seen by $h "
    lab host kvm$h -- iptables -A FORWARD -p icmp -j LOG --log-prefix "bridged by $h "
    lab host kvm$h -- ping -n -c1 -W1 10.99.0.13 >/dev/null
    ping_from kvm$h g0 192.168.1.2 >/dev/null
done
ok 'klog INPUT' has 'seen by 1 IN=eth0' lab klog kvm1
ok 'klog FORWARD' has 'bridged by 1 IN=br123 OUT=br123 PHYSIN=vnet0' lab klog kvm1
ok 'klog is the host'\''s own' fails has 'by 2' lab klog kvm1

# --- power ------------------------------------------------------------------------------------------
lab host kvm1 -- sh -c '
    echo net.ipv4.conf.all.arp_ignore=2 >/etc/sysctl.d/60-test.conf
    echo volatile >/run/volatile; echo kept >/var/lib/kept
    cd /etc/systemd/system
    cat >early.service <<U
[Unit]
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target
After=systemd-sysctl.service
ConditionPathExists=/var/lib/kept
[Service]
Type=oneshot
Environment=WORD=two
ExecStart=/bin/sh -c '\''echo "early \$\$(cat /proc/sys/net/ipv4/conf/all/arp_ignore) ;\${WORD}; %%" >>/var/log/boot; test ! -e /sys/class/net/br123'\'' x
[Install]
WantedBy=multi-user.target
U
    cat >late.service <<U
[Service]
Type=oneshot
ExecStart=-/bin/false
ExecStart=/bin/sh -c "echo late >>/var/log/boot; test -e /sys/class/net/br123"
U
    printf "%s\n" "[Unit]" "ConditionPathExists=!/var/lib/kept" "[Service]" "ExecStart=/bin/sh -c \"echo never >>/var/log/boot\"" >never.service
    printf "%s\n" "[Unit]" "[Service]" "Type=oneshot" "ExecStart=/bin/false" >broken.service
    printf "%s\n" "[Unit]" "Requires=broken.service" "After=broken.service" "[Service]" "ExecStart=/bin/sh -c \"echo never >>/var/log/boot\"" >needs.service
    for u in early late never broken needs; do ln -s ../$u.service multi-user.target.wants/; done'
took 'power-cut' lab power-cut kvm1
ok 'down is down' fails lab host kvm1 -- true
ok 'list shows it' has 'kvm1 .* down' lab list
ok 'others go on' ping_from kvm2 g0 192.168.1.53
took 'boot' lab boot kvm1
ok 'guests are back' ping_from kvm1 g0 192.168.1.53
ok 'ssh is back' ssh_to kvm1 true
ok 'sysctl.d took effect' says 2 lab host kvm1 -- cat /proc/sys/net/ipv4/conf/all/arp_ignore
ok 'units ran in order' says 'early 2 ;two; %
late' lab host kvm1 -- cat /var/log/boot
ok 'failures are on the console' grep -q 'FAILED. needs.service: dependency broken.service' "$LAB_DIR/hosts/kvm1/console.log"
ok 'early found no network' grep -q 'OK  . early.service' "$LAB_DIR/hosts/kvm1/console.log"
ok 'rules are gone' says '' lab host kvm1 -- iptables-save
ok '/run is gone' lab host kvm1 -- test ! -e /run/volatile
ok '/var is kept' lab host kvm1 -- test -e /var/lib/kept
lab dump kvm1 >"$top/dump1"
took 'reboot' lab reboot kvm1
lab dump kvm1 >"$top/dump2"
ok 'a boot always gives the same' diff "$top/dump1" "$top/dump2"
ok 'guests stop' lab guests kvm1 stop
ok 'no tap' lab host kvm1 -- test ! -e /sys/class/net/vnet0
ok 'guests start' lab guests kvm1 start
ok 'guest after start' ping_from kvm1 g1 fd00:1::53
lab dump kvm1 >"$top/dump2"
ok 'and the same again' diff "$top/dump1" "$top/dump2"
ok 'nft backend' has nf_tables lab host kvm1 -- iptables -V
ok 'dash' lab host kvm1 -- cmp /bin/sh /usr/bin/dash

# --- a second lab beside the first, made differently ------------------------------------------------
LAB_DIR=$top/b
took 'up, legacy, bash, two bridges' lab up --backend legacy --shell bash --bridges 2 --sysctl-order procps --persistent yes
ok 'second lab: ssh' says kvm1 ssh_to kvm1 uname -n
ok 'first lab still there' lab ssh kvm1 --dir "$top/a" -- true
ok 'legacy backend' has legacy lab host kvm1 -- iptables -V
ok 'bash' lab host kvm1 -- sh -c "test -n \"\$BASH_VERSION\""
ok 'tenants overlap: first' ping_from kvm1 g0 192.168.1.2
ok 'tenants overlap: second' ping_from kvm1 g2 192.168.1.2
ok 'second bridge has no neighbour' fails ping_from kvm1 g2 192.168.1.53
lab host kvm1 -- sh -c 'iptables -A INPUT -s 192.0.2.1 -j DROP; iptables-save >/etc/iptables/rules.v4
    echo net.ipv4.conf.all.arp_ignore=1 >/etc/sysctl.conf
    echo net.ipv4.conf.all.arp_ignore=2 >/etc/sysctl.d/99-zz.conf'
lab dump kvm1 >"$top/dump1"
ok 'dump shows legacy' grep -q 192.0.2.1 "$top/dump1"
ok 'second lab: power-cut' lab power-cut kvm1
ok 'second lab: boot' lab boot kvm1
ok 'persistent rules are back' has 192.0.2.1 lab host kvm1 -- iptables-save
ok 'sysctl in procps order' says 1 lab host kvm1 -- cat /proc/sys/net/ipv4/conf/all/arp_ignore
ok 'second lab: down leaves nothing' down_clean
LAB_DIR=$top/c
ok 'up, busybox, no guests' lab up --shell busybox --no-guests
ok 'busybox' has BusyBox lab host kvm1 -- sh --help
ok 'no guests' fails lab guest kvm1 g0 -- true
ok 'busybox: ssh' ssh_to kvm1 true
ok 'third lab: down leaves nothing' down_clean
ok 'down twice' lab down
LAB_DIR=$top/a
ok 'first lab alive' ssh_to kvm3 true
{ lab exec -- sleep 1000; } 2>/dev/null &
took 'down' down_clean
wait 2>/dev/null

# --- labs that were never finished ------------------------------------------------------------------
LAB_DIR=$top/d
for after in 0.05 0.10 0.15 0.25 0.35 0.45; do
    "$here/lab.sh" up -n 4 >/dev/null 2>&1 &
    disown
    sleep $after
    ok "still being made after $after s" kill -KILL $!
    sleep 0.02
    { read -r id <"$LAB_DIR/id"; } 2>/dev/null || id=none
    ok "down of a lab half-started for $after s" lab down
    ok "nothing left of it after $after s" says '' leftovers /dev/null "$LAB_DIR" "$id"
done

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
