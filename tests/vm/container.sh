#!/bin/sh
# A machine in a container: the same Debian with its own systemd as PID 1, on the kernel that is there.
# Runs as PID 1 of new net, mount and pid namespaces, with /proc mounted anew; who calls makes them and kills
# them all.
#
#   container.sh IMAGE FOLDER NAME [without-netfilter-persistent]
set -eu
image=$1 folder=$2 name=$3 variant=${4-}
mount --make-rprivate /
# It must not meet other containers in its cgroup.
for top in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
	[ -e $top/cgroup.procs ] || continue
	mkdir -p "$top/$name"
	echo $$ >"$top/$name/cgroup.procs"
done
mount -t tmpfs none /run
# Where /sys can be written nspawn waits for a udev, and there is none.
mount -o remount,bind,ro /sys
mkdir -p "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=$image/root,upperdir=$folder/upper,workdir=$folder/work" none "$folder/root"
if [ -n "$variant" ] && [ -e "$folder/root/usr/sbin/netfilter-persistent" ]; then
	chroot "$folder/root" dpkg --purge iptables-persistent netfilter-persistent >/dev/null
fi
ip link set lo up
lib=$image/root/usr/lib/x86_64-linux-gnu
code=133
# What nspawn says when the machine asks for a reboot.
while [ $code = 133 ]; do
	ip link add outside type veth peer name eth0
	ip address add 10.0.2.2/24 dev outside
	ip link set outside up
	code=0
	"$lib/ld-linux-x86-64.so.2" --library-path "$lib:$lib/systemd" "$image/root/usr/bin/systemd-nspawn" -q \
		-D "$folder/root" --boot --network-interface=eth0 --machine="$name" --register=no --keep-unit \
		--private-users=no --console=pipe --bind="$folder/console:/dev/console" || code=$?
	ip link delete outside 2>/dev/null || true
done
exit $code
