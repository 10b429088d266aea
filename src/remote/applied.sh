# shellcheck shell=dash disable=SC3043,SC2154
# What the generation that boots wanted: the probe compares with that instead of with an inventory.

want() {
	asked=$ETC/current/want$1
	[ -r "$asked" ] || asked=/dev/null
	shift
	"$@" 3<"$asked"
}
want_keys() {
	asked=$ETC/current/sysctl.keys
	[ -r "$asked" ] || asked=/dev/null
	"$@" <"$asked"
}
