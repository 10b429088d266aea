#!/bin/sh
# Builds, once, what the booted machines of tests/vm boot: Debian with systemd, sshd, two
# guests, its own kernel, and everything that configures a network there, of which ifupdown is switched
# on. Needs root and mmdebstrap; 140 MB come from the Debian mirror.
#
#   tests/image.sh     prints the folder: root/ (for systemd-nspawn), vmlinuz, initrd and disk.img (for
#                      qemu), the keys id and host_key, and qemu, which runs qemu-system-x86_64
#
# The folder is named after the hash of this script, so a change of the script builds anew.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C
cd "$(dirname "$0")/.."
hash=$(sha256sum tests/image.sh | cut -c 1-16)
cache=${KVMFW_IMAGE_CACHE:-$PWD/target/image}
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

# The machine's own qemu, or one beside it: installing the package would take another qemu package away
# where their versions differ.
get_qemu() {
	command -v qemu-system-x86_64 >/dev/null && { printf '#!/bin/sh\nexec qemu-system-x86_64 "$@"\n'; return; }
	mkdir "$out/qemu.debs" "$out/qemu.root"
	apt-get update -qq >&2
	packages=$(apt-get install -s --no-install-recommends qemu-system-x86 | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
	# shellcheck disable=SC2086 # a list
	(cd "$out/qemu.debs" && apt-get download -qq -o APT::Sandbox::User=root $packages) >&2
	for deb in "$out"/qemu.debs/*.deb; do dpkg-deb -x "$deb" "$out/qemu.root"; done
	rm -rf "$out/qemu.debs"
	cat <<'QEMU'
#!/bin/sh
at=$(dirname "$0")/qemu.root
export LD_LIBRARY_PATH="$at/usr/lib/x86_64-linux-gnu:$at/lib/x86_64-linux-gnu"
exec "$at/usr/bin/qemu-system-x86_64" -L "$at/usr/share/qemu" -L "$at/usr/share/seabios" "$@"
QEMU
}
get_qemu >"$out/qemu"
chmod 755 "$out/qemu"

packages=systemd,systemd-sysv,systemd-container,libpam-systemd,dbus,udev,kmod,openssh-server,sudo,procps
packages=$packages,linux-image-cloud-amd64,iproute2,ifupdown,iputils-ping,iptables,ebtables,nftables,iptables-persistent
packages=$packages,bridge-utils,network-manager,netplan.io
# An initrd with what finds the disk, and no more: it is unpacked by emulated hardware.
# shellcheck disable=SC2016 # $1 is mmdebstrap's
mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt='Acquire::Languages "none"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--dpkgopt='path-exclude=/lib/modules/*/kernel/drivers/gpu/*' --dpkgopt='path-exclude=/lib/modules/*/kernel/sound/*' \
	--essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"; echo MODULES=list >"$1/etc/initramfs-tools/conf.d/few"' \
	--essential-hook='printf "iptables-persistent iptables-persistent/autosave_v%s boolean false\n" 4 6 | chroot "$1" debconf-set-selections' \
	--essential-hook='printf "virtio_pci\nvirtio_blk\nvirtio_net\next4\n" >"$1/etc/initramfs-tools/modules"' \
	bookworm "$root" >&2

# Its package would save the rules of the machine that builds this; nothing of that machine is to be in here.
for family in 4 6; do
	if [ -s "$root/etc/iptables/rules.v$family" ]; then
		echo "image.sh: the rules of this machine are in the image" >&2
		exit 1
	fi
done
mkdir -p "$root/etc/iptables"
: >"$root/etc/iptables/rules.v4"
: >"$root/etc/iptables/rules.v6"
ssh-keygen -q -t ed25519 -N '' -f "$out/id"
chroot "$root" useradd -m -s /bin/bash admin
echo 'admin ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/admin"
for home in "$root/root" "$root/home/admin"; do
	mkdir -p "$home/.ssh"
	cp "$out/id.pub" "$home/.ssh/authorized_keys"
	chmod 700 "$home/.ssh"
done
chroot "$root" chown -R admin: /home/admin/.ssh
# What known_hosts has to say of it.
cut -d ' ' -f 1,2 "$root/etc/ssh/ssh_host_ed25519_key.pub" >"$out/host_key"
echo vm >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 vm\n' >"$root/etc/hosts"
printf 'auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet static\n\taddress 10.0.2.15/24\n\tgateway 10.0.2.2\n' \
	>"$root/etc/network/interfaces"
# The other key exchanges take seconds on emulated hardware.
echo 'KexAlgorithms curve25519-sha256' >"$root/etc/ssh/sshd_config.d/quick.conf"
# A test switches on what it is about.
rm -f "$root"/etc/systemd/system/*.wants/NetworkManager*.service "$root"/etc/systemd/system/*.wants/systemd-networkd*
rm -f "$root"/etc/systemd/system/dbus-org.freedesktop.nm-dispatcher.service
# Nothing here asks for them, and each costs a second of every boot.
for unit in e2scrub_reap.service getty.target serial-getty@ttyS0.service apt-daily.timer apt-daily-upgrade.timer \
	dpkg-db-backup.timer fstrim.timer e2scrub_all.timer systemd-update-utmp.service systemd-pstore.service \
	modprobe@efi_pstore.service modprobe@drm.service modprobe@fuse.service modprobe@configfs.service \
	dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

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
echo 'guests are up' >>/dev/console
GUESTS
chmod 755 "$root/usr/local/sbin/guests"
cat >"$root/etc/systemd/system/guests.service" <<'UNIT'
[Unit]
After=network.target ssh.service docker.service libvirtd.service
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
rm -rf "${root:?}"/boot/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
mke2fs -q -t ext4 -d "$root" "$out/disk.img" 2G >&2
true >"$out/done"
echo "$out"
