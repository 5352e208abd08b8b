#!/bin/sh
# Make a virtual environment with pip in it: scripts/make_venv.sh FOLDER (PYTHON names the interpreter).
set -eu
folder=$1
python=${PYTHON:-python3}

"$python" - <<'CHECK' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"slabench needs Python 3.11 or later, and this is {sys.version.split()[0]}. Try: make PYTHON=python3.11 demo")
CHECK

if "$python" -m venv "$folder" 2>/dev/null; then
    exit 0
fi
# Debian ships venv without ensurepip unless python3-venv is installed. Any pip or virtualenv at hand will do instead.
rm -rf "$folder"
if "$python" -m virtualenv --quiet "$folder" 2>/dev/null; then
    exit 0
fi
if "$python" -m venv --without-pip "$folder" && "$python" -m pip --python "$folder/bin/python" install --quiet pip; then
    exit 0
fi
rm -rf "$folder"
echo "This Python can make no virtual environment with pip. On Debian: apt install python3-venv" >&2
exit 1
