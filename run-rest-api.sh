#!/usr/bin/env bash
# Builds llm-proxy-api and starts it on whatever can be found on this machine, or runs its tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'U'
usage: ./run-rest-api.sh [COMMAND…]   build, and run a command of llm-proxy-api: serve (the default), check, models …
       ./run-rest-api.sh test         set up what the tests need, and run all of them

Settings are environment variables LLM_PROXY_API_*; README.md lists them.
U
}

say() { printf '%s\n' "$*" >&2; }

# Installs Debian packages where that can be done without asking anybody.
packages() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "Installing $* …"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
  else
    return 1
  fi
}

need_compiler() {
  { command -v cc && command -v make; } >/dev/null || packages build-essential || {
    say "A C compiler and make are needed. On Debian and Ubuntu: sudo apt install build-essential"
    exit 1
  }
}

need_cargo() {
  # A shell that was open when rustup came does not know it yet.
  command -v cargo >/dev/null || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  if command -v cargo >/dev/null; then return; fi
  local install="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
  say "Rust is needed and not installed. Its installer, rustup, puts it into your home folder:"
  say ""
  say "    $install"
  say ""
  local answer=n
  if [ -t 0 ]; then read -rp "Run it now? [y/N] " answer; fi
  case $answer in
    y | Y | yes) bash -c "$install" && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH" ;;
    *) exit 1 ;;
  esac
}

run() {
  need_compiler
  need_cargo
  cargo build --release --locked
  # What can be found is served, even if nothing is configured; MINIMUM= (empty) turns that off.
  export LLM_PROXY_API_MINIMUM=${LLM_PROXY_API_MINIMUM-1}
  # Not `cargo run`: signals have to reach the service itself.
  exec "${CARGO_TARGET_DIR:-target}/release/llm-proxy-api" "$@"
}

run_tests() {
  need_compiler
  need_cargo
  # Real servers and clients. What cannot be had is told, and its tests count as ignored.
  local programs
  programs=$(tests/real/setup.sh)
  eval "$programs"
  cargo test --locked "$@"
}

case ${1-} in
  -h | --help | help) usage ;;
  test) shift && run_tests "$@" ;;
  *) run "$@" ;;
esac
