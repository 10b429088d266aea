# Ends with 1 where rules in tables of iptables look native; only=native prints those and nothing else.
/^table / { table = $2 " " $3; own = table ~ /^ip6? (raw|mangle|nat|filter|security)$/; next }
own && backend == "legacy" { next }
{ bare = $0; gsub(/"[^"]*"/, "", bare) }
own && bare !~ /^[ \t]*chain / && bare ~ /\{/ { native = 1; if (only) print "native=" table ": " $0 }
own || only { next }
$1 == "type" && $3 == "hook" { print "chain=" table " " $0; next }
bare ~ /(^|[^a-z_-])(drop|reject|queue|tproxy|synproxy|fwd)([^a-z_-]|$)/ { acts[table " drop"] }
bare ~ /(^|[^a-z_-])(dnat|redirect)([^a-z_-]|$)/ { acts[table " rewrite"] }
bare ~ /(^|[^a-z_-])notrack([^a-z_-]|$)/ { acts[table " untrack"] }
# What no rule of iptables is asked about in a way that the answer would change.
{ gsub(/(ct mark|size|priority|nftrace|pkttype|secmark|dscp|ecn|ttl|hoplimit|helper|label|event) set /, "", bare) }
gsub(/mark set /, "", bare) { acts[table " mark"] }
bare ~ /[a-z] set / { acts[table " change"] }
END {
	for (act in acts) print "acts=" act
	exit native
}
