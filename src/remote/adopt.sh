# shellcheck shell=dash disable=SC3043,SC2154
# Rules of others that are taken over, and what puts them back. In the words of iptables.sh ("foreign text").
#
# generations/N/adopted/K.4   what generation K took of iptables, as the list that puts it back; each
#                             generation has all that was taken up to it

# Sets foreign to what this transaction does about rules of others of family $1.
adopt_goal() {
	local text
	foreign=
	if [ -e "$T/new/adopt$1" ]; then
		text_read "$T/new/adopt$1" || return 1
		foreign=$text
	fi
	[ -e "$T/new/back" ] || return 0
	text_read "$T/new/back" && adopt_way_back "$1" "$text" || return 1
	foreign=$foreign${foreign:+$NL}$back
}

# Sets back to what puts back what was taken of family $1 since generation $2; the last that was taken first.
adopt_way_back() {
	local file number next last='' text
	back=
	while :; do
		next=
		for file in "$ETC"/current/adopted/*."$1"; do
			number=${file##*/} number=${number%.*}
			case $number in '' | *[!0-9]*) continue ;; esac
			[ -n "$last" ] && [ "$number" -ge "$last" ] || [ "$number" -lt "${next:-0}" ] || next=$number
		done
		[ -n "$next" ] || return 0
		last=$next
		[ ! -e "$ETC/generations/$2/adopted/$next.$1" ] || continue
		text_read "$ETC/current/adopted/$next.$1" || return 1
		back="$back${back:+$NL}&$NL$text"
	done
}

# Sets text to own text $1 and foreign text $2 as one; empty where both are.
adopt_join() {
	text=$1
	[ -z "$2" ] || text="$1
$2"
}

# Sets back to what undoes foreign text $2 on a host with live rules $1.
adopt_inverse() {
	local whole
	back=$(awk "$ADOPT_INVERSE_AWK" <<-TEXTS
			$1
			=
			$2
			#end
		TEXTS
	) && text_unwrap_output "$back" || return 1
	back=$whole
}

# What the generation to be has taken: all that the one before has, or the one that is gone back to, and
# what this transaction takes.
adopt_keep_rules() {
	local from=$ETC/current file family text
	if [ -e "$T/new/back" ]; then
		text_read "$T/new/back" || return 1
		from=$ETC/generations/$text
	fi
	for file in "$from"/adopted/*; do
		# What was given back since then is not taken again by going there.
		[ ! -e "$ETC/current/adopted/${file##*/}" ] || cp "$file" "$G/adopted/" || return 1
	done
	for family in 4 6; do
		[ ! -e "$T/new/adopt$family" ] || cp "$T/pre/foreign$family" "$G/adopted/$generation.$family" || return 1
	done
}

# How many rules of others are taken over, by the generation that took them.
adopt_print_counts() {
	awk '/^\+-A / { n = split(FILENAME, part, "/"); sub(/\..*/, "", part[n]); rules[part[n]]++ }
		END { for (n in rules) printf "adopted=%s %s\n", n, rules[n] }' $ETC/current/adopted/*.[46] 2>/dev/null | sort -t = -k 2n
}

# Files of sysctl.d that become ours: kept as they were, with mode and owner.
adopt_keep_files() {
	local name text kept=$VAR/original/files
	[ -e "$T/new/adopt.files" ] || return 0
	text_read "$T/new/adopt.files" || return 1
	local IFS="$NL"
	for name in $text; do
		[ -f "/etc/sysctl.d/$name" ] && [ ! -L "/etc/sysctl.d/$name" ] && [ ! -e "$kept/$name" ] || continue
		cp -p "/etc/sysctl.d/$name" "$kept/$name.new" && disk_sync "$kept/$name.new" && mv -f "$kept/$name.new" "$kept/$name" || return 1
	done
	disk_sync "$kept"
}
