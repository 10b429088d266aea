# shellcheck shell=dash disable=SC3043,SC2154
# Who else makes or configures links here. Part of the probe: reads, and decides nothing.

probe_network() {
	section network
	libvirt_bridges
	if [ -e /etc/network/if-pre-up.d/bridge ]; then echo bridge-utils=yes; fi
	network_files
}

# Networks of libvirt and the bridges that it makes for them; a bridge that it only uses
# (forward mode 'bridge') is not its own.
libvirt_bridges() {
	local file
	set --
	for file in /run/libvirt/network/*.xml /etc/libvirt/qemu/networks/*.xml; do
		[ -r "$file" ] && set -- "$@" "$file"
	done
	[ $# -eq 0 ] || awk '
		/<forward[^>]* mode=.bridge./ { uses[FILENAME] = 1 }
		/<bridge[^>]* name=/ { sub(/.*<bridge[^>]* name=["\047]/, ""); sub(/["\047].*/, ""); made[FILENAME] = $0 }
		END { for (file in made) if (!(file in uses)) print "libvirt=" made[file] " " file }' "$@"
}

# What the daemons say of each link, and the files that configure links, less our own. Of each only the
# lines that matter: such files hold secrets too.
network_files() {
	local file
	set --
	for file in /run/systemd/netif/links/* /run/NetworkManager/devices/* /etc/network/interfaces /etc/network/interfaces.d/* \
		/etc/systemd/network/*.network /run/systemd/network/*.network /usr/local/lib/systemd/network/*.network \
		/usr/lib/systemd/network/*.network /etc/NetworkManager/system-connections/* /run/NetworkManager/system-connections/*; do
		case ${file##*/} in *kvmfw-*) continue ;; esac
		[ -f "$file" ] && [ -r "$file" ] && set -- "$@" "$file"
	done
	[ $# -eq 0 ] || awk '
		FNR == 1 { print ">" FILENAME; stanzas = FILENAME ~ /\/interfaces(\.d\/[^\/]*)?$/ }
		/^[ \t]*([#;]|$)/ { next }
		stanzas && /^[ \t]*(iface|auto|allow-|mapping|source|no-|address|gateway|bridge|slaves|bond-slaves)/ { print FNR ":" $0 }
		stanzas { next }
		/^\[/ || /^[ \t]*(ADMIN_STATE|NETWORK_FILE|managed|nm-owned|interface-name)[ \t]*=/ ||
		/^[ \t]*(Name|MACAddress|PermanentMACAddress|Type|Driver|Path|Kind)[ \t]*=/ ||
		/^[ \t]*(Address|Gateway|DHCP|Bridge|Bond)[ \t]*=/ ||
		/^[ \t]*(dns|dns-search|DNS|Domains|NTP|DNSDefaultRoute|LLMNR|MulticastDNS|DNSSEC)[ \t]*=/ { print FNR ":" $0 }' "$@"
}
