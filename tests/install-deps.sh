#!/bin/sh
# Installs what the tests, the lab and the demo need and this Debian (or Ubuntu) does not have. Does
# nothing when nothing is missing; starts no service. qemu is not among it: tests/image.sh gets its own.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# A command, and the package that brings it.
missing=''
while read -r command package; do
	[ -n "$command" ] || continue
	command -v "$command" >/dev/null 2>&1 || case " $missing " in
	*" $package "*) ;;
	*) missing="$missing $package" ;;
	esac
done <<LIST
iptables-nft iptables
iptables-legacy iptables
nft nftables
ebtables ebtables
arptables-legacy arptables
ipset ipset
conntrack conntrack
ip iproute2
ss iproute2
perl perl
strace strace
valgrind valgrind
brctl bridge-utils
ifup ifupdown
unshare util-linux
sshd openssh-server
ssh openssh-client
ssh-keygen openssh-client
sudo sudo
busybox busybox-static
ping iputils-ping
nc netcat-openbsd
sysctl procps
modprobe kmod
dmesg util-linux
awk mawk
gawk gawk
original-awk original-awk
jq jq
zsh zsh
fish fish
groff groff-base
python3 python3
shellcheck shellcheck
cc build-essential
make build-essential
mmdebstrap mmdebstrap
systemd-nspawn systemd-container
mke2fs e2fsprogs
LIST
# Not a command on everybody's path.
[ -d /etc/ssl/certs ] || missing="$missing ca-certificates"
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
[ -x /lib/systemd/systemd-sysctl ] || [ -x /usr/lib/systemd/systemd-sysctl ] || missing="$missing systemd"

[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "install-deps.sh: missing:$missing; run me as root" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null; then
	echo "install-deps.sh: missing:$missing; this is no Debian, so please install them by hand" >&2
	exit 1
fi

# A package must not start its service: this machine may have no use for an SSH server.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	trap 'exit 130' INT TERM
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
# Another awk is only one more to test with: `awk` stays the one that it is.
if command -v awk >/dev/null && command -v update-alternatives >/dev/null; then
	update-alternatives --quiet --set awk "$(readlink -f "$(command -v awk)")" || :
fi
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
echo "install-deps.sh: installing$missing" >&2
apt-get update -qq
# shellcheck disable=SC2086 # a list
apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold $missing >&2
