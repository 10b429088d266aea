{ last = $0 }
$0 == "=" { rest = 1; table = ""; next }
/^\*/ { table = substr($1, 2) }
!rest && /^\^/ && ($2 == "first" || $2 == "last") { moves[table " " $1 " " $3] = 1 }
!rest {
	if (/^:/ && !/^:KVMFW-/) { named[table $1] = 1; list[table] = list[table] $1 "\n" }
	next
}
$0 == "#end" { next }
/^\*/ { seen[table] = 1; delete left; n = split(list[table], left, "\n") }
/^:/ && !/^:KVMFW-/ { if (!((table $1) in named)) next; for (i = 1; i <= n; i++) if (left[i] == $1) left[i] = "" }
# What this transaction moves has to go back to where it stood.
/^\^/ && ((table " " $1 " " $3) in moves) { sub(/ /, " =") }
{ print }
END {
	for (t in list) if (!(t in seen)) {
		print "*" t
		n = split(list[t], left, "\n")
		for (i = 1; i <= n; i++) if (left[i] != "") print left[i] " ACCEPT"
		print "COMMIT"
	}
	if (last == "#end") print last
}
