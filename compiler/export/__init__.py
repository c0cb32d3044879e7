"""The quantized network as an ONNX model, and its comparison with ONNX Runtime."""

from sateen.compiler.export.compare import compare_with_onnxruntime
from sateen.compiler.export.model import export_onnx

__all__ = ["compare_with_onnxruntime", "export_onnx"]
