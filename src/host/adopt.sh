# shellcheck shell=dash disable=SC3043,SC2154
# Adopted rules, and what puts them back, as the foreign text of iptables.sh.
#
# generations/N/adopted/K.4   what generation K took of iptables, as the list that puts it back; each
#                             generation has all that was taken up to it

# REPLY: foreign text of what this transaction does to unmanaged rules of family $1.
adopt_goal() {
	local adopted=''
	if [ -e "$T/new/adopt$1" ]; then
		text_read "$T/new/adopt$1" || return 1
		adopted=$REPLY
	fi
	REPLY=$adopted
	[ -e "$T/new/back" ] || return 0
	text_read "$T/new/back" && adopt_way_back "$1" "$REPLY" || return 1
	REPLY=$adopted${adopted:+$NL}$REPLY
}

# REPLY: foreign text that puts back the rules of family $1 that were adopted since generation $2, the newest first.
adopt_way_back() {
	local file number next last='' back=''
	while :; do
		next=
		for file in "$ETC"/current/adopted/*."$1"; do
			number=${file##*/} number=${number%.*}
			case $number in '' | *[!0-9]*) continue ;; esac
			[ -n "$last" ] && [ "$number" -ge "$last" ] || [ "$number" -lt "${next:-0}" ] || next=$number
		done
		[ -n "$next" ] || { REPLY=$back; return 0; }
		last=$next
		[ ! -e "$ETC/generations/$2/adopted/$next.$1" ] || continue
		text_read "$ETC/current/adopted/$next.$1" || return 1
		back="$back${back:+$NL}&$NL$REPLY"
	done
}

# REPLY: own text $1 and foreign text $2 as one; empty if both are.
adopt_join() { REPLY=$1${2:+$NL$2}; }

# REPLY: foreign text that undoes foreign text $2 on a host with live rules $1.
adopt_inverse() {
	local back
	back=$(awk "$ADOPT_INVERSE_AWK" <<-TEXTS
			$1
			=
			$2
			#end
		TEXTS
	) && text_unwrap_output "$back"
}

# What the generation to be has taken: all that the one before has, or the one that is gone back to, and
# what this transaction takes.
adopt_keep_rules() {
	local from=$ETC/current file family
	if [ -e "$T/new/back" ]; then
		text_read "$T/new/back" || return 1
		from=$ETC/generations/$REPLY
	fi
	for file in "$from"/adopted/*; do
		# What was given back since then is not taken again by going there.
		[ ! -e "$ETC/current/adopted/${file##*/}" ] || cp "$file" "$G/adopted/" || return 1
	done
	for family in 4 6; do
		[ ! -e "$T/new/adopt$family" ] || cp "$T/pre/foreign$family" "$G/adopted/$generation.$family" || return 1
	done
}

# Prints how many rules are adopted, by the generation that adopted them.
adopt_print_counts() {
	awk '/^\+-A / { n = split(FILENAME, part, "/"); sub(/\..*/, "", part[n]); rules[part[n]]++ }
		END { for (n in rules) printf "adopted=%s %s\n", n, rules[n] }' $ETC/current/adopted/*.[46] 2>/dev/null | sort -t = -k 2n
}

# Keeps the files of sysctl.d that are adopted as they are, with mode and owner.
adopt_keep_files() {
	local name kept=$VAR/original/files
	[ -e "$T/new/adopt.files" ] || return 0
	text_read "$T/new/adopt.files" || return 1
	local IFS="$NL"
	for name in $REPLY; do
		[ -f "/etc/sysctl.d/$name" ] && [ ! -L "/etc/sysctl.d/$name" ] && [ ! -e "$kept/$name" ] || continue
		cp -p "/etc/sysctl.d/$name" "$kept/$name.new" && disk_sync "$kept/$name.new" && mv -f "$kept/$name.new" "$kept/$name" || return 1
	done
	disk_sync "$kept"
}
