# shellcheck shell=dash disable=SC3043,SC2154
# Which other programs change rules, sysctl keys and links. Part of the probe: reads, and decides nothing.

# Which other programs load and flush rules, now or at the next boot. Read from files where possible, so
# that no D-Bus has to answer.
probe_managers() {
	local file unit known='' active=''
	! probe_unit_enabled firewalld && [ ! -e /run/firewalld.pid ] || known=firewalld
	! probe_unit_enabled nftables || known="$known nftables"
	set --
	for unit in firewalld nftables; do
		case $known in *$unit*) continue ;; esac
		for file in /etc/systemd/system/$unit.service /run/systemd/*/"$unit".service /usr/lib/systemd/system/$unit.service \
			/usr/local/lib/systemd/system/$unit.service /lib/systemd/system/$unit.service /etc/init.d/$unit; do
			[ ! -e "$file" ] || { set -- "$@" $unit; break; }
		done
	done
	if [ $# -gt 0 ] && [ -d /run/systemd/system ] && have systemctl; then
		active=$(timeout -s KILL 5 systemctl is-active "$@" 2>/dev/null)$NL
		for unit; do
			case ${active%%"$NL"*} in active | reloading) known="$known $unit" ;; esac
			active=${active#*"$NL"}
		done
	fi
	case $known in *firewalld*) echo manager=firewalld ;; esac
	if [ -e /etc/ufw/ufw.conf ] && grep -qs '^ENABLED=yes' /etc/ufw/ufw.conf; then echo manager=ufw; fi
	case $known in *nftables*)
		for file in /etc/nftables.conf /etc/sysconfig/nftables.conf; do
			grep -qs '^[[:space:]]*flush ruleset' $file && printf 'manager=nftables %s\n' $file
		done
		;;
	esac
	:
}

probe_unit_enabled() {
	local link
	link=/etc/systemd/system/$1.service
	[ ! -L "$link" ] || [ "$(readlink "$link")" != /dev/null ] || return 1
	for link in /etc/systemd/system/*.wants/"$1".service /etc/systemd/system/*.requires/"$1".service; do
		[ -L "$link" ] && return 0
	done
	return 1
}

# Rules of the other backend, and native nft rules inside tables of iptables: iptables-save shows
# neither, or shows them wrong. Then what else packets pass.
probe_others() {
	section others
	probe_managers
	case $backend in
	nft)
		first_line /proc/net/ip_tables_names
		names=$REPLY
		first_line /proc/net/ip6_tables_names
		if [ -n "$names" ] && have iptables-legacy-save; then
			iptables-legacy-save 2>/dev/null | probe_count_deciding | sed 's/^/legacy4=/'
		fi
		if [ -n "$REPLY" ] && have ip6tables-legacy-save; then
			ip6tables-legacy-save 2>/dev/null | probe_count_deciding | sed 's/^/legacy6=/'
		fi
		;;
	legacy)
		if have iptables-nft-save && probe_nf_tables_loaded; then
			iptables-nft-save 2>/dev/null | probe_count_deciding | sed 's/^/nft4=/'
			ip6tables-nft-save 2>/dev/null | probe_count_deciding | sed 's/^/nft6=/'
		fi
		;;
	esac
	if have nft && { [ "$backend" = nft ] || probe_nf_tables_loaded; }; then probe_nft; fi
	# To ask one of these for a table makes it, so only what is loaded is asked for.
	if { probe_module_loaded ebtable_filter || probe_module_loaded ebtable_nat || probe_module_loaded ebtable_broute; } && have ebtables-legacy; then
		for table in filter nat broute; do
			probe_module_loaded ebtable_$table && ebtables-legacy -t $table -L 2>/dev/null
		done | grep -c -e '^-' -e 'policy: DROP' | sed 's/^/ebtables=/'
	fi
	if probe_module_loaded arptable_filter && have arptables-legacy; then
		arptables-legacy -n -L 2>/dev/null | grep -c -e '^-j' -e 'policy DROP' | sed 's/^/arptables=/'
	fi
}

# How many rules and dropping policies a saved ruleset has.
probe_count_deciding() { grep -c -e '^-A' -e '^:[^ ]* DROP'; }

probe_module_loaded() { [ -e "/sys/module/$1/initstate" ]; }

probe_nf_tables_loaded() { [ -d /sys/module/nf_tables ] || ! [ -s /proc/modules ]; }

# Base chains of native tables, then what their rules do; native rules in tables of iptables.
probe_nft() {
	local native
	nft list ruleset 2>/dev/null | awk -v backend="$backend" "$PROBE_NFT_AWK" && return
	# nft shows a match of iptables (time, hashlimit) as if it were a native one with a set; only
	# its JSON tells them apart.
	native=$(nft -j list ruleset 2>/dev/null | sed 's/{"[a-z]*": {"family": /\n&/g' | awk "$NATIVE_AWK"; echo end)
	# Without JSON in this nft what looks native counts as native.
	if [ "$native" != end ] || nft -j list tables >/dev/null 2>&1; then
		printf '%s\n' "${native%end}"
	else
		nft list ruleset 2>/dev/null | awk -v backend="$backend" -v only=native "$PROBE_NFT_AWK"
	fi
	:
}

# Native rules among the JSON of nft, one rule a line. Braces stand in brackets, for busybox.
NATIVE_AWK='/^[{]"rule": [{]"family": "ip6?", "table": "(raw|mangle|nat|filter|security)"/ && /"set": / { print "native=" substr($0, 10, 240) }'

# Which programs need bridged frames in netfilter, and which send them there. Read from files, not from daemons.
probe_evidence() {
	local file arguments
	note_section evidence
	[ -d /etc/pve ] && note_line pve=/etc/pve
	for file in /var/lib/kubelet/config.yaml /etc/kubernetes/kubelet.conf /var/lib/rancher/k3s/agent /etc/cni/net.d/*.conf*; do
		[ -e "$file" ] && note_line "kubernetes=$file"
	done
	# Programs that make bridges, for those whose name fits.
	for file in /var/lib/libvirt/dnsmasq /run/libvirt/network /var/lib/docker /etc/docker /run/docker.pid /etc/containers/networks \
		/var/lib/containers /var/lib/cni /opt/cni/bin /var/lib/kubelet /etc/neutron /var/lib/neutron /etc/default/lxc-net /var/lib/lxd \
		/var/snap/lxd /var/lib/incus /var/snap/multipass; do
		[ -e "$file" ] && note_line "maker=$file"
	done
	first_line /run/docker.pid
	if [ -n "$REPLY" ] && [ -r "/proc/$REPLY/cmdline" ]; then
		arguments=$NL$(tr '\0' '\n' <"/proc/$REPLY/cmdline")$NL
		case $arguments in *"$NL--icc=false$NL"*) note_line 'docker-icc=command line of dockerd' ;; esac
		case $arguments in *"$NL--userland-proxy=false$NL"*) note_line 'docker-proxy=command line of dockerd' ;; esac
	fi
	for file in /etc/docker/daemon.json /etc/ufw/sysctl.conf /etc/rc.local /etc/network/interfaces /etc/network/interfaces.d/* \
		/etc/network/if-*.d/* /etc/libvirt/hooks/* /etc/modprobe.d/*; do
		note_file "$file"
	done
}

# Which programs make or configure links.
probe_network() {
	local file
	note_section network
	if [ -e /etc/network/if-pre-up.d/bridge ]; then note_line bridge-utils=yes; fi
	# Networks of libvirt with the bridges that it makes for them, what the daemons say of each link, and the files
	# that configure links, less our own.
	for file in /run/libvirt/network/*.xml /etc/libvirt/qemu/networks/*.xml \
		/run/systemd/netif/links/* /run/NetworkManager/devices/* /etc/network/interfaces /etc/network/interfaces.d/* \
		/etc/systemd/network/*.network /run/systemd/network/*.network /usr/local/lib/systemd/network/*.network \
		/usr/lib/systemd/network/*.network /etc/systemd/network/*.network.d/*.conf /run/systemd/network/*.network.d/*.conf \
		/usr/local/lib/systemd/network/*.network.d/*.conf /usr/lib/systemd/network/*.network.d/*.conf /etc/NetworkManager/system-connections/* /run/NetworkManager/system-connections/*; do
		case $file in *kvmfw-* | */90-kvmfw.conf) ;; *) note_file "$file" ;; esac
	done
}
