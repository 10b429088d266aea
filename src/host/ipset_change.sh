# shellcheck shell=dash disable=SC3043,SC2154
# Changes of sets: in an apply, its rollback, at boot and in an undo at the console, all by one way. They are there
# before the rules that ask them, and go after those; members change in one step, by a swap.

txn_sets() { "$@" <"$T/new/sets"; }

# Prints what ipset has of the sets that text $1 names, and of what a swap left behind, and `#end` if that is complete.
# Unmanaged sets are not read: they can be large, and this runs every few seconds.
ipset_save_named() {
	local names
	! ipset_is_loaded && { echo '#end'; return; }
	names=$(ipset list -n 2>/dev/null) || return 1
	names=$(printf '%s\n=\n%s\n#end\n' "$1" "$names" | awk '
		{ last = $0 }
		$0 == "=" { live = 1; next }
		!live { if ($1 == "create" || $1 == "keep") named[$2]; next }
		($1 in named) || /^kvmfw-/ { print "save " $1 }
		END { if (last == "#end") print last }') && text_unwrap_output "$names" || return 1
	names=$REPLY
	# One that was destroyed meanwhile would end the list.
	[ -z "$names" ] || printf '%s\n' "$names" | ipset restore 2>/dev/null || return 1
	echo '#end'
}

# REPLY: the input of `ipset restore` that makes the sets as text $1 states.
ipset_change() {
	local change
	change=$(
		{
			printf '%s\n=\n' "$1"
			ipset_save_named "$1" || ipset_save
		} | awk "$IPSET_CHANGE_AWK"
	) && text_unwrap_output "$change"
}

# Makes the sets as text $1 states, and notes the new ones in file $2. REPLY: why it fails.
ipset_load() {
	local change made=''
	have ipset || { REPLY='there is no ipset on this host'; return 1; }
	ipset_change "$1" || { REPLY='the sets that are there cannot be read'; return 1; }
	change=$REPLY
	case $change in
	'') return 0 ;;
	'type '*) REPLY="the set ${change#type } is there as another type"; return 1 ;;
	esac
	if [ -n "${2-}" ]; then
		made=$(printf '%s\n#end\n' "$change" | sed -n -e '/^create kvmfw-/d' -e 's/^create \([^ ]*\) .*/\1/p' -e '/^#end$/p') && text_unwrap_output "$made" &&
			text_write "$2" "$REPLY" || { REPLY="cannot write $2"; return 1; }
	fi
	feed "$change" ipset restore || { REPLY=${REPLY:-ipset did not come to its end}; return 1; }
	ipset_change "$1" && [ -z "$REPLY" ] || { REPLY='the sets were not there after loading them'; return 1; }
}

# Destroys the sets of names $1 that exist. One that an unmanaged rule uses stays, which is logged.
ipset_drop() {
	local name there lines='' IFS="$NL"
	[ -n "$1" ] && have ipset && ipset_is_loaded || return 0
	there=$(ipset list -n 2>/dev/null) || { say "the sets that are there cannot be read"; return 1; }
	for name in $1; do
		case "$NL$there$NL" in *"$NL$name$NL"*) lines="${lines}destroy $name$NL" ;; esac
	done
	unset IFS
	[ -n "$lines" ] || return 0
	feed "${lines%"$NL"}" ipset restore && return
	IFS=$NL
	for name in $lines; do
		name=${name#destroy }
		ipset destroy "$name" 2>/dev/null || say "the set $name stays: something else uses it"
	done
	:
}

# REPLY: the names behind `gone` in text $1.
ipset_gone_names() {
	local line IFS="$NL"
	REPLY=
	for line in $1; do
		case $line in 'gone '*) REPLY=$REPLY${line#gone }$NL ;; esac
	done
}

# REPLY_wanted: the desired sets of the transaction. REPLY_once: those that return to their baseline, and `gone NAME`.
ipset_read_change() {
	text_read "$T/new/sets" && REPLY_wanted=$REPLY && text_read "$T/new/sets.once" && REPLY_once=$REPLY
}

# Writes down the sets that the transaction touches, and which others there are: of a set whose members are those of
# others, and of one that goes, what makes it again where it is gone; of one that stays, nothing else is ours to restore.
txn_snapshot_sets() {
	local whole=''
	ipset_read_change || return 1
	if [ -n "$REPLY_wanted$REPLY_once" ] && have ipset; then
		whole=$(
			{
				printf '%s\n%s\n=\n' "$REPLY_wanted" "$REPLY_once"
				ipset_save
			} | awk "$TXN_SNAPSHOT_SETS_AWK"
		) && text_unwrap_output "$whole" || return 1
		whole=$REPLY
	fi
	text_write "$T/pre/sets" "$whole"
}

txn_apply_sets() {
	txn_step sets
	ipset_read_change || txn_fail "the sets of this change cannot be read"
	[ -n "$REPLY_wanted$REPLY_once" ] || return 0
	ipset_load "$REPLY_wanted$NL$REPLY_once" "$R/made.sets" || txn_fail "ipset: $REPLY"
}

