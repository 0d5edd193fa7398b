"""Inference backends: run a network with PyTorch, ONNX Runtime or OpenVINO through the same interface."""
