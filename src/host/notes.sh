# shellcheck shell=dash disable=SC3043,SC2154
# How the probe reads the files of a host.
# A process costs more than all that a shell does itself here, so files are noted in `reads`, and one awk reads them
# all at the end.

reads='' boot_files_asked=''
# Notes section $1.
note_section() { reads="$reads$NL@$1"; }
# Notes a line for it that is known already.
note_line() { reads="$reads$NL=$1"; }
# Notes file $1.
note_file() {
	[ -f "$1" ] && [ -r "$1" ] || return 0
	case $1 in *"$NL"*) ;; *) reads="$reads$NL$1" ;; esac
}

note_print() {
	local mark='\n@'$NONCE' %s\n'
	[ "$NONCE" != - ] || mark='%s:\n'
	# A shell that has no room for a list in a file has one in a pipe; the last of two equal sections counts.
	awk -v mark="$mark" -v whole="$boot_files_asked" "$NOTE_PRINT_AWK" 2>/dev/null <<-LIST || printf '%s\n' "$reads" | awk -v mark="$mark" -v whole="$boot_files_asked" "$NOTE_PRINT_AWK"
		$reads
	LIST
}

# Reads the targets of those of these files that are symbolic links, for link_target.
link_read() {
	local file targets odd=''
	set -- "$@" ""
	while [ -n "$1" ]; do
		[ -L "$1" ] && set -- "$@" "$1"
		shift
	done
	shift
	links=$NL
	[ $# -gt 0 ] || return 0
	targets=$(readlink "$@")$NL
	for file; do
		[ -n "${targets%%"$NL"*}" ] || odd=yes
		links="$links$file ${targets%%"$NL"*}$NL"
		targets=${targets#*"$NL"}
	done
	[ -n "$targets$odd" ] || return 0
	# Some readlink take one file only, and a link may have gone meanwhile.
	links=$NL
	for file; do links="$links$file $(readlink "$file")$NL"; done
}

# REPLY: the target of link $1, as link_read read it; empty if it is not a link.
link_target() {
	REPLY=
	case $links in *"$NL$1 "*)
		REPLY=${links#*"$NL$1 "}
		REPLY=${REPLY%%"$NL"*}
		;;
	esac
}
