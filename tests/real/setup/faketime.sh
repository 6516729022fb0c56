# shellcheck shell=bash
# The library that tells a program another time of day: libfaketime, for programs with threads.

found_faketime() {
  local library
  for library in /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib*/faketime/libfaketimeMT.so.1 \
    /usr/local/lib/faketime/libfaketimeMT.so.1; do
    if [ -f "$library" ]; then
      printf '%s\n' "$library"
      return
    fi
  done
  return 1
}

faketime_library() {
  found_faketime && return
  can_install || leave_out "libfaketime is not installed, and packages cannot be installed"
  install libfaketime || leave_out "libfaketime cannot be installed"
  found_faketime || leave_out "libfaketime is installed, and not found"
}
