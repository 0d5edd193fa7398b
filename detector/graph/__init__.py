"""Graph files: ONNX and OpenVINO IR export, NMS inside the graph, int8 post-training quantization, metadata."""
