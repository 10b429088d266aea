function names(before, after, kind,   text, at) {
	text = given
	while ((at = index(text, before)) > 0) {
		text = substr(text, at + length(before))
		at = index(text, after)
		if (at > 1) missing[kind, substr(text, 1, at - 1)] = 1
	}
}
function begin() {
	names("Chain \047", "\047", "-j"); names("target `", "\047", "-j"); names("match `", "\047", "-m")
	names("Set ", " doesn", "set")
}
function picked(   rule, words, n, i, kind) {
	rule = $0
	gsub(/"([^"\\]|\\.)*"/, "\"\"", rule)
	n = split(rule, words, " ")
	for (i = 1; i < n; i++) {
		kind = words[i] == "-g" ? "-j" : words[i] ~ /^--(match|add|del|map)-set$/ ? "set" : words[i]
		if ((kind, words[i + 1]) in missing) return 1
	}
	return 0
}
