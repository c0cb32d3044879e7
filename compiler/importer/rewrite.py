"""Operators that are written in others before the walk: each rule takes one node and gives those that do the same.

A rule's first node keeps the file's name; what it needs beside it belongs to that name (`Light.owners`), so that
`sateen check` speaks of the file's own nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sateen.compiler.importer.constants import Constants, Light
from sateen.compiler.importer.domains import CHANNELS_LAST, DEFAULT, GENERAL, opset_of
from sateen.compiler.importer.fused import FUSED, MISPLACED
from sateen.compiler.importer.integer_forms import MICROSOFT
from sateen.compiler.importer.nouns import OnnxNode, Unsupported
from sateen.compiler.importer.thresholds import steps_of
from sateen.compiler.importer.versions import given_ranks, rank_of
from sateen.compiler.importer.written import WRITTEN, of_nothing


class Rewriter:
    """The graph being rewritten: constants by name, and what rules add."""

    def __init__(self, light: Light) -> None:
        self.opset = opset_of(light.model)
        self.ranks = given_ranks(light.model.graph)
        for node in light.model.graph.node:
            self.ranks.update(dict.fromkeys(node.output, rank_of(node, self.ranks, light.model.graph)))
        self.integers = {i.name for i in light.model.graph.input if _is_number(i)}
        """Inputs of one integer."""
        self.added: list[onnx.TensorProto] = []
        self.constants = Constants(light.model.graph, light.arrays)

    def rank(self, name: str) -> int:
        """How many dimensions a tensor has."""
        if name not in self.ranks and (value := self.constants.get(name)) is not None:
            return value.ndim
        return self.ranks[name]

    def add(self, name: str, values: np.ndarray) -> str:
        """A constant of the graph; its name."""
        self.added.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _is_number(info: onnx.ValueInfoProto) -> bool:
    tensor = info.type.tensor_type
    integers = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    return tensor.HasField("shape") and not tensor.shape.dim and tensor.elem_type in integers


Rule = Callable[[Rewriter, OnnxNode], Iterator[onnx.NodeProto]]


def rewrite(light: Light) -> Light:
    """The model in operators that the walk knows. A rule that does not apply leaves its node, to be refused there."""
    if not any((n.domain, n.op_type) in RULES for n in light.model.graph.node):
        return light
    rewriter = Rewriter(light)
    nodes, owners, refused = [], dict(light.owners), dict(light.refused)
    for proto in light.model.graph.node:
        rule = RULES.get((proto.domain, proto.op_type))
        try:
            made = list(rule(rewriter, OnnxNode(proto, rewriter.opset))) if rule else [proto]
        except Unsupported as e:
            made, refused[proto.name] = [proto], (e.reason, e.remedy)
        if rule and made != [proto]:
            for k, node in enumerate(made):
                node.name = proto.name if k == 0 else f"{proto.name}:{k}"
                if k:
                    owners[node.name] = proto.name
            made = _in_order(made)
        nodes.extend(made)
    model = onnx.ModelProto()
    model.CopyFrom(light.model)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(rewriter.added)
    if not any(o.domain == GENERAL for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(GENERAL, 1))
    return replace(light, model=model, owners=owners, refused=refused)


def _in_order(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Each after those that write its inputs: a rule gives the node that does the work first."""
    waiting, ordered = list(nodes), []
    while waiting:
        pending = {o for n in waiting for o in n.output}
        ready = next(n for n in waiting if not pending.intersection(n.input))
        waiting.remove(ready)
        ordered.append(ready)
    return ordered


# -- channels last --------------------------------------------------------------------------------------------


