{ last = $0 }
/^=/ { part = $0; next }
part == "=links" { if ($0 != "") there[$0] = 1; next }
part == "=addresses" { there[$2 " " $4 ($5 == "peer" ? " peer " $6 : "")] = 1; next }
part == "=routes" { if (match($0, / dev [^ ]*/)) there[substr($0, 1, RSTART + RLENGTH - 1)] = 1; next }
$0 == "#end" || $0 == "" { next }
# Link and address, with its peer.
/^addr / { address = $4 == "peer" ? $7 " " $3 " peer " $5 : $5 " " $3 }
/^link add name / { made[$4] }
/^link add name / && ($4 in there) { next }
# ip ends at the name of a missing bridge. This line fails instead, and the failure is reported.
/^link set dev .* master / && !($6 in there) && !($6 in made) { print "link set dev " $6 " up"; next }
/^addr add / && (address in there) { next }
/^route replace default via [^ ]* dev [^ ]*( onlink)?( proto static)?$/ && (($3 " " $4 " " $5 " " $6 " " $7) in there) { next }
/^vlan / { next }
/^addr del / && !(address in there) { next }
{ print }
END { if (last == "#end") print last }
