"""Inference backends: PyTorch, ONNX Runtime and OpenVINO behind one protocol."""
