{ last = $0 }
function out(  i) {
	print "*" table
	printf "%s%s%s%s", head[table], chains[table], hooks[table], rules[table]
	print "COMMIT"
}
$0 == "=" { rest = 1; next }
/^\*/ { table = substr($1, 2); if (!rest) order[++n] = table; next }
rest && ($1 == ":KVMFW--flows" || $2 == "KVMFW--flows" || / -j KVMFW--flows$/) { next }
/^:KVMFW-/ { if (rest) chains[table] = chains[table] $1 " -\n"; next }
/^:/ { if (!rest) head[table] = head[table] $0 "\n"; next }
/^\^/ { if (!rest) hooks[table] = hooks[table] $0 "\n"; next }
/^-A KVMFW-/ { if (rest) rules[table] = rules[table] $0 "\n" }
END { for (k = 1; k <= n; k++) { table = order[k]; out() } if (last == "#end") print last }
