# shellcheck shell=dash disable=SC3043,SC2154
# What the generation that boots wanted: the probe compares with that instead of with an inventory.

want() {
	asked=$ETC/current/want$1
	shift
	if [ -L $ETC/current ]; then
		"$@" 3<"$asked"
	else
		"$@" 3<<-'NOTHING'
			#end 0
		NOTHING
	fi
}
want_keys() {
	if [ -L $ETC/current ]; then
		"$@" <$ETC/current/sysctl.keys
	else
		"$@" <<-'NOTHING'
			#end 0
		NOTHING
	fi
}
