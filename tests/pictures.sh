#!/bin/bash
# Draws the terminal pictures of the book anew from a real run on three lab hosts, as root. KVMFW is the
# program that is shown (target/debug/kvmfw unless set).
set -eu -o pipefail
cd "$(dirname "$0")/.."
kvmfw=$(readlink -f "${KVMFW:-target/debug/kvmfw}")
work=$(mktemp -d /tmp/kvmfw-pictures.XXXXXX)
export LAB_DIR=/run/lab-pictures-$$
lab=$PWD/tests/lab/lab.sh
# shellcheck disable=SC2317 # by the trap
leave() {
    "$lab" down >/dev/null 2>&1
    rm -rf "$work"
}
trap leave EXIT
"$lab" up -n 3 >&2

mkdir -p "$work/inventories" "$work/modules/oops"
inventory() { # MODULES
    cat >"$work/inventories/lab.yaml" <<YAML
hosts:
  kvm1: { address: 10.99.0.11 }
  kvm2: { address: 10.99.0.12 }
  kvm3: { address: 10.99.0.13 }
groups:
  all:
    ssh: { user: root, identity_file: $LAB_DIR/id_ed25519, known_hosts: $LAB_DIR/known_hosts, connect_timeout: 5s }
    modules: [$1]
    bridges: { br123: { manage: false } }
YAML
}
cat >"$work/modules/oops/module.yaml" <<'YAML'
description: Accepts what is open already, and no new SSH.
iptables:
  filter:
    INPUT:
      first: |
        -m state --state ESTABLISHED,RELATED -j ACCEPT
        -j DROP
YAML
run() { # OUTPUT ARGUMENT…
    local output=$1
    shift
    code=0
    "$lab" exec -- "$kvmfw" -C "$work" --run-dir "$work/runs" --color always --progress none "$@" >"$output" || code=$?
}
draw() { python3 book/picture.py "$1" >"book/src/img/$2.svg"; }

inventory host-firewall
run "$work/plan" plan
{
    printf '$ kvmfw plan\n'
    sed -n '1,14p' "$work/plan"
    printf '…\n'
    sed -n '/guests-unreachable]/,/fix:/p' "$work/plan"
    printf '…\n'
    sed -n '/REFUSED/,$p' "$work/plan"
} | draw 'kvmfw plan: the outage, before it happens' plan

inventory 'oops, host-firewall, bridge-bypass'
run "$work/apply" apply -y --confirm-timeout 5s --accept-risk lockout
{
    printf '$ kvmfw apply -y --confirm-timeout 5s --accept-risk lockout\n…\n'
    sed -n '/ROLLED BACK/,$p' "$work/apply"
    # shellcheck disable=SC2016 # shown, not done
    printf '$ echo $?\n%d\n' "$code"
} | draw 'kvmfw apply: a lockout that undoes itself' rollback
