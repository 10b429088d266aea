# shellcheck shell=dash disable=SC3043,SC2154
# The outcome of every transaction, and the record of each generation that is kept.

history_print() {
	local folder
	section history
	[ ! -e $VAR/history ] || tail -n 200 $VAR/history || refuse unreadable "$VAR/history cannot be read"
	section current
	folder=
	if [ -L $ETC/current ]; then
		folder=$(readlink $ETC/current) || refuse unreadable "which generation boots cannot be read from $ETC/current"
	fi
	printf '%s\n' "${folder##*/}"
	for folder in "$ETC"/generations/*/; do
		[ -e "$folder/desired.json" ] || continue
		folder=${folder%/}
		section "record ${folder##*/}"
		cat "$folder/desired.json"
	done
	section end
}
