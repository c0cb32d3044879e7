"""The two graphs between ONNX and the program: floating point (`graph`) and quantized (`quantized`)."""
