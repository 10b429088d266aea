# Of each file only the lines that matter: some hold secrets, some a hundred thousand lines.
function all() { while ((getline <file) > 0) print }
# Of ours, which have an end mark.
function ours(  end) {
	while ((getline <file) > 0) { end = /^#end [0-9]+$/; if (!end) print }
	if (!end) print "!unread " file
}
# What is set counts, comments do not; but the first line tells whose the file is.
function settings(  n) {
	while ((getline <file) > 0) if (++n == 1 || (!/^[ \t]*[#;]/ && /[^ \t]/)) print file ":" n ":" $0
}
function writers() {
	while ((getline <file) > 0) {
		if (file == "/etc/docker/daemon.json") {
			if (/"icc"[ \t]*:[ \t]*false/) print "docker-icc=" file
			if (/"userland-proxy"[ \t]*:[ \t]*false/) print "docker-proxy=" file
		} else if (/bridge-nf-call-ip6?tables/) { print "writer=" file; return }
	}
}
function sockets(  n) {
	print ">" file
	while (n++ < 4000 && (getline <file) > 0) if ($4 == "01" || $4 == "0A" || $4 == "07") print $2, $3, $4
}
# A bridge that a network of libvirt only uses (forward mode `bridge`) is not its own.
function libvirt(  uses, made) {
	while ((getline <file) > 0) {
		if (/<forward[^>]* mode=.bridge./) uses = 1
		if (/<bridge[^>]* name=/) { sub(/.*<bridge[^>]* name=["\047]/, ""); sub(/["\047].*/, ""); made = $0 }
	}
	if (made != "" && !uses) print "libvirt=" made " " file
}
# Values of profiles only where none can be a secret: elsewhere it is enough to know that something is set.
function profile(n) {
	if (/^\[/) open_values = /^\[(connection|ethernet|802-3-ethernet|ethtool|ipv4|ipv6|vlan|bridge-port|link)\]/
	if (!/^\[/ && !open_values) sub(/=.*/, "=")
	print n ":" $0
}
function network(  n, stanzas) {
	stanzas = file ~ /\/interfaces(\.d\/[^\/]*)?$/
	while ((getline <file) > 0) {
		if (++n == 1) print ">" file
		if (/^[ \t]*([#;]|$)/) continue
		if (stanzas) {
			if (/^[ \t]*(iface|auto|allow-|mapping|source|no-|address|gateway|bridge|slaves|bond-slaves)/) print n ":" $0
		} else if (file ~ /\/systemd\/network\//) print n ":" $0
		else if (file ~ /\/system-connections\//) profile(n)
		else if (/^[ \t]*(ADMIN_STATE|NETWORK_FILE|managed|nm-owned|connection-uuid)[ \t]*=/) print n ":" $0
	}
}
# What loads rules at boot: of files in the form of iptables-save their tables and chains and where rules of ours are in them
# (`whole`: all rules), of others the lines that may touch rules. A file or script of the host that such a line names is
# read too, behind a line that tells who named it.
function boots(  n) {
	boot_file(file, "")
	for (n = 1; n <= named_files; n++) if (named[n] != "") { boot_file(named[n], named_by[n]); named[n] = "" }
}
function boot_file(path, by,   n, saved, line, owned) {
	if (path in boot_seen) return
	boot_seen[path] = 1
	print ">" path
	if (by != "") print "<" by
	saved = path ~ /\/(rules\.v[46]|ip6?tables|ip6?tables(\.up)?\.rules)$/
	while (n < 200000 && (getline line <path) > 0) {
		# A program in machine code is no script.
		if (++n == 1 && by != "" && line !~ /^[ \t]*($|[#*:]|flush|table|add|delete|define|include)/) break
		if (line ~ /^\*(raw|mangle|nat|filter|security)[ \t]*$/) saved = 1
		if (!saved) { if (line !~ /^[ \t]*#/) boot_line(path, n, line) }
		else if (line ~ /^\*/ || line ~ /^:[^ ]+ -/ || whole && line ~ /^-A / || line ~ /KVMFW-/ && ++owned <= 3) print n ":" line
	}
	close(path)
}
function boot_line(path, n, line,   touches, calls, count, words, i, word) {
	touches = line ~ /ip6?tables|netfilter-persistent|(^|[^A-Za-z0-9_-])(nft|ufw|ferm|firehol|shorewall6?|firewall-cmd)([^A-Za-z0-9_-]|$)|flush ruleset|KVMFW-/
	calls = line ~ /^[ \t]*(pre-up|up|post-up|@reboot|ExecStart|ExecReload)/ || path ~ /\/(rc\.local|S[0-9][0-9][^\/]*)$|\/if-(pre-)?up\.d\//
	if (touches) print n ":" substr(line, 1, 500)
	if (!touches && !calls) return
	count = split(line, words, /[ \t<>;|&()="\047`]+/)
	for (i = 1; i <= count && named_files < 40; i++) {
		word = words[i]
		if (word !~ /^\/[A-Za-z0-9._\/@-]+$/ || word ~ /^\/((usr\/)?(s?bin|lib|lib64|libexec)|dev|proc|sys|run)\// || (word in boot_seen) || (word in boot_named)) continue
		boot_named[word] = 1
		# Some awks end at the name of a folder.
		if (system("[ -f " word " ] && [ -r " word " ]") == 0) { named[++named_files] = word; named_by[named_files] = path ":" n }
	}
}
/^@/ { part = substr($0, 2); printf mark, part; next }
/^=/ { print substr($0, 2); next }
$0 == "" { next }
{
	file = $0
	if (part == "sysctl.d") settings()
	else if (part == "original") ours()
	else if (part == "evidence") writers()
	else if (part == "sockets") sockets()
	else if (part == "boot_files") boots()
	else if (part != "network") all()
	else if (file ~ /^\/(etc|run)\/libvirt\//) libvirt()
	else network()
	close(file)
}
