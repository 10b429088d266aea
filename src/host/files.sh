# shellcheck shell=dash disable=SC3043,SC2154
# The files that a generation has elsewhere in /etc: links into the current one, so that one rename
# changes all of them.

files_link() {
	# Links for what the generation has, none for what it has no more. Redone at boot if cut short.
	local file name
	set -- /etc/udev/rules.d/99-kvmfw.rules
	for file in "$ETC"/current/sysctl.d/*.conf; do set -- "$@" "/etc/sysctl.d/${file##*/}"; done
	link_read "$@"
	for file in "$ETC"/current/sysctl.d/*.conf; do
		[ -e "$file" ] || continue
		name=${file##*/}
		files_place_link "$ETC/current/sysctl.d/$name" "/etc/sysctl.d/$name" || return 1
	done
	if [ -s $ETC/current/udev.rules ]; then
		files_place_link $ETC/current/udev.rules /etc/udev/rules.d/99-kvmfw.rules || return 1
	elif [ -L /etc/udev/rules.d/99-kvmfw.rules ]; then
		rm -f /etc/udev/rules.d/99-kvmfw.rules
	fi
	for file in /etc/sysctl.d/*.conf; do
		[ -L "$file" ] && [ ! -e "$file" ] || continue
		target=$(readlink "$file") || return 1
		case $target in "$ETC"/*) files_unlink "$file" ;; esac
	done
	disk_sync /etc/sysctl.d
	files_link_network
}

# Expects link_read to have read $2.
files_place_link() {
	link_target "$2"
	[ "$REPLY" != "$1" ] || return 0
	[ -d "${2%/*}" ] || mkdir -p "${2%/*}" || return 1
	files_put_link "$1" "$2"
}

# Makes $2 a link to $1, in one step: symlink(2) where nothing is, rename(2) else.
files_put_link() {
	if [ -e "$2" ] || [ -L "$2" ]; then
		ln -sfn "$1" "$2.kvmfw-new" && mv -fT "$2.kvmfw-new" "$2"
	else
		ln -sn "$1" "$2"
	fi
}

# A file that was there before us comes back, with its mode and owner.
files_unlink() {
	local kept=$VAR/original/files/${1##*/}
	if [ -e "$kept" ]; then
		cp -p "$kept" "$1.kvmfw-new" && disk_sync "$1.kvmfw-new" && mv -f "$1.kvmfw-new" "$1"
	else
		rm -f "$1"
	fi
}

# Removes everything of kvmfw from /etc. Fails if something may be left; it can be repeated.
files_unlink_all() {
	local file
	for file in /etc/sysctl.d/*.conf; do
		[ -L "$file" ] || continue
		target=$(readlink "$file") || return 1
		case $target in "$ETC"/*) files_unlink "$file" || return 1 ;; esac
	done
	rm -f /etc/udev/rules.d/99-kvmfw.rules && boot_remove_units && rm -rf $ETC && files_link_network
}


# REPLY: the path of network file $1 of a generation: the name of the file, with / for %.
files_path() {
	REPLY=/${1##*/}
	while :; do
		case $REPLY in *%*) REPLY=${REPLY%%\%*}/${REPLY#*%} ;; *) return ;; esac
	done
}

# NetworkManager makes a bridge anew that is deleted while it has a profile for it.
net_quiet_profiles() {
	local file name
	net_manager_runs || return 0
	for file in "$ETC"/current/net/*.nmconnection; do
		[ -e "$file" ] && [ ! -e "$T/new/net/${file##*/}" ] || continue
		name=${file##*%}
		printf '%s\n' "${name%.nmconnection}" >>"$R/quieted"
		net_set_autoconnect "${name%.nmconnection}" no || txn_fail "NetworkManager does not let go of its profile ${name%.nmconnection}"
	done
}

net_manager_runs() { [ -d /run/NetworkManager/devices ] && [ -z "${booting-}" ] && have nmcli; }

net_set_autoconnect() { timeout -s KILL 10 nmcli connection modify --temporary id "$1" connection.autoconnect "$2" >/dev/null 2>&1; }

