function end() { if (file != "" && close(file) != 0) bad = 1 }
bad { exit }
index($0, mark) == 1 { end(); file = folder substr($0, length(mark) + 1); printf "" >file; size[file] = 0; next }
{ print >file; size[file] += length($0) + 1 }
END {
	end()
	RS = "\001"
	for (file in size) {
		got = 0
		while ((getline text <file) > 0) got += length(text) + 1
		close(file)
		# No separator follows the last piece.
		if (got != size[file] + (size[file] > 0)) bad = 1
	}
	exit bad
}
