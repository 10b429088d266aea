{ last = $0 }
$0 == "=" { rest = 1; next }
!rest { flow[++n] = $0; next }
/^COMMIT/ && table == "*filter" { for (i = 1; i <= n; i++) print flow[i] }
$0 != "#end" { print }
/^\*/ { table = $0; if (table == "*filter") print ":KVMFW--flows -" }
table != "*filter" || !/^-A KVMFW-/ || !/ESTABLISHED/ || !/ -j ACCEPT$/ { next }
{
	gsub(/"([^"\\]|\\.)*"/, "")
	gsub(/ -m comment --comment/, "")
	if (sub(/ -m (state --state|conntrack --ctstate) [A-Z,]*ESTABLISHED[A-Z,]*/, "") && sub(/ -j ACCEPT$/, " -j KVMFW--flows")) print
}
END { if (last == "#end") print last }
