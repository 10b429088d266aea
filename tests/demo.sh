#!/bin/bash
# Shows kvmfw at work on three lab hosts: an outage that a firewall causes, said in advance, and cured;
# and a lockout that undoes itself. Real sshd, iptables, bridges and packets; this machine's own network
# is not touched, and nothing is left behind. Ends with 0 only if everything went as it says here.
set -u -o pipefail
top=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd) || exit 1
usage='usage: tests/demo.sh        (KVMFW=PATH: show that program and build none)'
[[ $# == 0 ]] || { echo "$usage"; [[ $1 == -h || $1 == --help ]]; exit; }

# --- what it stands on ------------------------------------------------------------------------------
if [[ -z ${KVMFW-} ]]; then
    command -v cargo >/dev/null || { echo 'demo: Rust is missing; https://rustup.rs installs it' >&2; exit 1; }
    if ! command -v cc >/dev/null && ((EUID == 0)); then "$top/tests/install-deps.sh" || exit; fi
    echo "Building kvmfw (cargo build --release): some minutes the first time." >&2
    (cd "$top" && cargo build --release --quiet) || exit
    KVMFW=$(cd "$top" && cargo metadata --format-version 1 --no-deps --offline 2>/dev/null |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/release/kvmfw
fi
[[ -x $KVMFW ]] || { echo "demo: there is no program $KVMFW" >&2; exit 1; }
KVMFW=$(readlink -f "$KVMFW")
if ((EUID != 0)); then
    echo 'Network namespaces need root: going on with sudo.' >&2
    exec sudo "KVMFW=$KVMFW" "$top/tests/demo.sh"
fi
"$top/tests/install-deps.sh" || exit

project=$(mktemp -d /tmp/kvmfw-demo.XXXXXX) || exit 1
export LAB_DIR=/run/lab-demo-$$ KVMFW_RUN_DIR=$project/runs
lab() { "$top/tests/lab/lab.sh" "$@"; }
# shellcheck disable=SC2317 # by the trap
leave() {
    trap '' INT TERM
    lab down
    rm -rf "$project"
}
trap leave EXIT
trap 'exit 130' INT TERM

color=never bold='' dim='' green='' red='' off=''
if [[ -t 1 && -z ${NO_COLOR-} ]]; then
    color=always bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[1;31m' off=$'\e[0m'
fi
width=106
if [[ -t 1 ]]; then
    width=$(($(tput cols 2>/dev/null || echo 112) - 6))
    ((width > 106)) && width=106
    ((width < 60)) && width=60
fi

# --- how it speaks ----------------------------------------------------------------------------------
chapter=0
heading() { printf '\n%s%d. %s%s\n' "$bold" $((++chapter)) "$1" "$off"; }
tell() { printf '%s\n' "$*" | fold -s -w "$width"; }
# Shows a command as one would type it AT that place, runs it, shows what it says; output in $said, exit code in $code.
at() { # PLACE SHOWN COMMAND…
    local from=1
    printf '\n%s%s$%s %s%s%s\n' "$dim" "$1" "$off" "$bold" "$2" "$off"
    shift 2
    said=$("$@" 2>&1)
    code=$?
    [[ -n $said ]] || return
    # Right below a plan an apply need not show it all again.
    if [[ $planned ]]; then
        from=$(sed -n '/Plan: /=' <<<"$said" | head -n 1)
        [[ $from ]] && printf '  %s[the plan, left out here]%s\n' "$dim" "$off"
    fi
    # Long lines are broken, with the rest further in.
    tail -n +"$((${from:-0} + 1 - (from == 1)))" <<<"$said" | sed '/./,$!d' | while IFS= read -r line; do
        fold -s -w "$width" <<<"$line" | sed '1s/^/  /; 2,$s/^/      /'
    done
}
planned=''
kvmfw() {
    local shown="kvmfw $*"
    if [[ $1 == plan ]]; then planned=''; fi
    at controller "$shown" lab exec -- "$KVMFW" -C "$project" --color "$color" --progress none "$@"
    planned=''
    if [[ $1 == plan ]]; then planned=yes; fi
}
# What was just shown must be so.
check() { # WHAT COMMAND…
    local what=$1
    shift
    if "$@"; then printf '%s  ✓ %s%s\n' "$green" "$what" "$off"; return; fi
    printf '%s  ✗ not so: %s%s\n' "$red" "$what" "$off"
    exit 1
}
coded() { [[ $code == "$1" ]]; }
has() { # TEXT, whatever its colours
    local plain
    # shellcheck disable=SC2001 # a pattern with digits
    plain=$(sed 's/\x1b\[[0-9;]*m//g' <<<"$said")
    [[ $plain == *"$1"* ]]
}
hasnt() { ! has "$1"; }
modules() { # LIST
    cat >"$project/inventories/lab.yaml" <<YAML
hosts:
  kvm1: { address: 10.99.0.11 }
  kvm2: { address: 10.99.0.12 }
  kvm3: { address: 10.99.0.13 }
groups:
  all:
    ssh: { identity_file: $LAB_DIR/id_ed25519, known_hosts: $LAB_DIR/known_hosts }
    modules: [$1]
    bridges: { br123: { manage: false } }   # it is there already
YAML
    printf '\n%s  inventories/lab.yaml now says:%s modules: [%s]\n' "$dim" "$off" "$1"
}
# Guest g0 calls the server in guest g1 of the same host, over both protocols, on every host.
guests() { # reachable|dark
    local host jobs=() failed=0
    for host in kvm1 kvm2 kvm3; do
        calls "$host" "$1" &
        jobs+=($!)
    done
    for address in 192.168.1.2 fd00:1::2; do
        at 'guest g0 on kvm1' "nc -zv -w2 $address 80" lab guest kvm1 g0 -- nc -zv -w2 "$address" 80
    done
    for job in "${jobs[@]}"; do wait "$job" || failed=1; done
    return $failed
}
calls() { # HOST reachable|dark
    local address got
    for address in 192.168.1.2 fd00:1::2; do
        # What should get through may need a second try, while IPv6 looks for its neighbour anew.
        got=dark
        for _ in 1 2 3; do
            lab guest "$1" g0 -- nc -z -w1 "$address" 80 2>/dev/null && got=reachable && break
            [[ $2 == dark ]] && break
        done
        [[ $got == "$2" ]] || { printf '  %s on %s is %s\n' "$address" "$1" "$got"; return 1; }
    done
}
serve() {
    local host family
    for host in kvm1 kvm2 kvm3; do
        for family in -4 -6; do lab guest "$host" g1 -- nc $family -lk 80 </dev/null >/dev/null 2>&1 & done
        for family in 192.168.1.2 fd00:1::2; do
            for _ in {1..50}; do
                lab guest "$host" g0 -- nc -z -w1 "$family" 80 2>/dev/null && continue 2
            done
            return 1
        done
    done
}

# --- the story --------------------------------------------------------------------------------------
SECONDS=0
mkdir -p "$project/inventories" "$project/modules/office"
tell "${bold}kvmfw on three KVM hosts, in nine steps.${off}" \
    "Every line after a ✓ was checked; this stops at the first that is not so."

heading 'Three KVM hosts, each with two guests on bridge br123'
at 'this machine' 'tests/lab/lab.sh up -n 3' lab up -n 3
check 'three hosts are up' coded 0
check 'a web server listens in guest g1 of every host' serve
check 'guests reach each other, on all three hosts' guests reachable
modules host-firewall

heading 'What would the classic firewall do to these hosts?'
tell 'It accepts SSH, ICMP and answers, and rejects the rest. A plan only reads.'
kvmfw plan
check 'the plan says that the guests will go dark' has 'guests-unreachable'
check 'it names the rule and the line it comes from' has 'host-firewall/module.yaml:19'
kvmfw apply -y
check 'an apply refuses to cut guests off' coded 7
check 'and nothing has happened yet' guests reachable

heading 'Let it happen'
kvmfw apply -y --accept-risk guests-unreachable
check 'all three hosts took it' coded 0
check 'the guests are dark, on all three hosts' guests dark
at 'guest g0 on kvm1' 'ping -c1 192.168.1.2' lab guest kvm1 g0 -- ping -n -c1 -W1 192.168.1.2
check 'what makes it so puzzling: a ping still works, for the ruleset accepts ICMP' coded 0

heading 'Who does this? Ask the log'
modules 'host-firewall, firewall-log'
planned=yes
kvmfw apply -y
check 'the hosts log now' coded 0
lab guest kvm1 g0 -- nc -z -w1 192.168.1.2 80 2>/dev/null
# shellcheck disable=SC2016 # for the inner shell
at kvm1 'dmesg | grep "Firewall FORWARD" | grep DPT=80 | tail -n1' \
    bash -c '"$1" klog kvm1 | grep "Firewall FORWARD" | grep DPT=80 | tail -n1' log "$top/tests/lab/lab.sh"
check 'from guest to guest, and yet through the FORWARD chain of the host' \
    has 'Firewall FORWARD: IN=br123 OUT=br123 PHYSIN=vnet0 PHYSOUT=vnet1'

heading 'The cure: take bridged frames out of the firewall of the host'
tell 'One of three. bridge-accept-each and bridge-accept-physdev would do too; only this one also keeps' \
    'tenants with equal addresses apart.'
modules 'host-firewall, firewall-log, bridge-bypass'
kvmfw plan
check 'no guest goes dark under this plan' hasnt guests-unreachable
kvmfw apply -y
check 'all three hosts took it' coded 0
check 'the guests are back, on all three hosts' guests reachable
kvmfw plan
check 'a second plan is empty' has 'No changes.'

heading 'It holds: pull the plug of kvm2'
# shellcheck disable=SC2016 # for the inner shell
at 'this machine' 'tests/lab/lab.sh power-cut kvm2; tests/lab/lab.sh boot kvm2' \
    bash -c '"$1" power-cut kvm2 && "$1" boot kvm2' cut "$top/tests/lab/lab.sh"
check 'kvm2 is up again' coded 0
check 'its guests serve again' serve
kvmfw plan
check 'and nothing has to be changed there' has 'No changes.'

heading 'A mistake that would lock you out'
cat >"$project/modules/office/module.yaml" <<'YAML'
description: Meant to let the office in, and lets nobody in.
iptables:
  filter:
    INPUT:
      first: |
        -m state --state ESTABLISHED,RELATED -j ACCEPT
        -s 198.51.100.0/24 -p tcp --dport 22 -j ACCEPT   # not where you are
        -j DROP
YAML
printf '\n%s  modules/office/module.yaml:%s\n' "$dim" "$off"
sed -n '/first/,$p' "$project/modules/office/module.yaml" | sed 's/^/  /'
modules 'office, host-firewall, firewall-log, bridge-bypass'
kvmfw plan
check 'the plan says so, and which rule does it' has 'LOCKOUT: every new SSH connection'

kvmfw apply -y
check 'an apply leaves such hosts alone' coded 7

heading 'Do it nevertheless'
tell 'The session that applies goes on, for it is ESTABLISHED. But a change counts only once a new' \
    'connection has confirmed it, and nobody gets a new one. After 5 s the host rolls itself back.'
kvmfw apply -y --confirm-timeout 5s --accept-risk lockout
check 'the first host rolled itself back, the other two were spared' coded 4
at controller 'ssh kvm1 uname -n' lab ssh kvm1 -- uname -n
check 'SSH works' coded 0
check 'and so do the guests' guests reachable

heading 'Leave no trace'
planned=yes
kvmfw undo --to 0 -y
check 'all three hosts are as they were before' coded 0
at kvm1 'iptables-save | grep -c KVMFW; ls -d /etc/kvmfw /var/lib/kvmfw' \
    lab host kvm1 -- sh -c 'iptables-save | grep -c KVMFW; ls -d /etc/kvmfw /var/lib/kvmfw'
check 'no rule' test "${said%%$'\n'*}" = 0
check 'no file' has "cannot access '/etc/kvmfw'"
check 'and no memory of it' has "cannot access '/var/lib/kvmfw'"
check 'and the guests reach each other, with no firewall at all' guests reachable

printf '\n%sAll of it was so, in %d s.%s The lab goes down now. Next: README.md, and kvmfw --help.\n' "$bold" "$SECONDS" "$off"
