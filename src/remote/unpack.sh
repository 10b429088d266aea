# shellcheck shell=dash disable=SC3043,SC2154
# The files of a transaction arrive in one here-document, each behind a line with its name.

unpack() {
	awk -v mark="@$NONCE " -v folder="$T/" '
		index($0, mark) == 1 { if (file) close(file); file = folder substr($0, length(mark) + 1); printf "" >file; next }
		{ print >file }'
}

# Whether so many bytes are there in all of these files: not every awk tells of a disk that is full.
arrived() {
	local bytes=$1
	shift
	[ "$(cd "$T" && cat "$@" | wc -c)" -eq "$bytes" ] || refuse no_space "cannot write to $T"
}
