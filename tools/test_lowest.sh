#!/usr/bin/env bash
# Tests with the oldest version of each direct dependency that pyproject.toml allows, torch excepted: tools/test_lowest.sh
# This needs uv (pip install uv). Arguments are those of pytest; without them, the tests that use the dependencies most.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_CONSTRAINT="$PWD/.ci/constraints.txt"
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/python" -m pip install -q torch  # as the constraints say; its packages are left out of the list below
uv pip compile -q --python "$venv/bin/python" --resolution lowest-direct --extra dev --no-annotate --no-header \
  --no-emit-package torch -c .ci/constraints.txt pyproject.toml | grep -vE '^(nvidia-|cuda-|triton)' > "$venv/lowest.txt"
"$venv/bin/python" -m pip install -q --no-deps -r "$venv/lowest.txt"
"$venv/bin/python" -m pip install -q --no-deps -e .
cat "$venv/lowest.txt"
tests=("$@")
[ $# -gt 0 ] || tests=(
  tests/test_cli.py tests/test_config.py tests/test_config_schema.py tests/test_detections.py tests/test_drawing.py
  tests/test_files.py tests/test_images.py tests/test_image_inputs.py tests/test_outputs.py tests/augment tests/data
  tests/detecting tests/evaluating tests/exporting tests/graph tests/metrics tests/model tests/runtime tests/serving
)
"$venv/bin/python" -m pytest -n auto -p no:cacheprovider "${tests[@]}"
