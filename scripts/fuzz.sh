#!/usr/bin/env bash
# Fuzz every target in fuzz/ for so many seconds, each from its seeds; an input that ends a target is left in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: fuzz.sh SECONDS}

# Coverage and the address sanitiser are nightly features of the compiler.
rustup toolchain list | grep '^nightly' >/dev/null || rustup toolchain install nightly --profile minimal
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --version 0.13.2 --locked

declare -A seeds=([decode]=tests/data/images [classify]=fuzz/seeds/classify)
for target in decode classify; do
  mkdir -p "fuzz/corpus/$target"
  cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "${seeds[$target]}" -- -max_total_time="$seconds" -rss_limit_mb=4096 -print_final_stats=1
done