def channels_last(_: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """The standard operator between transposes; a convolution's weights have channels last, too.

    Ref: qonnx.custom_op.channels_last.base_wrapped_op.
    """
    proto = node.proto
    rank = 2 + len(node.integers("kernel_shape", (1, 1)))
    to_first = [0, rank - 1, *range(1, rank - 1)]
    inner = onnx.NodeProto()
    inner.CopyFrom(proto)
    inner.domain, inner.output[0] = "", f"{proto.output[0]}.channels_first"
    turned = range(2 if proto.op_type == "Conv" else 1)
    for i in turned:
        inner.input[i] = f"{proto.output[0]}.first{i}"
    yield inner
    for i in turned:
        yield helper.make_node("Transpose", [proto.input[i]], [inner.input[i]], perm=to_first)
    yield helper.make_node("Transpose", [inner.output[0]], [proto.output[0]], perm=[0, *range(2, rank), 1])


def channels_last_normalization(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """A factor and an offset for each of the last dimension, of any rank."""
    proto = node.proto
    given = [rewriter.constants.get(i) for i in proto.input[1:5]]
    if len(given) != 4 or any(g is None for g in given):
        raise Unsupported("its statistics are computed", "export the model for inference")
    scale, bias, mean, variance = (np.asarray(g, np.float64) for g in given)
    factor = scale / np.sqrt(variance + node.number("epsilon", 1e-5))
    yield from per_channel(rewriter, proto.input[0], factor, bias - mean * factor, proto.output[0], last=True)


# -- thresholds -----------------------------------------------------------------------------------------------


def multi_threshold(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """How many thresholds of its channel each value reaches, as a quantizer behind a factor and an offset.

    Ref: qonnx.custom_op.general.multithreshold; Umuroglu et al., FINN, FPGA 2017.
    """
    proto = node.proto
    thresholds = rewriter.constants.get(proto.input[1])
    if thresholds is None or thresholds.ndim != 2:
        raise Unsupported("its thresholds are not a constant matrix", "export the model again")
    rank = rewriter.ranks.get(proto.input[0], 4)
    layout = node.text("data_layout", "") or {2: "NC", 3: "NWC"}.get(rank, "NCHW")
    last = layout.index("C") > 1 if "C" in layout else False
    out_scale, out_bias = node.number("out_scale", 1.0), node.number("out_bias", 0.0)
    count = thresholds.shape[1]
    first, step = steps_of(thresholds.astype(np.float64))
    x, y = proto.input[0], proto.output[0]

    def number(name: str, value: float) -> str:
        return rewriter.add(f"{y}.{name}", np.array(value, np.float32))

    if count == 1:
        middle = out_bias + out_scale / 2
        sign = y if np.isclose(middle, 0) else f"{y}.sign"
        halves = [f"{y}.centred", number("scale", out_scale / 2)]
        yield helper.make_node("BipolarQuant", halves, [sign], domain=GENERAL)
        yield from per_channel(rewriter, x, np.ones(len(first)), -first, f"{y}.centred", last)
        if sign != y:
            yield helper.make_node("Add", [sign, number("middle", middle)], [y])
        return
    # The n-th threshold lies halfway between n - 1 and n. What is added, out_bias, is a zero point where it can be.
    zero = -out_bias / out_scale
    inside = float(zero).is_integer() and 0 <= zero <= count
    shift = zero if inside else 0.0
    bits = number("bits", int(count).bit_length())
    quantizer = [f"{y}.clipped", number("scale", out_scale), number("zero", shift), bits]
    result = y if inside else f"{y}.count"
    yield helper.make_node(
        "Quant", quantizer, [result], domain=GENERAL, signed=0, narrow=0, rounding_mode="ROUND"
    )
    factor, offset = out_scale / step, out_scale * (0.5 - first / step - shift)
    yield from per_channel(rewriter, x, factor, offset, f"{y}.even", last)
    bounds = [number("low", -out_scale * shift), number("high", out_scale * (count - shift))]
    yield helper.make_node("Clip", [f"{y}.even", *bounds], [f"{y}.clipped"])
    if not inside:
        yield helper.make_node("Add", [result, number("bias", out_bias)], [y])


def per_channel(
    rewriter: Rewriter, x: str, factor: np.ndarray, offset: np.ndarray, y: str, last: bool
) -> Iterator[onnx.NodeProto]:
    """y = x * factor + offset, (C,) or (1,), along dimension 1, or the last, of any rank."""
    a, b = (v.astype(np.float32) for v in (factor, offset))
    if last or len(a) == 1:
        yield helper.make_node("Mul", [x, rewriter.add(f"{y}.factor", a)], [f"{y}.scaled"])
        yield helper.make_node("Add", [f"{y}.scaled", rewriter.add(f"{y}.offset", b)], [y])
        return
    statistics = [(f"{y}.{n}", v) for n, v in (("a", a), ("b", b), ("mean", 0 * a), ("variance", 0 * a + 1))]
    names = [rewriter.add(name, values) for name, values in statistics]
    yield helper.make_node("BatchNormalization", [x, *names], [y], epsilon=0.0)


RULES: dict[tuple[str, str], Rule] = {
    **{(domain, name): rule for domain in DEFAULT for name, rule in WRITTEN.items()},
    **{(domain, "Mul"): of_nothing for domain in DEFAULT},
    **{(MICROSOFT, name): rule for name, rule in FUSED.items()},
    **{(domain, name): rule for domain in DEFAULT for name, rule in MISPLACED.items()},
    **{(CHANNELS_LAST, name): channels_last for name in ("Conv", "MaxPool", "AveragePool")},
    (CHANNELS_LAST, "BatchNormalization"): channels_last_normalization,
    **{
        (domain, "MultiThreshold"): multi_threshold
        for domain in (GENERAL, "finn.custom_op.general", "onnx.brevitas")
    },
}
"""By domain and operator."""
