# Training and detection on NVIDIA GPUs: docker build -f examples/docker/cuda.Dockerfile -t detector-cuda .
# Build it in the root of the repository; run it with --gpus all and --shm-size 8g, because the data loader uses shared
# memory. It was checked with hadolint, not built.
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY detector ./detector
# The wheels of PyTorch from PyPI contain CUDA; the host needs only the driver and the NVIDIA Container Toolkit.
# hadolint ignore=DL3013
RUN pip install ".[onnx]" \
    && useradd --create-home --uid 1000 detector
USER 1000
WORKDIR /work
ENTRYPOINT ["detector"]
CMD ["--help"]
