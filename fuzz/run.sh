#!/bin/sh
# Fuzzes each target for so many seconds, with stable Rust and nothing to install: the same flags
# that cargo-fuzz would set, without a sanitizer. Exits non-zero at the first crash.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
RUSTFLAGS='--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1'
export RUSTFLAGS
cargo build --release --target "$(rustc -vV | sed -n 's/^host: //p')"
for target in yaml rule save probe; do
	mkdir -p "corpus/$target" "artifacts/$target"
	echo "== $target, ${seconds}s"
	target/"$(rustc -vV | sed -n 's/^host: //p')"/release/$target -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
		-artifact_prefix="artifacts/$target/" "corpus/$target" "seeds/$target" 2>&1 | tail -n 4
done
