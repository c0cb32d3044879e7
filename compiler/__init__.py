"""From ONNX to a program: importer, quantize, prune, ptq, schedule, export; `pipeline` puts them in order."""
