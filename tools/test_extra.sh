#!/usr/bin/env bash
# Tests of a heavy extra, which the gate skips, in an environment of its own: tools/test_extra.sh NAME
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  tune) tests="tests/tuning tests/test_docs.py" ;;
  *) echo "usage: tools/test_extra.sh tune"; exit 2 ;;
esac
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/python" -m pip install -q -e ".[dev,$1]"
"$venv/bin/python" -m pytest $tests -p no:cacheprovider
