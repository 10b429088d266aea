# shellcheck shell=dash disable=SC3043,SC2154
# The generation that an undo goes to, and its record.

# $1 a run (empty: none), $2 a generation (empty: the one before the run's; current, or last: the one before the current)
undo_target() {
	local to=$2 from='' folder number
	section target
	if [ "$to" = last ] || [ "$to" = current ]; then
		[ ! -L $ETC/current ] || from=$(readlink $ETC/current) || refuse unreadable "$ETC/current cannot be read"
		from=${from##*/}
		[ -n "$from" ] || { echo unknown=generation; section end; return; }
		if [ "$to" = last ]; then to=; else to=$from; fi
	fi
	if [ -z "$to" ]; then
		[ -n "$from" ] || [ ! -e $VAR/history ] || from=$(awk -F '\t' -v run="$1" '$3 == run && $4 == "committed" { number = $2 } END { print number }' $VAR/history) ||
			refuse unreadable "$VAR/history cannot be read"
		if [ -z "$from" ]; then
			echo unknown=run
			if [ "$VAR/txn/$1" -ef $VAR/open ]; then echo open=yes; fi
			if [ -d "$VAR/txn/$1" ] || grep -qs "	$1	" $VAR/history; then echo tried=yes; fi
			# For a suggestion, if the name was mistyped.
			awk -F '\t' '{ print "run=" $3 }' $VAR/history 2>/dev/null
			section end
			return
		fi
		# What was live then; a number before it may have been left by an undo at the console.
		first_line "$ETC/generations/$from/before"
		to=$REPLY
		[ -n "$to" ] || [ ! -e "$ETC/generations/$from/before" ] || refuse unreadable "$ETC/generations/$from/before cannot be read"
		if [ -z "$to" ]; then
			to=0
			for folder in "$ETC"/generations/*; do
				number=${folder##*/}
				case $number in '' | *[!0-9]*) continue ;; esac
				[ "$number" -ge "$from" ] || [ "$number" -le "$to" ] || to=$number
			done
		fi
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
