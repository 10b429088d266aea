# shellcheck shell=dash disable=SC3043,SC2154
# What the boot units do: first the transaction that was open, then the rules (settle.sh), then the bridges.

# At boot, before the network: end what was open, then files as the generation has them.
boot_early() {
	vanished
	mkdir -p $VAR
	rm -f $VAR/boot.failed $VAR/boot.left $VAR/boot.repaired
	booting=yes
	current=$(readlink $ETC/current)
	if [ -L $VAR/open ]; then
		exec 9>>$VAR/lock 5>/dev/null
		flock 9
		ID=none T=$VAR/txn/none
		recover
	fi
	never_armed
	[ -e $ETC/current ] && link_files
	# netplan wrote its files for the daemons before this ran.
	[ "$(readlink $ETC/current)" = "$current" ] || ! have netplan || netplan generate
	:
}

# Transactions that the boot met before they were armed: nothing came of them, and what they prepared goes.
never_armed() {
	for T in "$VAR"/txn/*; do
		[ -d "$T" ] && [ ! -e "$T/armed" ] && [ ! -e "$T/done" ] || continue
		ID=${T##*/}
		clear_away
		close_txn "released: the host was booted before it was armed"
	done 5>/dev/null
}

# The lines of boot.bridges that are not so yet: links that are there are not made, addresses that are
# there are not added, and those that are not are not taken away; so it is with gateways. What is left must not fail.
boot_lines() {
	{
		for link in /sys/class/net/*; do printf '%s\n' "${link##*/}"; done
		ip -o addr show | awk '{ print $2, $4 }'
		{ ip -o route show default; ip -o -6 route show default; } | sed -n 's/ dev \([^ ]*\) .*/ dev \1/p'
		echo '='
		cat "$1"
	} | awk '
		$0 == "=" { rest = 1; next }
		!rest { there[$0] = 1; next }
		/^link add name / { made[$4] }
		/^link add name / && ($4 in there) { next }
		# At the name of a bridge that is not there ip would end; this fails, and is told.
		/^link set dev .* master / && !($6 in there) && !($6 in made) { print "link set dev " $6 " up"; next }
		/^addr add / && (($5 " " $3) in there) { next }
		/^route replace default via [^ ]* dev [^ ]*( proto static)?$/ && (($3 " " $4 " " $5 " " $6 " " $7) in there) { next }
		/^vlan / { next }
		/^addr del / && !(($5 " " $3) in there) { next }
		{ print }'
}

# The VLANs of boot.bridges, less those that are to go and are not there.
boot_vlans() {
	grep -q '^vlan ' "$1" || return 0
	{
		bridge vlan show
		echo '='
		grep '^vlan ' "$1"
	} | awk '
		$0 == "=" { rest = 1; next }
		!rest && /^[^ \t]/ { port = $1; $1 = "" }
		!rest { $0 = $0; there[port " " $1]; next }
		/^vlan add / { print; next }
		{
			if (split($6, ends, "-") == 1) ends[2] = ends[1]
			for (vid = ends[1] + 0; vid <= ends[2] + 0; vid++) if (($4 " " vid) in there) { $6 = vid; print }
		}'
}

# Has lines $2 done by $1 (ip or bridge), every one of them, and says which failed and why.
boot_batch() {
	local said
	[ -n "$2" ] || return 0
	said=$(printf '%s\n' "$2" | "$1" -force -batch - 2>&1)
	[ -z "$said" ] || failed_lines "$2" "$said" | sed 's/^/bridges: /'
}

# At boot, after the distribution has made its links. Every line is tried; those that failed are told.
boot_bridges() {
	local lines said
	[ -s $ETC/current/boot.bridges ] || return 0
	lines=$(boot_lines $ETC/current/boot.bridges)
	said=$(
		boot_batch ip "$(printf '%s\n' "$lines" | grep -v ' vlan_filtering 1$')"
		# Ports that there were not until now have VLANs too.
		boot_batch bridge "$(boot_vlans $ETC/current/boot.bridges)"
		boot_batch ip "$(printf '%s\n' "$lines" | grep ' vlan_filtering 1$')"
	)
	[ -n "$said" ] || return 0
	printf '%s\n' "$said" >>$VAR/boot.failed
	shout "not all of the bridges could be set at boot: $(printf '%s\n' "$said" | head -n 1)"
	return 1
}
