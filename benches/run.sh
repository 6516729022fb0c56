#!/usr/bin/env bash
# Builds the gateway and the comparison in release, runs it, and prints Markdown tables. README.md says how to read them.
#
#   benches/run.sh [--repeats N] [--only whole64,whole1,burst,paced,held,startup] [--realtime] [--gateway BINARY] …
#
# All options of `gateway-bench compare` are passed on. With --gateway, that binary is measured and none is built.
set -euo pipefail
benches=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$benches")

# What is asked for by name is measured as it is.
gateway=()
if [[ " $* " != *" --gateway"* && " $* " != *" --help "* ]]; then
  (cd "$root" && cargo build --release --locked --bin llm-proxy-api)
  gateway=(--gateway "$(cd "$root" && realpath "${CARGO_TARGET_DIR:-target}")/release/llm-proxy-api")
fi

# In a folder of its own, unless the caller has chosen one for everything.
target=${CARGO_TARGET_DIR:-$benches/target}
(cd "$root" && cargo build --release --locked --manifest-path "$benches/Cargo.toml" --target-dir "$target")
target=$(cd "$root" && realpath "$target")

# exec: a signal reaches the program itself, which ends all that it started.
exec "$target/release/gateway-bench" compare --results "$benches/results" "${gateway[@]}" "$@"
