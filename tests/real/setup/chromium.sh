# shellcheck shell=bash
# A browser of Chromium's kind.

chromium_program() {
  local name
  for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if has "$name"; then
      command -v "$name"
      return
    fi
  done
  can_install || leave_out "there is no Chromium on the PATH"
  install chromium || leave_out "chromium cannot be installed"
  command -v chromium
}
