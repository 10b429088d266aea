# shellcheck shell=dash disable=SC3043,SC2154
# The desired state as the generation that boots has it: `plan --drift` compares with that instead of an inventory.

DESIRED=generation
generation_rules() {
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
generation_keys() {
	if [ -L $ETC/current ]; then
		"$@" <$ETC/current/sysctl.keys
	else
		"$@" <<-'NOTHING'
			#end 0
		NOTHING
	fi
}
