"""From the network to a graph file: ONNX and OpenVINO IR export, NMS in the graph, int8 quantization, metadata."""
