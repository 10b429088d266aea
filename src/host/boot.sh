# shellcheck shell=dash disable=SC3043,SC2154
# What the boot units do: first the transaction that was open, then the rules (boot_settle.sh), then the bridges.

# Runs $1 for a boot unit. If the shell ends before that is done, the boot counts as failed.
boot_run_unit() {
	local rc
	unit=$1
	trap 'boot_note_unfinished $?' EXIT
	"$1"
	rc=$?
	unit=
	return $rc
}

boot_note_unfinished() { [ -z "$unit" ] || echo "$unit: ended with status $1 before its work was done" >>$VAR/boot.failed; }

# At boot, before the network: end what was open, then files as the generation has them.
boot_early() {
	txn_finish_removal
	mkdir -p $VAR
	rm -f $VAR/boot.failed $VAR/boot.left $VAR/boot.repaired
	booting=yes
	current=$(readlink $ETC/current)
	if [ -L $VAR/open ]; then
		exec 9>>$VAR/lock 5>/dev/null
		# Goes on without the lock too: an actor that hangs is replaced, one that moves is left alone.
		lock_within 9 30
		ID=none T=$VAR/txn/none
		txn_recover
	fi
	boot_release_unarmed
	[ -e $ETC/current ] && files_link
	# netplan wrote its files for the daemons before this ran.
	[ "$(readlink $ETC/current)" = "$current" ] || ! have netplan || timeout -s KILL 30 netplan generate
	:
}

# Transactions that the boot met before they were armed: nothing came of them, and what they prepared goes.
boot_release_unarmed() {
	for T in "$VAR"/txn/*; do
		[ -d "$T" ] && [ ! -e "$T/armed" ] && [ ! -e "$T/done" ] || continue
		ID=${T##*/} R=$RUN/${T##*/}
		txn_clear_away
		txn_close "released: the host was booted before it was armed"
	done 5>/dev/null
}

# REPLY: the lines of $1 that still change something: without links and addresses that exist already, without the removal of
# those that do not, and the same for gateways. None of the remaining lines may fail.
boot_missing_lines() {
	local link links='' addresses routes todo
	for link in /sys/class/net/*; do links="$links${link##*/}$NL"; done
	addresses=$("${IP:-ip}" -o addr show) || return 1
	# Without IPv6 there are no routes of it; a gateway that is not seen here is only set once more.
	routes=$("${IP:-ip}" -o route show default; "${IP:-ip}" -o -6 route show default)
	todo=$(awk "$BOOT_MISSING_LINES_AWK" <<-TEXTS
			=links
			$links
			=addresses
			$addresses
			=routes
			$routes
			=
			$1
			#end
		TEXTS
	) && text_unwrap_output "$todo"
}

# REPLY: the VLANs among lines $1, less those that are to be removed and are missing already.
boot_missing_vlans() {
	local there todo
	REPLY=
	case $NL$1 in *"${NL}vlan "*) ;; *) return 0 ;; esac
	there=$(bridge vlan show) || return 1
	todo=$(awk "$BOOT_MISSING_VLANS_AWK" <<-TEXTS
			$there
			=
			$1
			#end
		TEXTS
	) && text_unwrap_output "$todo"
}

# Has lines $2 done by $1 (ip or bridge), every one of them, and adds to errors which failed and why.
boot_run_batch() {
	local said
	[ -n "$2" ] || return 0
	if feed "$2" "$1" -force -batch - && [ -z "$REPLY" ]; then return; fi
	said=$REPLY
	[ -z "$said" ] || said=$(net_print_failures "$2" "$said") || said=
	[ -n "$said" ] || said="$1 did not come to its end"
	while [ -n "$said" ]; do
		errors="${errors}bridges: ${said%%"$NL"*}$NL"
		case $said in *"$NL"*) said=${said#*"$NL"} ;; *) said= ;; esac
	done
}

# At boot, after the distribution has made its links. Every line is tried; those that failed are reported.
boot_bridges() {
	local text line links='' filters='' errors='' IFS
	[ -L $ETC/current ] || return 0
	if ! text_read $ETC/current/boot.bridges; then
		errors="bridges: $ETC/current/boot.bridges cannot be read$NL"
	elif [ -n "$REPLY" ]; then
		text=$REPLY
		# Once more, for a program that was killed: without the bridges the guests have no network.
		boot_missing_lines "$text" || boot_missing_lines "$text" || {
			errors="bridges: the links that are there cannot be read$NL"
			REPLY=
		}
		IFS=$NL
		set -f
		for line in $REPLY; do
			case $line in *' vlan_filtering 1') filters=$filters$line$NL ;; *) links=$links$line$NL ;; esac
		done
		set +f
		unset IFS
		boot_run_batch "${IP:-ip}" "${links%"$NL"}"
		# Ports that there were not until now have VLANs too.
		if boot_missing_vlans "$text"; then boot_run_batch bridge "$REPLY"; else errors="${errors}bridges: the VLANs that are there cannot be read$NL"; fi
		boot_run_batch "${IP:-ip}" "${filters%"$NL"}"
	fi
	[ -n "$errors" ] || return 0
	printf '%s' "$errors" >>$VAR/boot.failed
	guard_broadcast "not all of the bridges could be set at boot: ${errors%%"$NL"*}"
	return 1
}
