# The chain that a rule enters; what stands in quotes is text.
function target_of(rule,   words, n, i) {
	if (index(rule, "KVMFW-") == 0) return ""
	gsub(/"([^"\\]|\\.)*"/, "\"\"", rule)
	n = split(rule, words, " ")
	for (i = n - 1; i > 2; i--) if (words[i] == "-j" || words[i] == "-g") return words[i + 1]
	return ""
}
