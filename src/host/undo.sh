# shellcheck shell=dash disable=SC3043,SC2154
# An undo at the console, where the controller is out of reach.

# REPLY: what the sysctl files of the generation in folder $1 set, as PATH=VALUE. If two files set a key, the last counts.
sysctl_generation_keys() {
	local file text
	REPLY=
	for file in "$1"/sysctl.d/*.conf; do
		[ ! -e "$file" ] || { set -- "$@" "$file"; }
	done
	shift
	[ $# -gt 0 ] || return 0
	# As sysctl.d(5): where the first separator is a dot, dots and slashes swap.
	text=$(awk "$SYSCTL_GENERATION_KEYS_AWK" "$@") && text_unwrap_output "$text" || return 1
	REPLY=${REPLY:+$REPLY$NL}
}

# REPLY: the generation before $1, as that recorded it, or if it did not, the newest older one that has its rules.
undo_generation_before() {
	local file number to=0
	if [ -e "$ETC/generations/$1/before" ]; then
		first_line "$ETC/generations/$1/before"
		[ -n "$REPLY" ] || { say "which generation was before $1 cannot be read: name it"; return 1; }
		return
	fi
	for file in "$ETC"/generations/*; do
		number=${file##*/}
		case $number in '' | *[!0-9]*) continue ;; esac
		[ -s "$file/rules.v4" ] && [ -s "$file/rules.v6" ] || continue
		[ "$number" -ge "$1" ] || [ "$number" -le "$to" ] || to=$number
	done
	REPLY=$to
}

# REPLY: the baseline of the policies of family $1, as own text.
undo_policies() {
	local goal='' line IFS="$NL"
	text_read $VAR/original/policies || return 1
	for line in $REPLY; do
		case $line in "$1 "*) ;; *) continue ;; esac
		IFS=' '
		# shellcheck disable=SC2086 # its words
		set -- $line
		IFS=$NL
		goal="$goal*$2$NL:$3 $4${NL}COMMIT$NL"
	done
	REPLY=${goal%"$NL"}
}

# REPLY: KEY=VALUE of what an undo from generation $1 to $2 sets: what that generation sets, and the baseline of keys that it
# does not set.
undo_keys() {
	local key keys value text was there
	sysctl_generation_keys "$ETC/generations/$2" || return 1
	keys=$REPLY
	there=$NL$keys
	REPLY=
	[ ! -e $VAR/original/sysctl ] || text_read $VAR/original/sysctl || return 1
	was=$NL$REPLY$NL
	if [ -e "$ETC/generations/$1/sysctl.keys" ]; then
		text_read "$ETC/generations/$1/sysctl.keys" || return 1
		text=$REPLY
	else
		# What a deleted generation set is not known: some of these keys.
		text=
		while IFS= read -r key; do text="$text${key%%=*}$NL"; done <<-KEYS
			$was
		KEYS
	fi
	for key in $text; do
		case $there in *"$NL$key="*) continue ;; esac
		case $was in *"$NL$key="*) ;; *) continue ;; esac
		value=${was#*"$NL$key="}
		keys=$keys$key=${value%%"$NL"*}$NL
	done
	REPLY=$keys
}

# At the console, with the controller out of reach: back to an older generation, at once and without
# a guard, because the operator sits in front of the host. Bridges stay as they are.
# $1 a generation, 0 for the state before kvmfw; empty for the one before the current.
undo_run() {
	local current to=${1-} family goal bridges rc=0
	exec 9>>$VAR/lock
	flock -n 9 || { say "locked by $(cat $VAR/lock)"; return 1; }
	[ ! -L $VAR/open ] || { say "a transaction is open: rollback or confirm it first"; return 1; }
	[ -L $ETC/current ] || { say "this host is not managed"; return 1; }
	current=$(readlink $ETC/current) && [ -n "$current" ] || { say "which generation boots cannot be read"; return 1; }
	current=${current##*/}
	[ -n "$to" ] || { undo_generation_before "$current" && to=$REPLY; } || return 1
	[ "$to" = 0 ] || [ -e "$ETC/generations/$to/desired.json" ] || { say "there is no generation $to"; return 1; }
	undo_read_sets "$current" "$to" || { say "the sets of generation $to cannot be read: name another"; return 1; }
	[ -z "$REPLY_wanted$REPLY_once" ] || ipset_load "$REPLY_wanted$NL$REPLY_once" || { say "the sets did not load: $REPLY"; return 1; }
	# A disk that is full must not cut off what is loaded: nothing of it is written there.
	for family in 4 6; do
		ipt_find_backend $family || continue
		if [ "$to" = 0 ]; then
			undo_policies $family || { say "the policies from before kvmfw cannot be read"; return 1; }
		else
			text_read "$ETC/generations/$to/rules.v$family" || { say "the $(ipt_print_program $family) rules of generation $to cannot be read: name another"; return 1; }
		fi
		goal=$REPLY
		adopt_way_back $family "$to" || { say "the $(ipt_print_program $family) rules that were adopted cannot be read"; return 1; }
		adopt_join "$goal" "$REPLY"
		ipt_load $family "$REPLY" || { say "the $(ipt_print_program $family) rules did not load"; return 1; }
	done
	ipset_gone_names "$REPLY_once"
	ipset_drop "$REPLY" || rc=1
	# What the generation sets, and for keys that it does not set what was there before us: of two the last.
	if ! { undo_keys "$current" "$to" || { REPLY=; false; }; } || ! sysctl_write "$REPLY" /dev/stderr; then
		# Where the kernel refused some, once more would not help.
		[ -n "$REPLY" ] || {
			say "the rules of generation $to are live, but the sysctl keys cannot be read, and the next boot loads generation $current: undo once more"
			return 1
		}
		rc=1
	fi
	printf '%s\t%s\tconsole\tundo\t%s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$to" "${SUDO_USER:-root}" >>$VAR/history
	if [ "$to" = 0 ]; then
		for family in 4 6; do ipt_find_backend $family && ipt_tidy_tables $family $VAR/original/tables$family; done
		rm -f $ETC/current
		files_unlink_all || files_unlink_all || {
			say "not all of the files in /etc could be removed: look for kvmfw in /etc/systemd/system and /etc/sysctl.d"
			rc=1
		}
		txn_remove_traces
		echo "back at the state before kvmfw$([ $rc = 0 ] || echo ', less what is said above')"
		return $rc
	fi
	ln -sfn "generations/$to" $ETC/current.new && mv -fT $ETC/current.new $ETC/current && disk_sync $ETC || {
		say "generation $to is live, but the next boot loads generation $current: $ETC cannot be written"
		return 1
	}
	files_link || {
		say "not all of the files in /etc are those of generation $to; the next boot puts them right"
		rc=1
	}
	bridges=
	text_read "$ETC/generations/$current/boot.bridges" && bridges=$REPLY
	if ! text_read "$ETC/generations/$to/boot.bridges" || [ "$bridges" != "$REPLY" ]; then
		bridges='; bridges stay as they are until the next boot'
	else
		bridges=
	fi
	echo "back at generation $to$([ $rc = 0 ] || echo ', less what is said above')$bridges"
	return $rc
}
