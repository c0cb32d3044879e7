"""The quantized network as an ONNX model, and its comparison with ONNX Runtime."""
