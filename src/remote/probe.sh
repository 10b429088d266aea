# shellcheck shell=dash disable=SC3043,SC2154
# Reads what the host is like, in one go and without changing anything. The controller parses the
# sections; this script decides nothing.
# Expects: want FAMILY (prints the own text wanted, rules of absent modules marked `?MODULE `),
# want_keys (prints sysctl keys as paths below /proc/sys).

probe_host() {
	section host
	first_line /proc/sys/kernel/osrelease
	printf 'kernel=%s\n' "$line"
	first_line /proc/sys/kernel/hostname
	printf 'hostname=%s\n' "$line"
	if [ -r /etc/os-release ]; then
		while IFS='=' read -r key value; do
			case $key in ID | ID_LIKE) printf 'os=%s\n' "$value" ;; esac
		done </etc/os-release
	fi
	boot_id
	printf 'boot_id=%s\n' "$boot"
	if [ -d /run/systemd/system ]; then echo systemd=yes; else echo systemd=no; fi
	if [ -d /etc/systemd/system ]; then echo units=yes; else echo units=no; fi
	# Who works on the host itself may have come over SSH too, though nothing is applied over it.
	printf 'ssh=%s\n' "${SSH_CONNECTION:-${OPERATOR_CONNECTION-}}"
	printf 'root=%s\n' "$ROOT"
	if [ -d /proc/sys/net/bridge ]; then echo br_netfilter=yes; else echo br_netfilter=no; fi
	for tool in ip awk sed flock setsid mkfifo timeout sync ln mv xargs unshare iptables-save ip6tables-save; do
		have "$tool" || printf 'missing=%s\n' "$tool"
	done
	for path in /usr/lib/systemd/systemd-sysctl /lib/systemd/systemd-sysctl; do
		[ -x $path ] && printf 'systemd_sysctl=%s\n' $path && break
	done
}

probe_state() {
	section state
	first_line $ETC/inventory
	printf 'inventory=%s\n' "$line"
	current=
	[ -L $ETC/current ] && current=$(readlink $ETC/current)
	printf 'generation=%s\n' "${current##*/}"
	if [ -L $VAR/open ]; then
		open=$(readlink $VAR/open)
		printf 'open=%s\n' "${open##*/}"
	fi
	[ -s $VAR/boot.failed ] && printf 'boot_failed=%s\n' "$(tail -n 1 $VAR/boot.failed)"
	section generation
	if [ -n "$current" ]; then cat "$ETC/$current/desired.json" 2>/dev/null; fi
	section original
	if [ -d $VAR/original ]; then cat $VAR/original/sysctl $VAR/original/policies 2>/dev/null; fi
}

probe_boot() {
	section boot
	[ -z "$current" ] || boot_missing
}

