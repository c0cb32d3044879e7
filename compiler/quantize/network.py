"""The float network and its statistics to the quantized network: formats, scales, one rounding per output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar, assert_never

import numpy as np

from sateen.compiler.quantize.activations import ActivationPlan, plan_activations, table_function
from sateen.compiler.quantize.bounds import accumulator_bits
from sateen.compiler.quantize.calibrate import Statistics
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.given_weights import warn_of_biases
from sateen.compiler.quantize.linear import Basis, integers, make_linear, make_matmul
from sateen.compiler.quantize.options import Options, as_format
from sateen.compiler.quantize.residuals import align_residuals, fold_zero_points, residual_shifts_fit
from sateen.compiler.quantize.rows import normalize, softmax
from sateen.compiler.quantize.signs import sign_of, signs
from sateen.errors import DataError
from sateen.formats import Format
from sateen.ir.fused import FusedGraph, FusedLayer, FusedNode
from sateen.ir.graph import Graph
from sateen.ir.nodes import Arrange, Concat, MatMul, Maximum, Normalize, Pool, Softmax, Stored
from sateen.ir.quantized import Arrange as QuantizedArrange
from sateen.ir.quantized import Concat as QuantizedConcat
from sateen.ir.quantized import Factor, Linear, MaxPool, Op, Quant, QuantizedGraph, Residual, Tensor
from sateen.ir.quantized import MatMul as QuantizedMatMul
from sateen.ir.quantized import Maximum as QuantizedMaximum
from sateen.ir.quantized import Stored as QuantizedStored
from sateen.ir.verify import verify

__all__ = ["accumulator_bits", "quantize", "quantize_fused", "residual_shifts_fit"]

S = TypeVar("S", Linear, QuantizedMatMul)

REWRITES: tuple[Callable[[QuantizedGraph], QuantizedGraph], ...] = (
    align_residuals,  # sets multipliers, which zero points are counted in
    fold_zero_points,
)
"""Of the quantized graph, in this order."""


def quantize(
    graph: Graph,
    statistics: Statistics | None,
    *,
    weight_format: str | Format,
    activation_format: str | Format,
    scale_method: str = "mse",
    power_of_two: bool = False,
    input_terms: int = 1,
    plan: ActivationPlan | None = None,
    weight_scales: Mapping[str, np.ndarray] | None = None,
) -> QuantizedGraph:
    """The quantized network: weights per output channel, activations per tensor.

    Parameters
    ----------
    statistics : from `calibrate` on this graph; None if all tensors have quantizers of the file. Those keep their
        scales, and so do weights that the file has quantized; both must be of the two formats (`given.conform`).
    scale_method, power_of_two, input_terms : see `Options`
    plan : from `plan_activations`, instead of choosing the same again
    weight_scales : (O,) by Conv: those of weights that lie on the format's grid already

    Raises
    ------
    FormatError
        A format that cannot hold what the network needs of it.
    DataError
        Statistics that lack a tensor; an unknown method.
    """
    formats = as_format(weight_format), as_format(activation_format)
    options = Options(*formats, scale_method, power_of_two, input_terms)
    network = fuse(graph)
    plan = plan or plan_activations(network, statistics, options)
    return quantize_fused(network, statistics, plan, options, weight_scales)


def quantize_fused(
    network: FusedGraph,
    statistics: Statistics | None,
    plan: ActivationPlan,
    options: Options,
    weight_scales: Mapping[str, np.ndarray] | None = None,
) -> QuantizedGraph:
    """`quantize` of a network that is fused and whose activations have their scales. Raises as it does."""
    graph, basis = network.graph, Basis(network, statistics, plan, options, weight_scales or {})
    ops = tuple(_quantized(basis, n) for n in network.nodes)
    warn_of_biases(network, ops, plan.quants)
    ops = tuple(_repeated(graph, op, plan) for op in ops)
    tensors = {t: Tensor(t, _shape(graph, t, plan), plan.quants[t]) for t in network.tensors}
    metadata: dict[str, object] = {
        "weight_format": options.weight_format.name,
        "activation_format": options.activation_format.name,
        "scale_method": options.scale_method,
        "power_of_two": options.power_of_two,
        "input_terms": plan.terms,
        "calibration_samples": statistics.samples if statistics else 0,
    }
    qgraph = QuantizedGraph(graph.name, graph.inputs, graph.outputs, ops, tensors, metadata)
    verify(qgraph, after="quantize")
    for rewrite in REWRITES:
        qgraph = verify(rewrite(qgraph), after=rewrite.__name__)
    return qgraph


# -- tensors -----------------------------------------------------------------------------------------------


def _shape(graph: Graph, tensor: str, plan: ActivationPlan) -> tuple[int, int, int]:
    h, w, c = graph.shapes[tensor]
    return h, w, c * plan.terms.get(tensor, 1)


def _repeated(graph: Graph, op: Op, plan: ActivationPlan) -> Op:
    """An op that reads terms has its weights once for each; the network needs no more multiplications for it."""
    if not isinstance(op, Linear) or op.input not in plan.terms:
        return op
    terms = plan.terms[op.input]
    zero = plan.quants[op.input].zero_point
    bias = [int(b) - (terms - 1) * zero * int(s) for b, s in zip(op.bias, op.weight.sums, strict=True)]
    macs = op.dense_macs(graph.shapes[op.output])
    channels = op.channels
    if channels is not None:
        channels = np.concatenate([channels + k * graph.shapes[op.input][2] for k in range(terms)], axis=1)
    weight = replace(op.weight, codes=np.tile(op.weight.codes, (1, 1, 1, terms)))
    return replace(op, weight=weight, channels=channels, bias=integers(bias), macs=macs)


# -- ops ---------------------------------------------------------------------------------------------------


def _quantized(basis: Basis, node: FusedNode) -> Op:
    match node:
        case Pool():
            return MaxPool(
                node.name,
                node.input,
                node.output,
                node.kernel,
                node.stride,
                node.dilation,
                node.pads,
                (node.name,),
            )
        case Concat():
            return QuantizedConcat(node.name, node.parts, node.output, (node.name,))
        case Arrange():
            return QuantizedArrange(node.name, node.parts, node.pieces, node.output, (node.name,))
        case Stored():
            codes = basis.plan.quants[node.output].quantize(node.values)
            return QuantizedStored(node.name, node.output, codes, (node.name,))
        case Maximum():
            return QuantizedMaximum(node.name, node.parts, node.output, (node.name,))
        case Softmax() | Normalize():
            quants, shape = basis.plan.quants, basis.network.graph.shapes[node.input]
            source, target = quants[node.input], quants[node.output]
            if isinstance(node, Softmax):
                return softmax(node, shape, source, target)
            return normalize(node, shape, source, target)
        case FusedLayer():
            return _layer(basis, node)
        case _:
            assert_never(node)


def _layer(basis: Basis, layer: FusedLayer) -> Linear | QuantizedMatMul:
    network, quants = basis.network, basis.plan.quants
    source, requantized = quants[layer.input], quants[layer.requantized]
    raw, sign = layer.output in network.raw, sign_of(layer, network)
    folded = (
        [] if raw or layer.product else [requantized] + ([quants[layer.residual]] if layer.residual else [])
    )
    zeros = sum(q.scale * abs(q.offset) for q in folded if q.zero_before)
    if isinstance(layer.main, MatMul):
        product = make_matmul(basis, layer, layer.main, raw)
        if layer.residual:
            product = replace(product, residual=Residual(layer.residual, 1, 0))
        return _rounded(basis, layer, product)
    linear = make_linear(basis, layer, sign or raw, zeros)
    if sign:
        linear = signs(linear, layer, source)
        return replace(linear, table=_table(layer, linear.requantized, quants[layer.output]))
    if layer.residual and layer.product:
        linear = replace(linear, residual=Factor(layer.residual))
        _check_zeros(layer, requantized, quants[layer.residual])
    elif layer.residual:
        linear = replace(linear, residual=Residual(layer.residual, 1, 0))  # see align_residuals
    return _rounded(basis, layer, linear)


def _rounded(basis: Basis, layer: FusedLayer, linear: S) -> S:
    """With the table or the clamp of the layer's activation."""
    quants = basis.plan.quants
    requantized = quants[layer.requantized]
    if layer.table:
        return replace(linear, table=_table(layer, requantized, quants[layer.output]))
    if layer.activation:
        low, high = (
            requantized.format.fixed(requantized.quantize(np.array([v]))).item()
            for v in (layer.activation.low, layer.activation.high)
        )
        return replace(linear, low=low, high=max(low, high))
    return linear


def _check_zeros(layer: FusedLayer, *quants: Quant) -> None:
    """Raise DataError for zero points of the file that are added before the rounding, where sums alone can be."""
    if found := next((q for q in quants if q.zero_before), None):
        raise DataError(
            f"'{layer.name}': a product of two tensors, of which the file gives '{layer.residual}' or "
            f"'{layer.requantized}' the zero point {found.offset:g} in {found.format.name}; quantize them without"
        )


def _table(layer: FusedLayer, before: Quant, after: Quant) -> np.ndarray:
    """The code of f(x) for every code of x, (2**bits,); NaN and infinity read as the largest values."""
    fmt = before.format
    fixed = fmt.fixed(fmt.codes)  # unlike decode's values, always finite
    x = before.real(fixed * 2.0**fmt.lsb_exponent)
    return after.quantize(table_function(layer)(x))
