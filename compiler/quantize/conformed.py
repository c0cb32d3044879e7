"""A file that is quantized already, fused, with the machine's one format of activations."""

from __future__ import annotations

from sateen.compiler.quantize.activations import open_tensors
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.given import activation_format, conform
from sateen.errors import DataError
from sateen.formats import Format, parse_format
from sateen.ir.fused import FusedGraph
from sateen.ir.graph import Graph

DEFAULT = parse_format("int8")


def conformed(graph: Graph, fixed: Format | None, default: Format = DEFAULT) -> tuple[FusedGraph, Format]:
    """The network and its format: `fixed`, or the one that the file's quantizers share, or `default`.

    The file's is for what it rounds: where it leaves computed tensors as they are, and its format has fewer bits than
    `DEFAULT`, the format is that one, and each quantizer a part of its codes.

    Raises FormatError where no one format holds all.
    """
    if not graph.quantizers:
        return fuse(graph), fixed or default
    chosen = fixed or activation_format(graph) or default
    network = fuse(conform(graph, chosen))
    narrow = fixed is None and chosen.uniform and chosen.bits < DEFAULT.bits
    if narrow and _leaves_open(network):
        return fuse(conform(graph, DEFAULT)), DEFAULT
    return network, chosen


def _leaves_open(network: FusedGraph) -> bool:
    """Whether the file does not round all that is computed, inputs apart: a coarse one has several terms."""
    try:
        return bool(set(open_tensors(network)) - {p.name for p in network.graph.inputs})
    except DataError:  # the sign of what is not rounded: refused where it is quantized
        return False
