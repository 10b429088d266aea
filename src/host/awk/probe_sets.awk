# Reads wanted sets and a line "=", then `ipset save` and "#end". Prints all headers, and members of the sets that are
# wanted or in file `kept`, unless those are of other programs; with all=1 of all sets. Ends with 3 where a wanted set is
# not in that file.
BEGIN {
	if (kept != "") {
		while ((getline <kept) > 0) { end = /^#end [0-9]+$/; if ($1 == "create") asked[$2]; if ($1 == "create" || $1 == "keep") same[$0] }
		if (!end) print "unread"
	}
}
{ last = $0 }
$0 == "=" { live = 1; next }
!live { if (NF > 2) { if ($1 == "create") asked[$2]; if (!($0 in same)) new = 1 } next }
$1 == "create" { print; if ($2 in asked) print "members " $2; else if (all) others[$2] = 0; next }
$1 != "add" { next }
$2 in asked { print; next }
$2 in others && ++others[$2] <= most && total < 10 * most { total++; text[$2, others[$2]] = $0; held[$2]++ }
END {
	for (name in others) if (others[name] == held[name] + 0) {
		print "members " name
		for (i = 1; i <= others[name]; i++) print text[name, i]
	}
	if (last == "#end") print last
	if (new) exit 3
}
