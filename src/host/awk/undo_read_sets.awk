{ last = $0 }
$0 == "=" { part++; next }
NF < 3 { next }
!part { if ($1 != "add") stays[$2]; next }
part == 1 { if (!($2 in stays)) { was[$2]; print } next }
$1 == "add" || ($2 in stays) || ($2 in was) { next }
$3 == "list:set" { print "gone " $2; next }
{ gone[++n] = $2 }
END { for (i = 1; i <= n; i++) print "gone " gone[i]; if (last == "#end") print last }
