"""What of a model is supported: the list behind `sateen check`, made before anything is built.

It goes as far as `sateen compile` does without a configuration and samples.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from sateen.compiler.given import activation_format, conform, weight_format
from sateen.compiler.importer import Finding, read_model
from sateen.errors import SateenError
from sateen.ir.graph import Graph

__all__ = ["Finding", "check_model"]


def check_model(source: str | Path | onnx.ModelProto) -> list[Finding]:
    """One finding for each node of the file, in its order, then for what else stands against compiling it.

    Raises ModelError only if the file cannot be read at all.
    """
    graph, findings = read_model(source)
    if graph is not None and graph.quantizers:
        findings += _formats(graph)
    return findings


def _formats(graph: Graph) -> list[Finding]:
    """Whether the machine can have the formats of a file that is quantized already."""
    try:
        weight_format(graph)
        fmt = activation_format(graph)
        if fmt is not None:
            conform(graph, fmt)
    except SateenError as e:
        reason, _, remedy = str(e).partition("; ")
        return [Finding(graph.name, "model", False, reason, remedy)]
    return []
