# shellcheck shell=bash
# The client of the command line.

curl_program() {
  command -v curl && return
  can_install || leave_out "there is no curl on the PATH, and packages cannot be installed"
  install curl || leave_out "curl cannot be installed"
  command -v curl
}
