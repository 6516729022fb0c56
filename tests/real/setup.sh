#!/usr/bin/env bash
# Makes ready what the tests against real programs need, and prints where it is:
#
#   eval "$(tests/real/setup.sh)"
#   cargo test --test real
#
# prints some of
#   export LLAMA_SERVER=…    llama.cpp's server
#   export OPENAI_PYTHON=…   a Python that has the `openai` package and OpenAPI's tools
#   export OPENAI_NODE=…     a folder in which Node finds the `openai` package
#   export CHROMIUM=…        a Chromium or Chrome
#   export POSTGRES_BIN=…    the folder of PostgreSQL's programs
#   export REDIS_SERVER=…    Redis' server
#   export CURL=…            curl
#   export FAKETIME_LIBRARY=…  a library that tells a program another time of day
#
# on stdout, progress on stderr. What cannot be had (no network, another system, not root) is left out with a line
# that says why; its tests are then counted as ignored. A program that is named in the environment already, or is on
# the PATH, is taken as it is. Nothing needs root unless a package of the system is missing.
#
# Everything that is fetched goes to ${LLM_PROXY_API_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-proxy-api-tests}.
# A second run only looks whether all is there. Two runs at once are safe: one waits for the other.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
CACHE="${LLM_PROXY_API_TEST_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/llm-proxy-api-tests}"
mkdir -p "$CACHE"
CACHE="$(cd "$CACHE" && pwd -P)"

# shellcheck source=tests/real/setup/common.sh
. "$HERE/setup/common.sh"
# shellcheck source=tests/real/setup/llama_server.sh
. "$HERE/setup/llama_server.sh"
# shellcheck source=tests/real/setup/python.sh
. "$HERE/setup/python.sh"
# shellcheck source=tests/real/setup/node.sh
. "$HERE/setup/node.sh"
# shellcheck source=tests/real/setup/chromium.sh
. "$HERE/setup/chromium.sh"
# shellcheck source=tests/real/setup/curl.sh
. "$HERE/setup/curl.sh"
# shellcheck source=tests/real/setup/servers.sh
. "$HERE/setup/servers.sh"
# shellcheck source=tests/real/setup/faketime.sh
. "$HERE/setup/faketime.sh"

exec 9>"$CACHE/.lock"
if has flock; then flock 9; fi
# Whoever held the lock before and was killed may have left something half done.
rm -rf "$CACHE"/.work.*
WORK="$(mktemp -d "$CACHE/.work.XXXXXX")"
trap 'rm -rf "$WORK"' EXIT
trap 'exit 1' INT TERM

part LLAMA_SERVER llama_server
part OPENAI_PYTHON openai_python
part OPENAI_NODE openai_node
part CHROMIUM chromium_program
part CURL curl_program
part POSTGRES_BIN postgres_folder
part REDIS_SERVER redis_server
part FAKETIME_LIBRARY faketime_library
