/^[^#=]*[^ #=] = / {
	at = index($0, " = "); key = substr($0, 1, at - 1); out = ""
	if (key ~ /^[^\/]*\./) {
		for (i = 1; i <= length(key); i++) {
			c = substr(key, i, 1)
			out = out (c == "." ? "/" : c == "/" ? "." : c)
		}
		key = out
	}
	if (!(key in value)) order[++n] = key
	value[key] = substr($0, at + 3)
}
END { for (i = 1; i <= n; i++) print order[i] "=" value[order[i]]; print "#end" }
