{ last = $0 }
{ gsub(/\\/, " ") }
$3 == "inet6" {
	line = "address replace " $4; lifetimes = ""; skip = 0
	for (i = 5; i <= NF; i++) {
		if ($i == "peer" || $i == "scope" || $i == "metric" || $i == "proto") { line = line " " $i " " $(i + 1); i++ }
		else if ($i == "home" || $i == "mngtmpaddr" || $i == "noprefixroute") line = line " " $i
		else if ($i == "temporary" || $i == "dadfailed") skip = 1
		else if ($i ~ /_lft$/) {
			value = $(i + 1); sub(/sec$/, "", value); i++
			if (value != "forever") lifetimes = lifetimes " " $(i - 1) " " value
		}
	}
	if (!skip) print line " dev " $2 " nodad" (lifetimes != "" ? " #" lifetimes : "")
	next
}
/ table local( |$)/ || / proto kernel( |$)/ || /^(local|anycast|multicast) / { next }
/ dev | nexthop / {
	line = "route append"; expires = ""
	for (i = 1; i <= NF; i++) {
		if ($i ~ /^(linkdown|dead|offload|trap|rt_offload|rt_trap)$/) continue
		if ($i == "error" || $i == "users" || $i == "age") { i++; continue }
		if ($i == "expires") { expires = $(i + 1); sub(/sec$/, "", expires); i++; continue }
		line = line " " $i
	}
	print line (expires != "" ? " # expires " expires : "")
}
END { if (last == "#end") print last }
