# shellcheck shell=bash
# OpenAI's client for Node, in a folder of its own.

openai_node() {
  local folder="$CACHE/node" recipe
  recipe="$(stamp_of "$HERE/setup/node.sh" "$HERE/setup/package.json")"
  node_itself
  if ! { is_complete "$folder" "$recipe" && [ -d "$folder/node_modules/openai" ]; }; then
    has npm || { can_install && install npm; } || leave_out "there is no npm"
    rm -rf "$folder"
    mkdir -p "$folder"
    cp "$HERE/setup/package.json" "$folder/"
    say "fetching OpenAI's client for Node"
    bounded 300 npm install --prefix "$folder" --no-audit --no-fund --no-package-lock --ignore-scripts \
      --omit=peer || leave_out "OpenAI's client for Node cannot be installed"
    (cd "$folder" && bounded 60 node --input-type=module -e 'await import("openai")') ||
      leave_out "Node's openai does not load"
    complete "$folder" "$recipe"
  fi
  printf '%s' "$folder"
}

node_itself() {
  if ! has node; then
    can_install || leave_out "there is no Node"
    install nodejs || leave_out "nodejs cannot be installed"
  fi
  node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 18 ? 1 : 0)' ||
    leave_out "Node $(node --version) is too old: the client needs 18"
}
