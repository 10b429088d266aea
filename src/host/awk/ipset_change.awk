# Reads sets as they are wanted (ipset.sh), a line "=", then `ipset save` and "#end". Prints what `ipset restore` has to be
# given, and nothing where all is so; then "#end". Where a set is there as another type it prints `type NAME` instead.
{ last = $0 }
$0 == "=" { live = 1; next }
# A member without what moves by itself: the time that is left, and counters.
function member(  i, text) {
	text = $3
	for (i = 4; i <= NF; i++) {
		if ($i == "timeout") { if ($(i + 1) != "0") text = text " timeout"; i++ }
		else if ($i ~ /^(packets|bytes|skbmark|skbprio|skbqueue)$/) i++
		else if ($i == "comment") { text = text substr($0, index($0, " comment \"")); break }
		else text = text " " $i
	}
	return text
}
# Options in no order, less sizes that the kernel chooses or grows itself.
function options(of,  i, option) {
	for (i = 4; i <= NF; i++) {
		option = $i
		if (option ~ /^(hashsize|bucketsize|initval)$/) { i++; continue }
		# Some kernels never print it.
		if (option == "forceadd") continue
		if (option !~ /^(counters|comment|skbinfo)$/) option = option " " $(++i)
		if (option ~ /^family /) family[of, $2] = option
		has[of, $2, option]
		stated[of, $2] = stated[of, $2] "\n" option
	}
	type[of, $2] = $3
}
function options_differ(name,  part, n, i) {
	n = split(stated["want", name], part, "\n")
	for (i = 2; i <= n; i++) if (!(("live", name, part[i]) in has)) return 1
	n = split(stated["live", name], part, "\n")
	for (i = 2; i <= n; i++) if (!(("want", name, part[i]) in has)) return 1
	return 0
}
function make(name, as,  i) {
	print "create " as " " shape[name]
	for (i = 1; i <= size[name]; i++) print "add " as " " line[name, i]
}
!live && ($1 == "create" || $1 == "keep") {
	word[$2] = $1
	if (!($2 in shape)) order[++sets] = $2
	shape[$2] = substr($0, length($1) + length($2) + 3)
	options("want")
	next
}
!live && $1 == "add" {
	line[$2, ++size[$2]] = substr($0, length($2) + 6)
	want[$2, member()]
	next
}
!live { next }
$1 == "create" {
	there[$2]
	if ($2 ~ /^kvmfw-/) left[$2]
	if ($2 in shape) options("live")
	next
}
$1 == "add" && ($2 in shape) {
	live_size[$2]++
	if (!(($2, member()) in want)) differs[$2]
}
END {
	if (last != "#end") exit
	for (i = 1; i <= sets; i++) {
		name = order[i]
		if (!(name in there)) continue
		if (type["want", name] != type["live", name] || family["want", name] != family["live", name]) {
			print "type " name
			print "#end"
			exit
		}
	}
	# What a change that was cut short left behind.
	for (name in left) print "destroy " name
	for (i = 1; i <= sets; i++) {
		name = order[i]
		if (!(name in there)) { make(name, name); continue }
		if (word[name] == "keep") continue
		if (!(name in differs) && size[name] + 0 == live_size[name] + 0 && !options_differ(name)) continue
		make(name, "kvmfw-" i)
		print "swap kvmfw-" i " " name
		print "destroy kvmfw-" i
	}
	print "#end"
}
