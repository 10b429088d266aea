# shellcheck shell=bash
# The guests of a host, started the way libvirt does it: after the network, each tap put into its
# bridge. A guest is a process of the host with a network of its own, and dies with the host.
# Sourced by init.sh; LAB_GUESTS holds "name tap bridge address-part tap-MAC guest-MAC;" per guest.

guests_start() {
    local name tap bridge part near far pid i
    mkdir -p /run/libvirt/qemu
    while read -rd ';' name tap bridge part near far; do
        [[ -d /sys/class/net/$tap ]] && continue
        if [[ ! -d /sys/class/net/$bridge/bridge ]]; then
            echo "[FAILED] guest $name: no bridge $bridge"
            continue
        fi
        unshare --net setsid sleep infinity </dev/null >/dev/null 2>&1 &
        pid=$!
        for ((i = 0; i < 500; i++)); do
            [[ /proc/$pid/ns/net -ef /proc/self/ns/net ]] || break
            read -rt 0.005 _ <> <(:)
        done
        echo "$pid" >"/run/libvirt/qemu/$name.pid"
        ip -batch - <<E && nsenter "--net=/proc/$pid/ns/net" ip -batch - <<G && echo "[  OK  ] guest $name"
link add $tap address $near type veth peer name eth0 address $far netns $pid
link set $tap master $bridge up
E
link set lo up
addr add 192.168.1.$part/24 brd + dev eth0
addr add fd00:1::$part/64 dev eth0 nodad
link set eth0 up
G
    done <<<"$LAB_GUESTS"
    return 0
}

guests_stop() {
    local name tap pid
    while read -rd ';' name tap _; do
        { read -r pid <"/run/libvirt/qemu/$name.pid"; } 2>/dev/null && kill -KILL "$pid"
        rm -f "/run/libvirt/qemu/$name.pid"
        [[ -d /sys/class/net/$tap ]] && ip link del "$tap"
    done <<<"$LAB_GUESTS"
    return 0
}
