# shellcheck shell=dash disable=SC3043,SC2154
# Uploads a transaction to its host, up to the call of its own script.

# $1 the run. The document has the files: `document_files COMMAND…` gives them to a command.
upload_run() {
	T=$VAR/txn/$1
	mkdir -p "${T%/*}" && mkdir "$T" || {
		[ ! -e "$T" ] || refuse same-host 'this run is at this host already, under another name in the inventory'
		refuse no-space "cannot make $T"
	}
	mkdir -p "$T/new/sysctl.d" "$T/new/net" "$T/new/run" "$T/new/base" "$T/pre" "$T/units" || refuse no-space "cannot make $T"
	document_files upload_unpack "@$NONCE" || refuse no-space "cannot write to $T"
	export NONCE VLANS SSH_CONNECTION
	exec sh "$T/kvmfw.sh" stage "$1" </dev/null
}

# Writes what comes in to files below $T, all of them by one program: each begins with a line of $1 and its
# path. Lines are text; a file ends with a newline or is empty. All is read again, and whole: the awk of busybox
# does not say that a disk was full.
upload_unpack() {
	awk -v mark="$1 " -v folder="$T/" "$UPLOAD_UNPACK_AWK"
}
