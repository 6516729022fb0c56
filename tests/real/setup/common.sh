# shellcheck shell=bash
# What all parts of the set-up use: messages, time-outs, packages of the system, and the frame of a part.

say() { printf 'setup: %s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

# Leaves a part out. It runs in a subshell of its own, which this ends.
leave_out() {
  say "$*"
  exit 1
}

# bounded SECONDS COMMAND…: never waits for ever. What the command says is shown only if it fails.
bounded() {
  local seconds="$1" log
  shift
  log="$(mktemp "$WORK/log.XXXXXX")"
  if has timeout; then set -- timeout --kill-after=10 "$seconds" "$@"; fi
  # The lock is not for the command's children: one that stays behind would hold it.
  if "$@" >"$log" 2>&1 </dev/null 9>&-; then return 0; fi
  tail -n 5 "$log" | sed 's/^/setup:   /' >&2
  return 1
}

# part VARIABLE FUNCTION: prints the assignment if the function prints a path and succeeds. What the variable says
# already goes before.
part() {
  local variable="$1" path
  path="${!variable:-}"
  if [ -z "$path" ]; then
    # errexit would be off inside a condition; a shell of its own keeps it.
    set +e
    path="$(set -e; "$2")"
    local status=$?
    set -e
    if [ "$status" -ne 0 ]; then
      say "$variable is left out: the tests that need it will be ignored"
      return 0
    fi
  fi
  printf 'export %s=%q\n' "$variable" "$path"
}

# Whether packages of the system can be installed.
can_install() { has apt-get && [ "$(id -u)" -eq 0 ]; }

# install PACKAGE…: from the system's own archive.
install() {
  local apt=(apt-get -q -y -o DPkg::Lock::Timeout=300)
  export DEBIAN_FRONTEND=noninteractive
  say "installing $*"
  # The lists may be old or not there at all: then they are read anew, and it is tried again.
  bounded 600 "${apt[@]}" install --no-install-recommends "$@" 2>/dev/null && return 0
  bounded 300 "${apt[@]}" update || return 1
  bounded 600 "${apt[@]}" install --no-install-recommends "$@"
}

# is_complete FOLDER STAMP, complete FOLDER STAMP: a folder counts only once it is marked, for this place and recipe.
is_complete() { [ "$(cat "$1/.complete" 2>/dev/null)" = "$1 $2" ]; }
complete() { printf '%s' "$1 $2" >"$1/.complete"; }

# The stamp of a recipe's files.
stamp_of() { cat "$@" | cksum | cut -d ' ' -f 1; }
