# shellcheck shell=bash
# Writes a host's state so that two dumps can be compared byte by byte. Runs inside the host.
# --exclude PATH leaves out a file below /etc or /proc/sys and all that is below it. Never looked at, as
# it moves by itself: counters, timers, lifetimes, interface numbers, local routes to fe80:: (they come
# with DAD), nf_conntrack_count, tcp_fastopen_key, stable_secret; of nft, what the iptables sections show.
set -u
excludes=()
while (($#)); do
    case $1 in
    --exclude) excludes+=("$2"); shift 2 ;;
    *) excludes+=("$1"); shift ;;
    esac
done
# Drops lines whose first TAB-separated field is excluded.
keep() {
    awk -F '\t' -v list="$(printf '%s\n' "${excludes[@]}")" '
        BEGIN { n = split(list, out, "\n"); for (i in out) sub(/\/+$/, "", out[i]) }
        { for (i = 1; i <= n; i++) if (out[i] != "" && ($1 == out[i] || index($1, out[i] "/") == 1)) next; print }'
}
rules() { sed -E '/^#/d; s/ \[[0-9]+:[0-9]+\]$//'; }

for v in '' 6; do
    echo "== ip${v}tables-nft"
    "ip${v}tables-nft-save" 2>/dev/null | rules
    echo "== ip${v}tables-legacy"
    # Asking for a table would make it, so only those there are.
    sort "/proc/net/ip${v}_tables_names" 2>/dev/null | while read -r table; do
        "ip${v}tables-legacy-save" -t "$table"
    done | rules
done
echo '== nft'
nft -s list ruleset 2>/dev/null | awk '
    /^table ip6? (filter|nat|mangle|raw|security) / { skip = 1 }
    !skip { sub(/counter packets [0-9]+ bytes [0-9]+/, "counter"); print }
    /^}/ { skip = 0 }'

echo '== sysctl'
find /proc/sys/net -type f -perm /444 \
    ! -name nf_conntrack_count ! -name stable_secret ! -name tcp_fastopen_key -exec grep -s '' /dev/null {} + |
    sed -E 's/^([^:]*):/\1\t/' | keep | LC_ALL=C sort

echo '== links'
# Timers and numbers out, flags sorted as they are, one line a link. That a device is up the kernel
# reports up to a second late; until then it says UNKNOWN, beside flags that tell.
ip -d -o link show | sed -E 's/^[0-9]+: ([^:@]+)(@[^:]+)?:/\1/; s/\\/ /g; s/ state UNKNOWN / state UP /' | awk '
    BEGIN { n = split("hello_timer tcn_timer topology_change_timer gc_timer hold_timer message_age_timer forward_delay_timer link-netnsid topology_change topology_change_detected", w); for (i in w) drop[w[i]] = 1 }
    { out = ""; for (i = 1; i <= NF; i++) { if ($i in drop) { i++; continue } out = out (i > 1 ? " " : "") $i } print out }' | sort

echo '== addresses'
ip -o addr show | sed -E 's/^[0-9]+: //; s/\\.*//; s/ tentative| dadfailed//g; s/ +/ /g' | sort
echo '== routes'
{
    ip -4 route show table all | sed 's/^/4 /'
    ip -6 route show table all | sed 's/^/6 /'
} | sed -E '/^6 local fe80:/d; s/ expires [0-9]+sec//; s/ +$//; s/ +/ /g' | sort
echo '== rules'
ip -4 rule show
ip -6 rule show

echo '== /etc'
{
    find /etc -type f -print0 | xargs -0r sha256sum | sed -E 's/^\\?([0-9a-f]{64})  (.*)$/S\t\2\t\1/'
    find /etc -printf 'F\t%p\t%y %m %U:%G\t%l\n'
} | awk -F '\t' '
    $1 == "S" { sum[$2] = $3; next }
    { print $2 "\t" $3 ($4 != "" ? " -> " $4 : "") ($2 in sum ? " " sum[$2] : "") }' | keep | LC_ALL=C sort
