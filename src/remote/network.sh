# shellcheck shell=dash disable=SC3043,SC2154
# Who else makes or configures links here. Part of the probe: reads, and decides nothing.

# Networks of libvirt and the bridges that it makes for them; a bridge that it only uses
# (forward mode 'bridge') is not its own.
probe_network() {
	local file
	section network
	set --
	for file in /run/libvirt/network/*.xml /etc/libvirt/qemu/networks/*.xml; do
		[ -r "$file" ] && set -- "$@" "$file"
	done
	[ $# -eq 0 ] || awk '
		/<forward[^>]* mode=.bridge./ { uses[FILENAME] = 1 }
		/<bridge[^>]* name=/ { sub(/.*<bridge[^>]* name=["\047]/, ""); sub(/["\047].*/, ""); made[FILENAME] = $0 }
		END { for (file in made) if (!(file in uses)) print "libvirt=" made[file] " " file }' "$@"
}