# What has to be there so that the generation boots, and is not. A masked unit is an empty one.
boot_missing() {
	local dir=/etc/systemd/system unit wants
	[ -e $ETC/current/want4 ] || echo "$ETC/$(readlink $ETC/current)"
	[ -s $VAR/kvmfw.sh ] || echo $VAR/kvmfw.sh
	for wants in $BOOT_UNITS; do
		unit=${wants##*/} wants=${wants%/*}
		[ -s "$dir/$unit" ] || echo "$dir/$unit"
		[ -s "$dir/$wants/$unit" ] || echo "$dir/$wants/$unit"
	done
	if [ -s $ETC/current/udev.rules ] && [ ! -s /etc/udev/rules.d/99-kvmfw.rules ]; then
		echo /etc/udev/rules.d/99-kvmfw.rules
	fi
	for family in 4 6; do
		[ ! -s "$ETC/current/want$family" ] || [ -s "$ETC/current/rules.v$family" ] || echo "$ETC/current/rules.v$family"
	done
}

probe_sysctl() {
	local keys
	section sysctl
	keys=$(want_keys)
	{
		{
			while read -r key; do [ -z "$key" ] || name_key "$key"; done
			if [ -r $ETC/current/sysctl.keys ]; then
				while read -r key; do name_key "$key"; done <$ETC/current/sysctl.keys
			fi
			# What a forecast needs whether it is declared or not.
			for key in bridge/bridge-nf-call-iptables bridge/bridge-nf-call-ip6tables bridge/bridge-nf-call-arptables bridge/bridge-nf-filter-vlan-tagged netfilter/nf_conntrack_tcp_loose ipv4/ip_forward ipv6/conf/all/forwarding; do
				name_key net/$key
			done
			for key in /proc/sys/net/ipv6/conf/*/accept_ra; do
				link=${key%/*}
				[ -e "/sys/class/net/${link##*/}/brport" ] || printf '%s\n' "$key"
			done
		} <<-KEYS | xargs grep -sH '' /dev/null | sed "$VALUES"
			$keys
		KEYS
	} 3>&1
	# Modes, because root's own tests say yes to everything in some shells.
	if [ -n "$keys" ]; then
		printf '%s\n' "$keys" | (cd /proc/sys && xargs stat -c '%A %n' /dev/null 2>/dev/null) |
			sed -n -e 's/^--w[^ ]* \(.*\)$/\1!writeonly/p' -e 's/^-r-[^ ]* \(.*\)$/\1!readonly/p'
	fi
	section sysctl.d
	set --
	for file in /etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/local/lib/sysctl.d/*.conf /usr/lib/sysctl.d/*.conf /lib/sysctl.d/*.conf /etc/sysctl.conf; do
		[ -e "$file" ] || [ -L "$file" ] || continue
		if [ -L "$file" ]; then printf '>%s %s\n' "$file" "$(readlink "$file")"; else printf '>%s\n' "$file"; fi
		[ -r "$file" ] && set -- "$@" "$file"
	done
	# What is set counts, comments do not; but the first line tells whose the file is.
	[ $# -eq 0 ] || awk 'FNR == 1 || (!/^[ \t]*[#;]/ && /[^ \t]/) { print FILENAME ":" FNR ":" $0 }' "$@"
}

# Sets wanted to the own text wanted of family $1, and goal to the same with rules whose module is not loaded
# replaced by a mark in their place: a plan must not load a module, and physdev would load br_netfilter.
want_provable() {
	if [ "$1" = 4 ]; then wanted=$wanted4; else wanted=$wanted6; fi
	if [ -z "$wanted" ]; then
		wanted=$(want "$1")
		if [ "$1" = 4 ]; then wanted4=$wanted; else wanted6=$wanted; fi
	fi
	goal=$wanted
	case $wanted in *'?br_netfilter '*) ;; *) return ;; esac
	if [ -d /proc/sys/net/bridge ]; then
		goal=$(printf '%s\n' "$wanted" | sed 's/^?br_netfilter //')
	else
		goal=$(printf '%s\n' "$wanted" | sed 's/^?br_netfilter -A \([^ ]*\) .*/-A \1 -m comment --comment "kvmfw:unproven"/')
	fi
}

goal4='' dry4='' goal6='' dry6='' wanted4='' wanted6=''
# Sets predicted where the probe of this process has seen what own text $2 makes of family $1.
dry_known() {
	if [ "$1" = 4 ]; then predicted=$dry4; else predicted=$dry6; fi
	[ -n "$predicted" ] && if [ "$1" = 4 ]; then [ "$2" = "$goal4" ]; else [ "$2" = "$goal6" ]; fi
}

probe_rules() {
	local goal wanted own='' kept=''
	section "rules$1"
	ipt_family "$1"
	printf 'backend=%s\nversion=%s\n' "$backend" "$ipt_version"
	[ "$backend" = none ] && return
	ipt_saved "$1"
	section "live$1"
	[ -z "$live" ] || printf '%s\n' "$live" | sed "$PLAIN"
	want_provable "$1"
	case "$goal$live" in
	*KVMFW-* | *:[A-Z]*\ [AD][CR]*) ;;
	*) return ;;
	esac
	[ -n "$goal" ] || case $live in *KVMFW-*) ;; *) return ;; esac
	# What was proven once and is still there needs no second proof.
	if [ -e $ETC/current/want"$1" ] && [ "$(cat $ETC/current/want"$1")" = "$wanted" ]; then
		own=$(cat $ETC/current/rules.v"$1" 2>/dev/null)
		if [ -n "$own" ] && ipt_is "$live" "$own"; then
			section "same$1"
			return
		fi
		kept=$own
	fi
	section "dry$1"
	ipt_dry "$1" "$live" "$goal"
	rc=$?
	printf 'rc=%s\n%s\n' "$rc" "$predicted" | sed "$PLAIN"
	if [ $rc -eq 0 ]; then
		if [ "$1" = 4 ]; then goal4=$goal dry4=$predicted; else goal6=$goal dry6=$predicted; fi
	fi
	# The same is wanted, and what boots would not be that.
	case $rc$kept$goal in 0 | [!0]* | *kvmfw:unproven*) return ;; esac
	[ -n "$kept" ] || return
	if ! ipt_is "$predicted" "$kept"; then
		section "boot$1"
		echo "$ETC/current/rules.v$1"
	fi
}

