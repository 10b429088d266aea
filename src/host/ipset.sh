# shellcheck shell=dash disable=SC3043,SC2154
# The sets of ipset: which exist, and whether the host takes the desired ones. Part of the probe: changes nothing.
#
#   create NAME TYPE OPTIONS   a set whose members are managed, and
#   add NAME MEMBER            one of them, as the kernel prints it
#   keep NAME TYPE OPTIONS     a set that has to be there; its members are those of other programs
#
# Expects, where SETS is `yes`, the function ${DESIRED}_sets (probe.sh).

# The most members that are printed of a set which no rule or plan names; of all such sets, ten times that.
MOST_MEMBERS=10000

# The lines that make the desired sets, and whether they have been read.
wanted_sets='' wanted_known=''
# Reads them, once.
ipset_read_desired() {
	[ -n "${SETS-}" ] && [ -z "$wanted_known" ] || return 0
	wanted_sets=$("${DESIRED}_sets" sed -n -e '/^create /p' -e '/^keep /p' -e '/^#end /p') || return 1
	case $wanted_sets in *'#end '*) wanted_sets=${wanted_sets%'#end '*} wanted_known=yes ;; *) return 1 ;; esac
}

# Whether the kernel has sets at all: to ask it would load the module.
ipset_is_loaded() { [ -d /sys/module/ip_set ]; }

# Prints what ipset has, and behind it `#end`, unless that is not all of it.
ipset_save() {
	! ipset_is_loaded || ipset save 2>/dev/null || return 1
	echo '#end'
}

probe_sets() {
	local kept=$ETC/current/sets
	ipset_read_desired || probe_no_room
	first_line "$kept"
	[ "$REPLY" != '#end 0' ] && [ -e "$kept" ] || kept=
	[ -n "$wanted_sets$kept$boot_files_asked" ] || return 0
	section sets
	if ! have ipset; then
		printf 'no tool\n#end\n'
		return
	fi
	{
		printf '%s=\n' "$wanted_sets"
		ipset_save
	} | awk -v kept="$kept" -v all="${boot_files_asked:+1}" -v most=$MOST_MEMBERS "$PROBE_SETS_AWK"
	[ $? = 3 ] && have unshare || return 0
	section dry_sets
	ipset_dry_run
	printf 'rc=%s\n%s\n' "$?" "$REPLY"
}

# Makes the desired sets in a throwaway network namespace. REPLY: what ipset prints.
ipset_dry_run() {
	local line text='' IFS="$NL"
	for line in $wanted_sets; do text="${text}create ${line#* }$NL"; done
	unset IFS
	feed "${text%"$NL"}" "${UNSHARE:-unshare}" -n ipset restore
}

# REPLY: lines for `ipset restore` that make a set of each name that rules may match in a dry run of family $1. They have no
# members, which do not matter there.
ipset_stand_ins() {
	local name names family=inet
	REPLY=
	[ "$1" = 4 ] || family=inet6
	have ipset && ipset_read_desired || return 1
	names=$wanted_sets
	! ipset_is_loaded || names=$names$(ipset list -n 2>/dev/null | sed 's/.*/create & -/') || return 1
	while read -r _ name _; do
		[ -z "$name" ] || REPLY="${REPLY}create $name hash:ip family $family$NL"
	done <<-NAMES
		$names
	NAMES
}
