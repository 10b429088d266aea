function address(end) { sub(/:[0-9]+$/, "", end); gsub(/[][]/, "", end); sub(/^::ffff:/, "", end); return end }
function port(end) { sub(/.*:/, "", end); return end }
function rule(s, sport, d, dport) {
	return "-A KVMFW--flows -s " s (family == 6 ? "/128" : "/32") " -d " d (family == 6 ? "/128" : "/32") \
		" -p tcp -m tcp --sport " sport " --dport " dport " ! --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT"
}
{ last = $0 }
$1 !~ /^(ESTAB|CLOSE-WAIT|FIN-WAIT-[12]|LAST-ACK)$/ { next }
{
	gsub(/%[^]:]*/, "")
	here = address($4); there = address($5)
	if ((index(here, ":") > 0) != (family == 6) || port($4) == ssh || count == most) next
	count++
	print rule(there, port($5), here, port($4))
	print rule(here, port($4), there, port($5))
}
END { print count + 0; if (last == "#end") print last }
