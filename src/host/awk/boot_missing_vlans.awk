{ last = $0 }
$0 == "=" { rest = 1; next }
!rest && /^[^ \t]/ { port = $1; $1 = "" }
!rest { $0 = $0; there[port " " $1]; next }
!/^vlan / { next }
/^vlan add / { print; next }
{
	if (split($6, ends, "-") == 1) ends[2] = ends[1]
	for (vid = ends[1] + 0; vid <= ends[2] + 0; vid++) if (($4 " " vid) in there) { $6 = vid; print }
}
END { if (last == "#end") print last }
