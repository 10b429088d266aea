#!/bin/bash
# Whether the oldest Rust that Cargo.toml promises (rust-version) can be kept.
#
# Always: no dependency asks for a newer one. What our own code calls of the standard library is watched
# by clippy's incompatible_msrv in tests/run.sh. Where that toolchain is there or can be had, it checks
# the whole program as well.
set -euo pipefail
cd "$(dirname "$0")/.."
msrv=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

newer=$(cargo metadata --format-version 1 --locked | jq -r --arg msrv "$msrv" '
    def number: split(".") | map(tonumber);
    .packages[] | select(.rust_version != null and ((.rust_version | number)[:2] > ($msrv | number)[:2]))
    | "\(.name) \(.version) wants Rust \(.rust_version)"')
if [ -n "$newer" ]; then
    printf 'msrv: Cargo.toml promises Rust %s, but:\n%s\n' "$msrv" "$newer" >&2
    exit 1
fi
echo "msrv: no dependency wants more than Rust $msrv"

if rustup toolchain install "$msrv" --profile minimal >/dev/null 2>&1; then
    cargo "+$msrv" check --locked --target-dir target/msrv
    echo "msrv: Rust $msrv builds it"
else
    echo "msrv: NOT BUILT: Rust $msrv cannot be had here" >&2
    # Where nothing may be skipped this is a failure.
    [ "${CI-}" != true ] || exit 1
fi