# Links for the network files of the current generation, none for those that it has no more. A networkd
# that runs is told where its own changed.
files_link_network() {
	local path file before changed='' profiles=''
	first_line $ETC/current/before
	before=$ETC/generations/$REPLY
	for path in /etc/network/interfaces.d/kvmfw-* /etc/systemd/network/*kvmfw-* /etc/systemd/network/*.d/90-kvmfw.conf \
		/etc/NetworkManager/system-connections/kvmfw-* /etc/netplan/90-kvmfw-*; do
		[ -L "$path" ] && [ ! -e "$path" ] || continue
		target=$(readlink "$path") || return 1
		case $target in "$ETC"/*) ;; *) continue ;; esac
		rm -f "$path"
		case $path in
		*.d/90-kvmfw.conf) rmdir "${path%/*}" 2>/dev/null ;;
		esac
		case $path in
		/etc/systemd/network/*) changed=yes ;;
		*.nmconnection)
			profiles=yes
			file=${path##*/}
			# What it has of it in memory goes too.
			! net_manager_runs || timeout -s KILL 10 nmcli connection delete id "${file%.nmconnection}" >/dev/null 2>&1
			;;
		esac
	done
	set --
	for file in "$ETC"/current/net/*; do
		files_path "$file"
		set -- "$@" "$REPLY"
	done
	link_read "$@"
	for file in "$ETC"/current/net/*; do
		[ -e "$file" ] || continue
		files_path "$file"
		path=$REPLY
		[ -d "${path%/*}" ] || { mkdir -p "${path%/*}" && chmod 755 "${path%/*}"; } || return 1
		if ! cmp -s "$file" "$before/net/${file##*/}"; then
			case $path in
			/etc/systemd/network/*) changed=yes ;;
			*.nmconnection) profiles=yes ;;
			esac
		fi
		files_place_link "$file" "$path" || return 1
		disk_sync "${path%/*}"
	done
	# What is active stays as it is; the next time it is what the files say.
	if [ -n "$profiles" ] && net_manager_runs; then timeout -s KILL 10 nmcli connection reload >/dev/null 2>&1; fi
	[ -n "$changed" ] || return 0
	for path in /run/systemd/network/00-kvmfw-*; do [ -e "$path" ] && rm -f "$path"; done
	net_reload_networkd
}

net_reload_networkd() {
	[ -d /run/systemd/netif ] && [ -z "${booting-}" ] && have networkctl || return 0
	timeout -s KILL 10 networkctl reload
}

# While a change is not decided, networkd reads of it in /run, which no boot sees: else it would put the
# addresses that moved back to where they were the moment a cable is plugged in again.
net_place_window() {
	local file path
	for file in "$T"/new/run/*; do
		[ -e "$file" ] || continue
		files_path "$file"
		path=$REPLY
		[ ! -e "$path" ] && [ ! -e "/etc${path#/run}" ] || continue
		printf '%s\n' "$path" >>"$R/placed" && mkdir -p "${path%/*}" && chmod 755 "${path%/*}" &&
			cp "$file" "$path" && chmod 644 "$path" || txn_fail "cannot write $path"
	done
	[ ! -s "$R/placed" ] || net_reload_networkd || txn_fail "systemd-networkd did not read its files again"
}

net_unquiet_profiles() {
	local name
	if [ -s "$R/quieted" ] && net_manager_runs; then
		while IFS= read -r name; do net_set_autoconnect "$name" yes; done <"$R/quieted"
	fi
}

net_remove_window() {
	local path
	[ -s "$R/placed" ] || return 0
	while IFS= read -r path; do rm -f "$path"; done <"$R/placed"
	net_reload_networkd
}

# netplan reads all of its files or none: what it does not take would leave the host without a network.
net_prove_netplan() {
	local scratch error
	have netplan || return 0
	for file in "$T"/new/net/etc%netplan%*; do [ -e "$file" ] && break; done
	[ -e "$file" ] || return 0
	scratch=$(mktemp -d) && mkdir -p "$scratch/etc/netplan" || refuse no-space "cannot write to $TMPDIR"
	for file in /etc/netplan/*.yaml; do
		case $file in */90-kvmfw-*) continue ;; esac
		[ ! -e "$file" ] || cp "$file" "$scratch/etc/netplan/"
	done
	for file in "$T"/new/net/etc%netplan%*; do cp "$file" "$scratch/etc/netplan/${file##*%}"; done
	error=$(timeout -s KILL 30 netplan generate --root-dir "$scratch" 2>&1) || {
		rm -rf "$scratch"
		refuse no-boot "netplan does not take the bridge: $(echo "$error" | grep . | tail -n 1)"
	}
	rm -rf "$scratch"
}
