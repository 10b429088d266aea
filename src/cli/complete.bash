# bash completion for kvmfw: asks kvmfw itself, so that it knows hosts and groups.
# bash cuts words at `@`, `:`, `=`, `,` and `&`; kvmfw is asked about whole ones.
_kvmfw() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$' \t\n'
    local -a words
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=('')
    words=("${words[@]#[\'\"]}")
    local index=$((${#words[@]} - 1))
    # What of the word bash will not replace.
    local typed=${2#[\'\"]}
    local kept=${words[index]%"$typed"}
    IFS=$'\n'
    COMPREPLY=($(KVMFW_COMPLETE=bash _CLAP_COMPLETE_INDEX=$index "$1" -- "${words[@]}" 2>/dev/null)) || COMPREPLY=()
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
    # More is to come after these, so no space.
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/:] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o bashdefault -o default -F _kvmfw kvmfw
