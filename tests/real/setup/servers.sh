# shellcheck shell=bash
# The servers of the stores. Tests start their own ones in temporary folders; one that the system runs is left alone.

# The folder that has the server's programs: the newest one of Debian's, or the one that the PATH leads to.
postgres_bin() {
  local program
  program="$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1)"
  [ -x "$program" ] || program="$(readlink -f "$(command -v initdb)")" || return 1
  [ -x "$program" ] && dirname "$program"
}

postgres_folder() {
  postgres_bin && return
  can_install || leave_out "PostgreSQL is not installed, and packages cannot be installed"
  install postgresql || leave_out "PostgreSQL cannot be installed"
  postgres_bin || leave_out "PostgreSQL is installed, and its programs are not found"
}

redis_server() {
  command -v redis-server && return
  can_install || leave_out "Redis is not installed, and packages cannot be installed"
  install redis-server || leave_out "Redis cannot be installed"
  command -v redis-server || leave_out "Redis is installed, and its server is not found"
}
