# shellcheck shell=dash disable=SC3043,SC2154
# Which generation an undo goes back to, and what that one wants.

# $1 a run (empty: none), $2 a generation (empty: the one before the run's)
target() {
	local to=$2 from=''
	section target
	if [ -z "$to" ]; then
		[ ! -e $VAR/history ] || from=$(awk -F '\t' -v run="$1" '$3 == run && $4 == "committed" { print $2 }' $VAR/history) ||
			refuse unreadable "$VAR/history cannot be read"
		if [ -z "$from" ]; then
			echo unknown=run
			if [ -d "$VAR/txn/$1" ] || grep -qs "	$1	" $VAR/history; then echo tried=yes; fi
			# Whoever mistyped one is told of the nearest.
			awk -F '\t' '{ print "run=" $3 }' $VAR/history 2>/dev/null
			section end
			return
		fi
		# What was live then; a number before it may have been left by an undo at the console.
		first_line "$ETC/generations/$from/before"
		to=$line
		[ -n "$to" ] || [ ! -e "$ETC/generations/$from/before" ] || refuse unreadable "$ETC/generations/$from/before cannot be read"
		# shellcheck disable=SC2012
		[ -n "$to" ] || to=$(ls -1 $ETC/generations 2>/dev/null | sort -n | awk -v from="$from" '$1 + 0 < from + 0 { last = $1 } END { print last + 0 }')
	fi
	if [ "$to" != 0 ] && [ ! -e "$ETC/generations/$to/desired.json" ]; then
		echo unknown=generation
	else
		printf 'to=%s\n' "$to"
		section record
		[ "$to" = 0 ] || cat "$ETC/generations/$to/desired.json"
	fi
	section end
}
