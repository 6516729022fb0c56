# shellcheck shell=bash
# llama-server, as Debian builds it for its newer suites.
#
# Debian 12 does not have it, and the newer suites' programs need a newer libc. So the packages are not installed but
# unpacked, with their own libc and loader, in the cache, and the program is tied to those. apt fetches them through a
# state of its own: nothing of the machine's is changed, and root is not needed.

LLAMA_SUITES="forky sid"
LLAMA_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

llama_server() {
  local folder="$CACHE/llama-server" suite
  local program="$folder/usr/bin/llama-server"
  local recipe
  recipe="$(stamp_of "$HERE/setup/llama_server.sh")"
  if has llama-server; then
    command -v llama-server
    return
  fi
  if ! { is_complete "$folder" "$recipe" && llama_starts "$program"; }; then
    llama_can_be_had
    for suite in $LLAMA_SUITES; do
      rm -rf "$folder" "$WORK/root"
      if llama_fetch "$suite" && llama_tie "$folder"; then break; fi
      say "Debian $suite did not do"
    done
    [ -d "$WORK/root" ] || leave_out "llama-server cannot be fetched from Debian"
    mv "$WORK/root" "$folder"
    llama_starts "$program" || leave_out "the unpacked llama-server does not start"
    complete "$folder" "$recipe"
    say "llama-server is unpacked: $("$program" --version 2>&1 | head -n 1)"
  fi
  printf '%s' "$program"
}

llama_starts() { [ -x "$1" ] && bounded 20 "$1" --version; }

llama_can_be_had() {
  local tool
  for tool in apt-get dpkg dpkg-deb; do
    has "$tool" || leave_out "no llama-server on the PATH, and without $tool none can be had from Debian"
  done
  [ -r "$LLAMA_KEYRING" ] || leave_out "llama-server is fetched from Debian, whose keyring is not here"
  llama_loader >/dev/null
}

# The folder of the libraries and the name of the loader, by the machine's architecture.
llama_loader() {
  case "$(dpkg --print-architecture)" in
    amd64) printf 'x86_64-linux-gnu ld-linux-x86-64.so.2' ;;
    arm64) printf 'aarch64-linux-gnu ld-linux-aarch64.so.1' ;;
    *) leave_out "Debian's llama-server is known here for amd64 and arm64 only" ;;
  esac
}

# The mirror that this machine uses for Debian itself, else the one that is everywhere.
llama_mirror() {
  local mirror
  mirror="$(grep -hsoE 'https?://[^ ]+/debian/?([[:space:]]|$)' \
    /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list |
    grep -v snapshot | head -n 1 | tr -d '[:space:]' || true)"
  printf '%s' "${mirror:-http://deb.debian.org/debian}"
}

# llama_fetch SUITE: the packages, unpacked into $WORK/root. Fails if the suite does not have them.
llama_fetch() {
  local apt="$WORK/apt-$1" deb
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$WORK/root"
  : >"$apt/status"
  printf 'deb [signed-by=%s] %s %s main\n' "$LLAMA_KEYRING" "$(llama_mirror)" "$1" >"$apt/sources.list"
  cat >"$apt/apt.conf" <<CONF
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
APT::Update::Post-Invoke "";
APT::Update::Post-Invoke-Success "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Retries "3";
Acquire::http::Timeout "30";
CONF
  say "fetching llama-server from Debian $1"
  bounded 300 apt-get -c "$apt/apt.conf" -q update || return 1
  bounded 600 apt-get -c "$apt/apt.conf" -q -y --no-install-recommends --download-only \
    install llama.cpp-tools patchelf || return 1
  for deb in "$apt"/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$WORK/root" --exclude='./usr/share/*' --exclude='./etc' \
      --exclude='./var' --exclude='*/gconv' || return 1
  done
  rm -rf "$apt"
}

# llama_tie FOLDER: makes the program in $WORK/root use the loader and the libraries beside it, once it is in FOLDER.
llama_tie() {
  local triplet loader lib file
  read -r triplet loader <<<"$(llama_loader)"
  lib="$WORK/root/usr/lib/$triplet"
  [ -e "$lib/$loader" ] || return 1
  # The loader's path is written into the program whole, the libraries' paths are relative to it. A path of a
  # library's own would go before the program's.
  for file in "$lib"/libllama* "$lib"/libggml* "$lib"/libmtmd* "$lib"/llama/*; do
    if [ -f "$file" ] && [ ! -L "$file" ]; then llama_patch "$lib/$loader" --remove-rpath "$file" || return 1; fi
  done
  llama_patch "$lib/$loader" --set-interpreter "$1/usr/lib/$triplet/$loader" --force-rpath \
    --set-rpath "\$ORIGIN/../lib/$triplet:\$ORIGIN/../lib/$triplet/llama" \
    "$WORK/root/usr/bin/llama-server" || return 1
  # Its CPU back ends are looked for in a fixed folder of the system, and beside the program.
  for file in "$lib"/ggml/backends*/*.so; do
    ln -sf "../lib/$triplet/ggml/$(basename "$(dirname "$file")")/$(basename "$file")" "$WORK/root/usr/bin/"
  done
}

# llama_patch LOADER ARGUMENT…: patchelf, from the same suite and started by the same loader.
llama_patch() {
  local loader="$1"
  shift
  "$loader" --library-path "$(dirname "$loader")" "$WORK/root/usr/bin/patchelf" "$@"
}
