{ last = $0 }
$0 == "=" { live = 1; next }
!live { if ($1 == "gone" || $1 == "create") word[$2] = $1; else if ($1 == "keep") kept[$2]; next }
$1 == "create" && ($2 in word) { print (word[$2] == "gone" ? "keep" : "create") substr($0, 7); next }
$1 == "create" && !($2 in kept) { print "other " $2 " " $3; next }
$1 == "add" && ($2 in word) { print }
END { if (last == "#end") print last }
