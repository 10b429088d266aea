{ last = $0 }
$0 == "=" { goal = 1; table = ""; next }
$0 == "&" { list++; next }
/^\*/ { table = substr($1, 2); next }
!goal && /^:/ { there[table, substr($1, 2)] = 1; next }
!goal && /^-A / {
	key = table SUBSEP $2; rule = substr($0, length($2) + 5)
	live[key, ++size[key]] = rule; have[key, rule]++
	next
}
!goal || !/^[!~+=]/ { next }
{
	sign = substr($1, 1, 1)
	chain = substr($1, 2, 1) == ":" ? substr($1, 3) : $2
	key = table SUBSEP chain
	if (!(table in chains)) order[++tables] = table
	if (index(chains[table], " " chain " ") == 0) chains[table] = chains[table] " " chain " "
}
substr($1, 2, 1) == ":" { if (sign == "+") made[key] = 1; else goes[key] = 1; next }
{ rule = substr($0, length($1) + length($2) + 3) }
sign == "!" { taken[key, rule]++; takes[key] = 1; next }
++need[list, key, rule] > have[key, rule] + came[key, rule] && sign == "+" {
	came[key, rule]++
	comes[key] = comes[key] "!-A " chain " " rule "\n"
}
END {
	for (t = 1; t <= tables; t++) {
		print "*" order[t]
		n = split(chains[order[t]], part, " ")
		for (c = 1; c <= n; c++) {
			key = order[t] SUBSEP part[c]
			if ((key in goes) && (key in there)) print "+:" part[c]
			for (i = 1; (key in takes) && i <= size[key]; i++) {
				rule = live[key, i]
				print (taken[key, rule]-- > 0 ? "+" : "=") "-A " part[c] " " rule
			}
			printf "%s", comes[key]
			if ((key in made) && !(key in there)) print "~:" part[c]
		}
		print "COMMIT"
	}
	if (last == "#end") print last
}
