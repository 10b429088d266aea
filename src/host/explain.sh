# shellcheck shell=dash disable=SC3043,SC2154
# What explain asks beyond a plan: who is behind which port of a bridge, what the kernel
# logged. Changes nothing.

# Port and guest, a line each: by virsh, else from the files in which libvirt keeps what runs.
explain_guests() {
	local domain file dev
	section guests
	if have virsh; then
		timeout 10 virsh list --name 2>/dev/null | while read -r domain; do
			[ -n "$domain" ] || continue
			timeout 5 virsh domiflist "$domain" 2>/dev/null </dev/null |
				while read -r dev _; do
					[ -e "/sys/class/net/$dev" ] && printf '%s %s\n' "$dev" "$domain"
				done
		done
		return
	fi
	for file in /run/libvirt/qemu/*.xml; do
		[ -r "$file" ] || continue
		domain=${file##*/}
		sed -n "s/.*<target dev=['\"]\([^'\"]*\)['\"].*/\1/p" "$file" | while read -r dev; do
			[ -e "/sys/class/net/$dev" ] && printf '%s %s\n' "$dev" "${domain%.xml}"
		done
	done
}

# The newest lines of the LOG target.
explain_log() {
	section log
	if [ -d /run/systemd/system ] && have journalctl; then
		timeout -s KILL 20 journalctl -k --no-pager -q -n 50000 2>/dev/null | grep ' OUT=' | tail -n 20000
	else
		dmesg 2>/dev/null | grep ' OUT=' | tail -n 20000
	fi
}

# What sees packets beside netfilter: devices whose qdisc filters, policies of IPsec.
explain_beside() {
	section beside
	have tc && tc qdisc show 2>/dev/null |
		sed -n -e 's/^qdisc clsact .* dev \([^ ]*\).*/tc \1/p' -e 's/^qdisc ingress .* dev \([^ ]*\).*/tc \1/p'
	ip xfrm policy list nosock 2>/dev/null | sed -n 's/^src \([^ ]*\) dst \([^ ]*\).*/xfrm \1 \2/p'
}
