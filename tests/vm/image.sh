#!/bin/sh
# Builds the disk of the virtual machine once: Debian with its own kernel, systemd, sshd and two guests.
#
#   tests/vm/image.sh     prints the folder with vmlinuz, initrd, disk.img and the key id
#
# The folder is named after the hash of this script, so a change of the script builds anew.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
cd "$(dirname "$0")/../.."
hash=$(sha256sum tests/vm/image.sh | cut -c 1-16)
cache=${KVMFW_VM_CACHE:-$PWD/target/vm}
out=$cache/$hash
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ -e "$out/done" ]; then
	echo "$out"
	exit 0
fi
rm -rf "$out"
mkdir "$out"
root=$out/root
mkdir "$root"
trap 'rm -rf "$root" "$out/root.tar"' EXIT

packages=systemd,systemd-sysv,dbus,openssh-server,iptables,iproute2,ifupdown,procps,kmod,udev
packages=$packages,linux-image-cloud-amd64,iputils-ping,ebtables,nftables,iptables-persistent
mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$out/root.tar" >&2
tar -xf "$out/root.tar" -C "$root" --exclude='./dev/*'

ssh-keygen -q -t ed25519 -N '' -f "$out/id"
mkdir -p "$root/root/.ssh"
chmod 700 "$root/root/.ssh"
cp "$out/id.pub" "$root/root/.ssh/authorized_keys"
# What known_hosts has to say of it.
cut -d ' ' -f 1,2 "$root/etc/ssh/ssh_host_ed25519_key.pub" >"$out/host_key"
echo vm >"$root/etc/hostname"
printf 'auto lo\niface lo inet loopback\nauto enp0s2\niface enp0s2 inet static\n\taddress 10.0.2.15/24\n\tgateway 10.0.2.2\n' \
	>"$root/etc/network/interfaces"

# Two guests on a bridge, put there at every boot by a unit that knows nothing of who tests it.
cat >"$root/usr/local/sbin/guests" <<'GUESTS'
#!/bin/sh
set -e
ip link add br123 type bridge stp_state 0 forward_delay 0
ip link set br123 up
for n in 1 2; do
	ip netns add "g$n"
	ip link add "vnet$n" type veth peer name eth0 netns "g$n"
	ip link set "vnet$n" master br123 up
	ip -n "g$n" address add "192.0.2.$n/24" dev eth0
	ip -n "g$n" link set eth0 up
done
GUESTS
chmod 755 "$root/usr/local/sbin/guests"
cat >"$root/etc/systemd/system/guests.service" <<'UNIT'
[Unit]
After=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/guests
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../guests.service "$root/etc/systemd/system/multi-user.target.wants/guests.service"

cp "$root"/boot/vmlinuz-* "$out/vmlinuz"
cp "$root"/boot/initrd.img-* "$out/initrd"
mke2fs -q -t ext4 -d "$root" "$out/disk.img" 2G >&2
true >"$out/done"
echo "$out"
