# Detection and serving on CPUs, with exported files: docker build -f examples/docker/cpu.Dockerfile -t detector-cpu .
# Build it in the root of the repository. It was checked with hadolint, not built.
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 DETECTOR_CACHE=off

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY detector ./detector
# PyTorch for CPUs first: without this index, pip installs gigabytes of CUDA.
# hadolint ignore=DL3013
RUN pip install "torch>=2.6,<3" --index-url https://download.pytorch.org/whl/cpu \
    && pip install ".[onnx,openvino,serve]" \
    && useradd --create-home --uid 1000 detector
USER 1000
WORKDIR /home/detector
EXPOSE 8000
ENTRYPOINT ["detector"]
CMD ["--help"]
