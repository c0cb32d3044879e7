"""Fold kernel taps of the first layer into its activation words, where its channels leave them half empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sateen.ir.operation import Window
from sateen.ir.ports import Shape
from sateen.ir.quantized import ComputedConv, Linear, QuantizedGraph, Tensor, WeightGradient
from sateen.ir.verify import verify
from sateen.machine.config import AcceleratorConfig
from sateen.sim.host import Fold


def fold_inputs(graph: QuantizedGraph, config: AcceleratorConfig) -> tuple[QuantizedGraph, dict[str, Fold]]:
    """The graph that the accelerator runs, and for each folded input what the host does."""
    folds: dict[str, Fold] = {}
    reshaped: set[str] = set()
    ops = list(graph.ops)
    tensors = dict(graph.tensors)
    output_tensors = {o.tensor for o in graph.outputs}
    for port in graph.inputs:
        users = graph.consumers(port.name)
        if len(users) != 1 or port.name in output_tensors:
            continue
        op = users[0]
        if isinstance(op, WeightGradient | ComputedConv):
            if found := _of_step(op, port.name, graph, config):
                folds[port.name], ops[ops.index(op)], shapes = found
                tensors |= {t: replace(tensors[t], shape=shape) for t, shape in shapes.items()}
                reshaped |= set(shapes)
            continue
        if not isinstance(op, Linear) or not op.whole or (op.residual and op.residual.input == port.name):
            continue
        best = min(_candidates(op, graph, config), key=lambda c: c[0])
        if best[1] is None:
            continue
        fold, changed = best[1], best[2]
        folds[port.name] = fold
        ops[ops.index(op)] = changed
        shape = _folded_shape(tensors[port.name].shape, fold)
        tensors[port.name] = Tensor(port.name, shape, tensors[port.name].quant)
    if not folds:
        return graph, folds
    changed = replace(graph, ops=tuple(ops), tensors=tensors)
    return verify(changed, after="fold_inputs", folded={*folds, *reshaped}, reshaped=reshaped), folds


def _of_step(
    op: WeightGradient | ComputedConv, port: str, graph: QuantizedGraph, config: AcceleratorConfig
) -> tuple[Fold, WeightGradient | ComputedConv, dict[str, Shape]] | None:
    """Of an op of a training step: the fold, the changed op, and shapes; weights and their gradients lie in memory as
    they did. None where nothing is gained, or the weights have a pattern or other readers."""
    (kh, kw), (pt, pl, pb, pr) = op.kernel, op.pads
    tensor = graph.tensors[port]
    weights = op.output
    if isinstance(op, ComputedConv):
        weights = op.weight
        alone = graph.consumers(op.weight) == (op,) and graph.producer(op.weight) is None
        if op.transposed or not op.pattern.dense or not alone or (op.residual and op.residual.input == port):
            return None
    if op.input != port or min(op.pads) < 0:
        return None
    _, inputs, outputs = graph.tensors[weights].shape

    def cost(taps: int, channels: int) -> int:
        """Passes over the pixels."""
        elements = min(config.group, channels) if isinstance(op, WeightGradient) else config.group
        return taps * elements * -(-channels // config.elements)

    costs = {
        (1, 1): cost(kh * kw, inputs),
        (1, kw): cost(kh, kw * inputs),
        (kh, kw): cost(1, kh * kw * inputs),
    }
    folded = min(costs, key=lambda k: costs[k])
    if folded == (1, 1):
        return None
    if folded == (kh, kw):
        fold = Fold(folded, op.stride, op.dilation, op.pads, tensor.quant.zero_code)
        window = Window()
    else:
        fold = Fold(folded, (1, op.stride[1]), (1, op.dilation[1]), (0, pl, 0, pr), tensor.quant.zero_code)
        window = Window((kh, 1), (op.stride[0], 1), (op.dilation[0], 1), (pt, 0, pb, 0))
    channels = folded[0] * folded[1] * inputs
    changed = replace(
        op, kernel=window.kernel, stride=window.stride, dilation=window.dilation, pads=window.pads
    )
    if isinstance(changed, ComputedConv):
        changed = replace(changed, reduction=channels)
    shapes = {port: _folded_shape(tensor.shape, fold), weights: (window.kernel[0], channels, outputs)}
    return fold, changed, shapes


def _folded_shape(shape: tuple[int, int, int], f: Fold) -> tuple[int, int, int]:
    (h, w, c), (kh, kw), (t, l, b, r) = shape, f.kernel, f.pads
    oh = (h + t + b - (kh - 1) * f.dilation[0] - 1) // f.stride[0] + 1
    ow = (w + l + r - (kw - 1) * f.dilation[1] - 1) // f.stride[1] + 1
    return oh, ow, kh * kw * c


def _candidates(op: Linear, graph: QuantizedGraph, config: AcceleratorConfig):  # type: ignore[no-untyped-def]
    """(cost in cycles, fold or None, changed op) for no fold, folding the kernel's columns, and the whole kernel."""
    tensor = graph.tensors[op.input]
    _, oh_ow = tensor.shape, graph.tensors[op.output].shape
    o, kh, kw, c = op.weight.shape
    tiles = -(-o // config.cols)
    pixels = oh_ow[0] * oh_ow[1]
    beats_per_word = max(1.0, config.act_word_bytes / config.beat_bytes)

    def cost(kernel_words: int, stored_words: int) -> float:
        compute = pixels * kernel_words * tiles * config.dense_passes
        load = stored_words * beats_per_word
        return max(compute, load) + 0.05 * load

    h, w, _ = tensor.shape
    words = -(-c // config.elements)
    yield cost(kh * kw * words, h * w * words), None, op
    pad = tensor.quant.zero_code
    if kw > 1:
        pt, pl, pb, pr = op.pads
        fold = Fold((1, kw), (1, op.stride[1]), (1, op.dilation[1]), (0, pl, 0, pr), pad)
        words = -(-(kw * c) // config.elements)
        changed = replace(
            op,
            weight=replace(op.weight, codes=op.weight.codes.reshape(o, kh, 1, kw * c)),
            stride=(op.stride[0], 1),
            dilation=(op.dilation[0], 1),
            pads=(pt, 0, pb, 0),
        )
        yield cost(kh * words, h * oh_ow[1] * words), fold, changed
    if kh * kw > 1:
        fold = Fold((kh, kw), op.stride, op.dilation, op.pads, pad)
        words = -(-(kh * kw * c) // config.elements)
        changed = replace(
            op,
            weight=replace(op.weight, codes=np.ascontiguousarray(op.weight.codes).reshape(o, 1, 1, -1)),
            stride=(1, 1),
            dilation=(1, 1),
            pads=(0, 0, 0, 0),
        )
        yield cost(words, pixels * words), fold, changed
