#!/bin/bash
# A host that boots: a container with systemd as PID 1, with a network of its own and a disk that a power
# cut leaves alone.
#
#   machine.sh make FOLDER ROOT     its disk, over ROOT, and the controller's end of its cables
#   machine.sh boot FOLDER          plugs in fresh cables and boots; ends with the host
#   machine.sh down FOLDER          takes all of it away
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
folder=$2
# Of the folder's name, so that several run side by side.
id=$(printf '%s' "$folder" | cksum)
id=${id%% *}
controller=boots-$id-c host=boots-$id-h

case $1 in
make)
    mkdir -p "$folder/disk"
    mount -t tmpfs -o size=1G tmpfs "$folder/disk"
    mkdir "$folder/disk/changed" "$folder/disk/work" "$folder/disk/root"
    mount -t overlay overlay -o "lowerdir=$3,upperdir=$folder/disk/changed,workdir=$folder/disk/work" "$folder/disk/root"
    ip netns add "$controller"
    ip -n "$controller" link set lo up
    echo "$controller" >"$folder/controller"
    ;;
boot)
    ip netns del "$host" 2>/dev/null || true
    ip netns add "$host"
    for n in 0 1; do
        # The kernel takes its time with the ends in a namespace that is gone.
        ip -n "$controller" link del "h$n" 2>/dev/null || true
        ip link add "eth$n" netns "$host" address "02:00:00:00:00:1$n" type veth peer name "h$n" netns "$controller"
        ip -n "$controller" link set "h$n" up
    done
    ip -n "$controller" address add 10.98.0.1/24 dev h0
    ip -n "$controller" address add fd98::1/64 dev h0 nodad
    export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
    exec systemd-nspawn --quiet --machine="boots-$id" --directory "$folder/disk/root" --boot --register=no --keep-unit --private-users=no \
        --capability=CAP_NET_ADMIN,CAP_NET_RAW --network-namespace-path="/run/netns/$host" --console=pipe
    ;;
down)
    ip netns del "$host" 2>/dev/null || true
    ip netns del "$controller" 2>/dev/null || true
    umount -l "$folder/disk/root" "$folder/disk" 2>/dev/null || true
    ;;
esac
