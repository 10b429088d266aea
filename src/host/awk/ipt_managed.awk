# Reads iptables-save, prints our part of it: all policies, our chains, hooks with their numbers.
{ last = $0 }
function flush_table(  i) {
	if (table == "") return
	print "*" table
	for (i = 1; i <= nhead; i++) print head[i]
	for (i = 1; i <= nhook; i++) print hook[i]
	for (i = 1; i <= nbody; i++) print body[i]
	print "COMMIT"
}
$1 == ":KVMFW--flows" || $2 == "KVMFW--flows" || / -j KVMFW--flows$/ { next }
/^\*/ { flush_table(); table = substr($1, 2); nhead = nhook = nbody = 0; split("", index_of); next }
/^:/ {
	name = substr($1, 2)
	if (name ~ /^KVMFW-/) head[++nhead] = ":" name " -"
	else if ($2 != "-") head[++nhead] = ":" name " " $2
	next
}
/^-A / {
	if ($2 ~ /^KVMFW-/) { body[++nbody] = $0; next }
	index_of[$2]++
	target = target_of($0)
	if (target ~ /^KVMFW-/) hook[++nhook] = "^" $2 " " index_of[$2] " " target " " substr($0, length($2) + 5)
}
END { flush_table(); if (last == "#end") print last }
