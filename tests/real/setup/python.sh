# shellcheck shell=bash
# A Python with OpenAI's client and tools for OpenAPI, in a virtual environment of its own.

openai_python() {
  local folder="$CACHE/python" recipe base
  recipe="$(stamp_of "$HERE/setup/python.sh" "$HERE/setup/requirements.txt")"
  if ! { is_complete "$folder" "$recipe" && bounded 60 "$folder/bin/python" -c 'import sys'; }; then
    rm -rf "$folder"
    base="$(python_base)"
    say "making a Python environment with OpenAI's client"
    bounded 120 "$base" -m venv "$folder" || leave_out "$base cannot make a virtual environment"
    bounded 600 "$folder/bin/python" -m pip install --disable-pip-version-check --no-input \
      -r "$HERE/setup/requirements.txt" || leave_out "the Python packages cannot be installed"
    bounded 60 "$folder/bin/python" -c 'import openai' || leave_out "Python's openai does not load"
    complete "$folder" "$recipe"
  fi
  printf '%s' "$folder/bin/python"
}

# A Python from which an environment can be made.
python_base() {
  local python
  for python in python3 /usr/bin/python3; do
    if python_will_do "$python"; then
      printf '%s' "$python"
      return
    fi
  done
  can_install || leave_out "there is no Python 3.10 or newer with venv and pip"
  install python3 python3-venv || leave_out "python3 and python3-venv cannot be installed"
  python_will_do /usr/bin/python3 || leave_out "the system's Python is older than 3.10"
  printf '/usr/bin/python3'
}

python_will_do() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
