"""The quantized network as an ONNX model, and its comparison with ONNX Runtime."""

from sateen.compiler.export.compare import compare_with_onnxruntime
from sateen.compiler.export.compare_file import Differences, compare_with_file, run_file
from sateen.compiler.export.model import export_onnx

__all__ = ["Differences", "compare_with_file", "compare_with_onnxruntime", "export_onnx", "run_file"]
