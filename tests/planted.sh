# shellcheck shell=bash disable=SC2154 # top, tree and all are set by who sources this
# Defects planted into a copy of the source tree, one at a time: sourced by the scripts that then want each of
# them caught. Those set `all` (names of the defects, each a function that plants it) and `tree` (where the
# copy goes).

# The names that were asked for, or all of them, go into `list`.
choose() {
    list=("$@")
    (($#)) || read -ra list <<<"$all"
    local defect
    for defect in "${list[@]}"; do
        [[ " $all " == *" $defect "* ]] || { echo "planted: no defect $defect; there are $all" >&2; exit 2; }
    done
}

# A copy of what a build needs, and of more where that is said, with the defect in it.
copy_with() { # DEFECT [MORE…]
    rm -rf "$tree"
    mkdir -p "$tree"
    cp -r "$top"/{Cargo.toml,Cargo.lock,build.rs,src,modules,benches} "${@:2}" "$tree/" || exit 2
    "$1"
}

# Replaces a line that stands in the file exactly so often; anything else is a defect of the script.
plant() { # FILE TIMES OLD NEW
    OLD=$3 NEW=$4 awk -v times="$2" '
        $0 == ENVIRON["OLD"] { print ENVIRON["NEW"]; found++; next }
        { print }
        END { exit found != times }' "$tree/$1" >"$tree.new" || {
        echo "planted: $1 has not $2 times the line: $3" >&2
        exit 2
    }
    cp "$tree.new" "$tree/$1"
}

# With PLANTED_TRY=1 that is all: whether each defect still finds the lines that it changes. Arguments as of copy_with.
try_them() { # [MORE…]
    [[ ${PLANTED_TRY-} ]] || return 0
    local defect
    for defect in "${list[@]}"; do copy_with "$defect" "$@"; done
    echo "planted: ${#list[@]} defects find their lines"
    exit 0
}
