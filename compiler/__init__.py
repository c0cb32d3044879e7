"""From ONNX to a program: importer, quantize, prune, ptq, schedule, export; `pipeline` puts them in order."""

from sateen.compiler.float_executor import conv, float_outputs, run_float

__all__ = ["conv", "float_outputs", "run_float"]
