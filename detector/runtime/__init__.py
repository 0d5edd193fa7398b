"""What computes the network on pictures: PyTorch, ONNX Runtime or OpenVINO, all with the same answers."""