# Who else loads and flushes rules here: what is active, or will be at the next boot. Files tell it, so
# that no D-Bus has to answer.
probe_managers() {
	local file
	unit_enabled firewalld || [ -e /run/firewalld.pid ] || unit_active firewalld && echo manager=firewalld
	if [ -e /etc/ufw/ufw.conf ] && grep -qs '^ENABLED=yes' /etc/ufw/ufw.conf; then echo manager=ufw; fi
	if unit_enabled nftables || unit_active nftables; then
		for file in /etc/nftables.conf /etc/sysconfig/nftables.conf; do
			grep -qs '^[[:space:]]*flush ruleset' $file && printf 'manager=nftables %s\n' $file
		done
	fi
	:
}

unit_enabled() {
	local link
	link=/etc/systemd/system/$1.service
	[ ! -L "$link" ] || [ "$(readlink "$link")" != /dev/null ] || return 1
	for link in /etc/systemd/system/*.wants/"$1".service /etc/systemd/system/*.requires/"$1".service; do
		[ -L "$link" ] && return 0
	done
	return 1
}

unit_active() { [ -d /run/systemd/system ] && have systemctl && timeout 5 systemctl -q is-active "$1" 2>/dev/null; }

# Rules of the other backend, and native nft rules inside tables of iptables: iptables-save shows
# neither, or shows them wrong. Then what else packets pass.
probe_others() {
	section others
	probe_managers
	case $backend in
	nft)
		first_line /proc/net/ip_tables_names
		names=$line
		first_line /proc/net/ip6_tables_names
		if [ -n "$names" ] && have iptables-legacy-save; then
			iptables-legacy-save 2>/dev/null | deciding | sed 's/^/legacy4=/'
		fi
		if [ -n "$line" ] && have ip6tables-legacy-save; then
			ip6tables-legacy-save 2>/dev/null | deciding | sed 's/^/legacy6=/'
		fi
		;;
	legacy)
		if have iptables-nft-save && nf_tables_loaded; then
			iptables-nft-save 2>/dev/null | deciding | sed 's/^/nft4=/'
			ip6tables-nft-save 2>/dev/null | deciding | sed 's/^/nft6=/'
		fi
		;;
	esac
	if have nft && { [ "$backend" = nft ] || nf_tables_loaded; }; then probe_nft; fi
	# To ask one of these for a table makes it, so only what is loaded is asked for.
	if { module_loaded ebtable_filter || module_loaded ebtable_nat || module_loaded ebtable_broute; } && have ebtables-legacy; then
		for table in filter nat broute; do
			module_loaded ebtable_$table && ebtables-legacy -t $table -L 2>/dev/null
		done | grep -c -e '^-' -e 'policy: DROP' | sed 's/^/ebtables=/'
	fi
	if module_loaded arptable_filter && have arptables-legacy; then
		arptables-legacy -n -L 2>/dev/null | grep -c -e '^-j' -e 'policy DROP' | sed 's/^/arptables=/'
	fi
}

# How many rules and dropping policies a saved ruleset has.
deciding() { grep -c -e '^-A' -e '^:[^ ]* DROP'; }

module_loaded() { [ -e "/sys/module/$1/initstate" ]; }

nf_tables_loaded() { [ -d /sys/module/nf_tables ] || ! [ -s /proc/modules ]; }

# Base chains of native tables, then what their rules do; native rules in tables of iptables.
probe_nft() {
	local others native
	others=$(nft list ruleset 2>/dev/null | awk -v backend="$backend" '
		/^table / { table = $2 " " $3; own = table ~ /^ip6? (raw|mangle|nat|filter|security)$/; next }
		own && backend == "legacy" { next }
		{ bare = $0; gsub(/"[^"]*"/, "", bare) }
		own && bare !~ /^[ \t]*chain / && bare ~ /\{/ { print "native=" table ": " $0 }
		own { next }
		$1 == "type" && $3 == "hook" { print "chain=" table " " $0; next }
		bare ~ /(^|[^a-z_-])(drop|reject|queue|tproxy|synproxy|fwd)([^a-z_-]|$)/ { acts[table " drop"] }
		bare ~ /(^|[^a-z_-])(dnat|redirect)([^a-z_-]|$)/ { acts[table " rewrite"] }
		bare ~ /(^|[^a-z_-])notrack([^a-z_-]|$)/ { acts[table " untrack"] }
		# What no rule of iptables is asked about in a way that the answer would change.
		{ gsub(/(ct mark|size|priority|nftrace|pkttype|secmark|dscp|ecn|ttl|hoplimit|helper|label|event) set /, "", bare) }
		gsub(/mark set /, "", bare) { acts[table " mark"] }
		bare ~ /[a-z] set / { acts[table " change"] }
		END { for (act in acts) print "acts=" act
		}')
	# nft shows a match of iptables (time, hashlimit) as if it were a native one with a set; only
	# its JSON tells them apart.
	case $others in
	*native=*)
		native=$(nft -j list ruleset 2>/dev/null | sed 's/{"[a-z]*": {"family": /\n&/g' |
			awk '/^{"rule": {"family": "ip6?", "table": "(raw|mangle|nat|filter|security)"/ && /"set": / { print "native=" substr($0, 10, 240) }'
			echo end)
		# Without JSON in this nft what looks native counts as native.
		if [ "$native" != end ] || nft -j list tables >/dev/null 2>&1; then
			others=$(printf '%s\n%s\n' "$native" "$others" | awk '/^end$/ { rest = 1; next } !rest || !/^native=/')
		fi
		;;
	esac
	printf '%s\n' "$others"
}

# Behind which bridge and port guests are that lead here or to other hosts: the controller, jump hosts.
probe_client() {
	local client way met=''
	section client
	have bridge || return 0
	client=${SSH_CONNECTION:-${OPERATOR_CONNECTION-}}
	client=${client%% *}
	[ -z "$client" ] || guest_port "$client" guest=
	for way in ${WAYS-}; do
		on_bridge "${way#*=}" || continue
		met="$met $way"
		# Who was silent for long is forgotten there. All are asked at once: nobody waits for each that is away.
		if have ping; then ping -c 1 -W 1 "${way#*=}" >/dev/null 2>&1 & fi
	done
	[ -z "$met" ] || wait
	for way in $met; do guest_port "${way#*=}" "way=${way%%=*} "; done
}

# Whether $1 is in the network of one of the host's bridges.
on_bridge() {
	local dev
	dev=$("${IP:-ip}" -o route get "$1" 2>/dev/null)
	case $dev in *' via '* | local* | '') return 1 ;; esac
	dev=${dev#* dev }
	[ -d "/sys/class/net/${dev%% *}/bridge" ]
}

# Prints $2, and the port and the bridge behind which $1 is, if that is a guest's: a tap, or named like one.
guest_port() {
	local mac='' dev='' port neighbours word before=''
	neighbours=$("${IP:-ip}" -o neigh show to "$1" 2>/dev/null)
	for word in $neighbours; do
		case $before in dev) dev=$word ;; lladdr) mac=$word ;; esac
		[ "$before" = lladdr ] || { before=$word; continue; }
		before=$word
		[ -d "/sys/class/net/$dev/bridge" ] || continue
		port=$(bridge fdb show br "$dev" 2>/dev/null | awk -v mac="$mac" '$1 == mac && !/permanent/ { print $3; exit }')
		case $port in
		'') continue ;;
		vnet* | tap* | fwpr* | veth*i[0-9]*) ;;
		*) [ -e "/sys/class/net/$port/tun_flags" ] || continue ;;
		esac
		printf '%s%s of %s\n' "$2" "$port" "$dev"
	done
}

# Who needs bridged frames in netfilter, and who brings them there. Files tell it; no daemon is asked.
probe_evidence() {
	local file
	section evidence
	[ -d /etc/pve ] && echo pve=/etc/pve
	for file in /var/lib/kubelet/config.yaml /etc/kubernetes/kubelet.conf /var/lib/rancher/k3s/agent /etc/cni/net.d/*.conf*; do
		[ -e "$file" ] && printf 'kubernetes=%s\n' "$file"
	done
	if [ -s /etc/docker/daemon.json ]; then
		sed -n -e 's|.*"icc"[[:space:]]*:[[:space:]]*false.*|docker-icc=/etc/docker/daemon.json|p' \
			-e 's|.*"userland-proxy"[[:space:]]*:[[:space:]]*false.*|docker-proxy=/etc/docker/daemon.json|p' /etc/docker/daemon.json
	fi
	first_line /run/docker.pid
	if [ -n "$line" ] && [ -r "/proc/$line/cmdline" ]; then
		tr '\0' '\n' <"/proc/$line/cmdline" |
			sed -n -e 's|^--icc=false$|docker-icc=command line of dockerd|p' -e 's|^--userland-proxy=false$|docker-proxy=command line of dockerd|p'
	fi
	grep -lsE 'bridge-nf-call-ip6?tables' /etc/ufw/sysctl.conf /etc/rc.local /etc/network/interfaces /etc/network/interfaces.d/* \
		/etc/network/if-*.d/* /etc/libvirt/hooks/* /etc/modprobe.d/* | sed 's/^/writer=/'
	:
}

# What listens and what is connected, so that a plan can say which of it the rules would cut. Bounded: a
# host may have a hundred thousand.
probe_sockets() {
	section sockets
	awk 'BEGIN {
		for (i = 1; i < ARGC; i++) {
			print ">" ARGV[i]
			for (n = 0; n < 4000 && (getline <ARGV[i]) > 0; n++) if ($4 == "01" || $4 == "0A" || $4 == "07") print $2, $3, $4
			close(ARGV[i])
		}
	}' /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6
}

# What loads rules of others at boot: files as iptables-save writes them, and scripts that call iptables.
# Asked for by those who need it: such a file may be long.
probe_boot_files() {
	local file
	section boot_files
	set --
	for file in /etc/iptables/rules.v4 /etc/iptables/rules.v6 /etc/sysconfig/iptables /etc/sysconfig/ip6tables \
		/etc/iptables.rules /etc/ip6tables.rules /etc/iptables.up.rules /etc/rc.local /etc/rc.d/rc.local /etc/network/interfaces \
		/etc/network/interfaces.d/* /etc/network/if-pre-up.d/* /etc/network/if-up.d/* /etc/networkd-dispatcher/*.d/* \
		/etc/NetworkManager/dispatcher.d/* /etc/cron.d/*; do
		[ -f "$file" ] && [ -r "$file" ] && set -- "$@" "$file"
	done
	[ $# -eq 0 ] || awk '
		FNR == 1 { print ">" FILENAME; save = FILENAME ~ /\/(rules\.v[46]|ip6?tables|ip6?tables(\.up)?\.rules)$/ }
		save && /^(\*|-A )/ || !save && !/^[ \t]*#/ && /ip6?tables/ { print FNR ":" $0 }' "$@"
}

probe_links() {
	section links
	ip -d -j address show 2>/dev/null
	section routes4
	probe_routes 4
	section routes6
	probe_routes 6
}

# VLANs of ports, where a bridge filters by them, is to, or had some from us.
probe_vlans() {
	local file asked=${VLANS-}
	section vlans
	for file in /sys/class/net/*/bridge/vlan_filtering; do
		[ -n "$asked" ] && break
		first_line "$file"
		[ "$line" != 1 ] || asked=yes
	done
	if [ -z "$asked" ]; then
		[ -s $ETC/current/boot.bridges ] || [ -s "${T-}/new/boot.bridges" ] || return 0
		grep -qs -e '^vlan ' -e ' vlan_filtering 1$' $ETC/current/boot.bridges "${T-}/new/boot.bridges" || return 0
	fi
	have bridge && bridge -compressvlans -json vlan show 2>/dev/null
	:
}

# Routes, and the rules that choose among their tables.
probe_routes() {
	ip -o "-$1" -force -batch - <<-'ROUTES' 2>/dev/null
		route show table all
		rule show
	ROUTES
}

probe() {
	probe_host
	if [ "$ROOT" != yes ]; then
		section end
		return
	fi
	probe_state
	probe_boot
	probe_sysctl
	probe_rules 4
	probe_rules 6
	probe_others
	probe_evidence
	probe_links
	probe_vlans
	probe_sockets
	probe_network
	probe_client
	section end
}

ROOT=no
[ -w /proc/sys/net/ipv4/ip_forward ] && ROOT=yes
