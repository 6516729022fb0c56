#!/usr/bin/env bash
# Builds llm-proxy-api and starts it on whatever can be found on this machine, or runs its tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'U'
usage: ./run-rest-api.sh [COMMAND…]   build, and run a command of llm-proxy-api: serve (the default), check, models, chat …
       ./run-rest-api.sh test         set up what the tests need, and run all of them

Settings are environment variables LLM_PROXY_API_*; `./run-rest-api.sh serve --help` explains them.
U
}

# What the program can be asked for.
commands='serve check models prompts leaderboard keys chat usage import backup openapi help'

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

# The version that Cargo.toml asks for is asked for here, before pages of errors of a compiler that is too old.
need_version() {
  local needed found
  needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  found=$(rustc --version | cut -d' ' -f2)
  if [ "$(printf '%s\n%s\n' "$needed" "${found%%-*}" | sort -V | head -n1)" = "$needed" ]; then return; fi
  say "Rust $needed or newer is needed, and this is $found. With rustup: rustup update stable"
  exit 1
}

# An unknown command or an address in use is reported before minutes of building.
look_ahead() {
  local command=serve listen=${LLM_PROXY_API_LISTEN:-} address before=''
  local word
  for word in "$@"; do
    case $before in --listen) listen=$word ;; esac
    case $word in --listen=*) listen=${word#*=} ;; esac
    before=$word
  done
  case ${1-} in
    '' | -*) ;;
    *)
      command=$1
      case " $commands " in
        *" $command "*) ;;
        *)
          say "\`$command\` is no command; there are: $commands"
          exit 2
          ;;
      esac
      ;;
  esac
  case " $* " in *' --help '* | *' -h '* | *' --version '* | *' -V '*) return ;; esac
  if [ "$command" != serve ]; then return; fi
  if [ -z "$listen" ] && [ -f .env ]; then listen=$(sed -n 's/^LLM_PROXY_API_LISTEN=//p' .env | tail -n1); fi
  for address in $(tr ',' ' ' <<<"${listen:-127.0.0.1:8080}"); do
    case $address in unix:* | \[* | *:0) continue ;; esac
    if (exec 3<>"/dev/tcp/${address%:*}/${address##*:}") 2>/dev/null; then
      say "Another program listens on $address already. To use another port: LLM_PROXY_API_LISTEN=127.0.0.1:8081 $0"
      exit 1
    fi
  done
}

# The first build is the quick one, for an answer soon. Who has built for speed once (cargo build --release) keeps that.
build() {
  local folder=${CARGO_TARGET_DIR:-target} cores minutes
  profile=quick
  if [ -x "$folder/release/llm-proxy-api" ]; then profile=release; fi
  if [ ! -x "$folder/$profile/llm-proxy-api" ]; then
    cores=$(nproc 2>/dev/null || echo 2)
    minutes=$(((11 + cores - 1) / cores))
    say "Building, this once: about $minutes minutes on $cores processors."
  fi
  cargo build --profile "$profile" --locked
}

run() {
  look_ahead "$@"
  need_compiler
  need_cargo
  need_version
  local profile
  build
  # What can be found is served, even if nothing is configured; MINIMUM= (empty) turns that off.
  export LLM_PROXY_API_MINIMUM=${LLM_PROXY_API_MINIMUM-1}
  # Not `cargo run`: signals have to reach the service itself.
  exec "${CARGO_TARGET_DIR:-target}/$profile/llm-proxy-api" "$@"
}

run_tests() {
  need_compiler
  need_cargo
  need_version
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
