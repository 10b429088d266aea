# Reads lines, and prints each behind "> " with the words that completion offers for it, as in a terminal.
zmodload zsh/zpty
zpty z zsh -f -i
# Until the inner shell has said this word and its prompt; what it said is left in $REPLY. Before the prompt,
# the terminal takes ^U for itself, and with it the line.
said() {
	REPLY=
	zpty -r z REPLY "*$1*@ready@*" || exit 1
}
zpty -w z 'PS1=@rea""dy@ PROMPT_SP= ; autoload -Uz compinit && compinit -u -D; source <(kvmfw generate completions zsh)
compadd() {
	local -a hits
	if [[ " ${@[1,(i)(-|--)]}" != *" -"(O|A|D)" "* ]]; then
		builtin compadd -A hits "$@"
		print -rl -- "<"${(Q)^hits}">"
	fi
	builtin compadd "$@"
}
zle -C offer list-choices _main_complete
bindkey "^I" offer
print REA""DY'
said READY
while IFS= read -r line; do
	zpty -w -n z "kvmfw $line"$'\t\C-u'
	zpty -w z 'print EN""D'
	said END
	print -r -- "> $line"
	print -r -- "$REPLY" | tr -d '\r' | sed -n 's/.*<\([^<>]*\)>$/\1/p'
done