# Once no managed rule uses them any more.
txn_apply_sets_gone() {
	ipset_read_change || txn_fail "the sets of this change cannot be read"
	ipset_gone_names "$REPLY_once"
	[ -z "$REPLY" ] || ipset_drop "$REPLY" || txn_fail "the sets that go are still there"
}

# The sets as they were, before the rules that ask them are put back.
txn_restore_sets() {
	text_read "$T/pre/sets" || { say "the sets that were there before cannot be read"; return 1; }
	[ -n "$REPLY" ] || return 0
	ipset_load "$REPLY" || { say "after the rollback not back: sets: $REPLY"; return 1; }
}

# Sets that the change made go again, after the rules that ask them. What others did to theirs meanwhile stays so.
txn_restore_sets_gone() {
	local text line made names='' there lost='' IFS
	[ -e "$T/made.sets" ] || return 0
	text_read "$T/made.sets" && made=$REPLY && text_read "$T/pre/sets" || { say "which sets were there before cannot be read"; return 1; }
	text=$REPLY
	IFS=$NL
	# A list of sets goes before the sets in it, and was made after them.
	for line in $made; do names=$line$NL$names; done
	unset IFS
	ipset_drop "$names" || return 1
	case $NL$text in *"${NL}other "*) ;; *) return 0 ;; esac
	there=$(ipset list -n 2>/dev/null) || return 0
	IFS=$NL
	for line in $text; do
		case $line in 'other '*) line=${line#other } ;; *) continue ;; esac
		case "$NL$there$NL" in *"$NL${line%% *}$NL"*) ;; *) lost="$lost ${line%% *}" ;; esac
	done
	[ -z "$lost" ] || say "changed by others meanwhile, and left so: gone are the sets$lost"
}

# Makes the sets of the generation that boots, and records a failure; broadcasts a new one.
boot_load_sets() {
	local said lines rc=0
	# A generation of a kvmfw that knew no sets has no such file.
	[ -e $ETC/current/sets ] || return 0
	if ! text_read $ETC/current/sets; then
		rc=1 said="$ETC/current/sets cannot be read"
	elif [ -n "$REPLY" ]; then
		ipset_load "$REPLY" || rc=1
		said=${REPLY%%"$NL"*}
	fi
	boot_lines_without 'ipset: ' $VAR/boot.failed
	lines=$REPLY
	if [ $rc -ne 0 ]; then
		grep -qsxF "ipset: $said" $VAR/boot.failed || guard_broadcast "not all of the sets could be made, and rules that ask them may be left out: $said"
		lines="${lines}ipset: $said$NL"
	fi
	boot_keep_lines "${lines%"$NL"}" $VAR/boot.failed
	return $rc
}

# Compares the sets of the generation once, after the boot, and repairs them. Fails when it has repaired too often.
boot_settle_sets() {
	local program=ipset failed=''
	[ -e $ETC/current/sets ] && text_read $ETC/current/sets && [ -n "$REPLY" ] && have ipset || return 0
	ipset_change "$REPLY" && [ -n "$REPLY" ] || return 0
	! grep -qs '^ipset: ' $VAR/boot.failed || failed=yes
	[ -r $VAR/lock ] || return 0
	exec 9<$VAR/lock
	if ! flock -n 9 || [ -L $VAR/open ]; then
		exec 9<&-
		return 0
	fi
	echo "$SETTLES" >$VAR/lock
	boot_load_sets
	[ -n "$failed" ] || boot_note_repair
	true >$VAR/lock
	exec 9<&-
	[ "$repairs" -lt $MOST_REPAIRS ]
}

# Whether the live sets differ from the generation.
ipset_generation_differs() {
	[ -e $ETC/current/sets ] || return 1
	text_read $ETC/current/sets || return 0
	[ -n "$REPLY" ] || return 1
	have ipset && ipset_change "$REPLY" && [ -z "$REPLY" ] || return 0
	return 1
}

# The sets of an undo at the console from generation $1 to $2. REPLY_wanted: those of the second. REPLY_once: what becomes of
# sets that only the first has.
undo_read_sets() {
	local once originals='' from=''
	REPLY_wanted='' REPLY_once=''
	if [ -e "$ETC/generations/$1/sets" ]; then
		text_read "$ETC/generations/$1/sets" && from=$REPLY && text_read "$ETC/generations/$1/sets.originals" && originals=$REPLY || return 1
	fi
	if [ -e "$ETC/generations/$2/sets" ]; then
		text_read "$ETC/generations/$2/sets" && REPLY_wanted=$REPLY || return 1
	fi
	[ -n "$from" ] || return 0
	once=$(printf '%s\n=\n%s\n=\n%s\n#end\n' "$REPLY_wanted" "$originals" "$from" | awk "$UNDO_READ_SETS_AWK") && text_unwrap_output "$once" || return 1
	REPLY_once=$REPLY
}
