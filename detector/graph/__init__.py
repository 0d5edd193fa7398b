"""Convert networks to graph files: ONNX and OpenVINO IR, NMS inside the graph, int8 quantization, metadata."""
