#!/usr/bin/env bash
# Detect and evaluate with an exported .onnx file in environments without torch, one per interpreter.
#   bash tools/without_torch.sh python3.12 python3.13
# `python` must have this package with torch: it makes the export.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
PYTHONPATH=$root python -m detector export --weights scenes --imgsz 96 --out scenes.onnx --quiet
for interpreter in "$@"; do
  "$interpreter" -m venv venv --clear
  venv/bin/python -m pip install -q --disable-pip-version-check \
    numpy pillow opencv-python-headless PyYAML safetensors tqdm filelock faster-coco-eval onnxruntime
  export PYTHONPATH=$root
  venv/bin/python -W error -c "
import sys, numpy, detector
found = detector.Detector.load('scenes.onnx').detect(numpy.zeros((64, 96, 3), numpy.uint8))
assert 'torch' not in sys.modules and len(found) == 0"
  venv/bin/python -m detector detect scenes --weights scenes.onnx --csv --out "found-$interpreter"
  venv/bin/python -m detector evaluate --data scenes --weights scenes.onnx --quiet > results  # a pipe to head would fail
  head -2 results
  status=0
  venv/bin/python -m detector train --data scenes 2> errors || status=$?
  test "$status" = 2
  grep -x "error: this command needs the package torch, which is not installed" errors
  echo "$("$interpreter" --version): works without torch"
done
