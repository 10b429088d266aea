/^#end [0-9]+$/ { ended++; next }
part == "kept" { print; kept[substr($0, 1, index($0, "=") - 1)]; next }
part == "keys" { keys[++n] = $0; next }
part == "was" {
	key = substr($0, 1, index($0, "=") - 1)
	if (!(key in was)) was[key] = $0
	next
}
part == "policies" { policies = policies $0 "\n"; kept[$1, $2, $3]; next }
/^\*/ { table = substr($1, 2) }
/^:/ && !/^:KVMFW-/ {
	chain = substr($1, 2)
	if (!((part, table, chain) in kept)) policies = policies part " " table " " chain " " $2 "\n"
}
END {
	for (i = 1; i <= n; i++) if (!(keys[i] in kept) && (keys[i] in was)) print was[keys[i]]
	printf "#policies\n%s", policies
	if (ended == 6) print "#end"
}
