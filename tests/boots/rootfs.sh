#!/bin/sh
# Builds the root of the containers once: Debian with systemd, sshd and everything that configures a
# network there. None of it is configured; a test switches on what it is about.
#
#   tests/boots/rootfs.sh     prints the folder: root, and the key id
#
# The folder is named after the hash of this script, so a change of the script builds anew.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
cd "$(dirname "$0")/../.."
hash=$(sha256sum tests/boots/rootfs.sh | cut -c 1-16)
cache=${KVMFW_BOOTS_CACHE:-$PWD/target/boots}
out=$cache/$hash
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ -e "$out/done" ]; then
	echo "$out"
	exit 0
fi
rm -rf "$out"
mkdir "$out" "$out/root"
root=$out/root
trap 'rm -f "$out/root.tar"' EXIT

packages=systemd,systemd-sysv,dbus,openssh-server,iptables,iproute2,procps,kmod,udev,iputils-ping
packages=$packages,ifupdown,bridge-utils,network-manager,netplan.io
mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$out/root.tar" >&2
tar -xf "$out/root.tar" -C "$root" --exclude='./dev/*'

ssh-keygen -q -t ed25519 -N '' -f "$out/id"
mkdir -p "$root/root/.ssh"
chmod 700 "$root/root/.ssh"
cp "$out/id.pub" "$root/root/.ssh/authorized_keys"
echo kvm >"$root/etc/hostname"
rm -f "$root/etc/resolv.conf"
printf 'source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\n' >"$root/etc/network/interfaces"
wants=$root/etc/systemd/system
rm -f "$wants"/*.wants/networking.service "$wants"/*.wants/NetworkManager*.service "$wants"/*.wants/systemd-networkd*
true >"$out/done"
echo "$out"
