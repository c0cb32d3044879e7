"""Heads that begin where a word of the machine does: channels of zeros between them, in the weights around them.

A head among channels is read as a run of words (`ir.heads.Batch`). Where its size is no whole number of words,
the layer that writes it gets outputs of zeros behind each head, and the one that reads it weights of zeros. What no
layer can take so is copied by one of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sateen.compiler.schedule.tiles import identity_code
from sateen.formats.requantize import requantize
from sateen.ir.heads import INPUT, OUTPUT, WEIGHT
from sateen.ir.operation import Constant
from sateen.ir.quantized import Linear, MatMul, Op, QuantizedGraph, Tensor
from sateen.machine.config import AcceleratorConfig


def align_heads(graph: QuantizedGraph, config: AcceleratorConfig) -> QuantizedGraph:
    """The graph as a machine's words have it; itself if all heads begin with one."""
    if all(wanted(op, k, graph, config) == 1 for op in graph.ops if isinstance(op, MatMul) for k in range(3)):
        return graph
    ops: list[Op] = []
    tensors = dict(graph.tensors)
    for op in graph.ops:
        after: list[Op] = []
        if isinstance(op, MatMul):
            before, op, after = _spread(op, graph, tensors, config)
            ops += before
        ops += [op, *after]
    made = replace(graph, ops=tuple(ops), tensors=tensors)
    for merge in (_into_producer, _into_consumers):
        while (changed := merge(made)) is not None:
            made = changed
    used = {p.name for p in made.inputs} | {t for op in made.ops for t in (*op.inputs, op.output)}
    return replace(made, tensors={t: v for t, v in made.tensors.items() if t in used})


def wanted(op: MatMul, which: int, graph: QuantizedGraph, config: AcceleratorConfig) -> int:
    """How many times as large a head would have to be, at least in part: 1 where it begins with a word, or a slice."""
    batch, tensor = op.batch, (op.input, op.weight, op.output)[which]
    if batch.heads == 1 or not batch.in_channels[which]:
        return 1
    size = batch.split(which, graph.tensors[tensor].shape)[3]
    unit = config.cols if which == OUTPUT or (which == WEIGHT and not batch.transposed) else config.elements
    return unit // math.gcd(size, unit)


def _spread(
    op: MatMul, graph: QuantizedGraph, tensors: dict[str, Tensor], config: AcceleratorConfig
) -> tuple[list[Op], MatMul, list[Op]]:
    """The op with room behind its heads, and the copies before and after it."""
    batch, names = op.batch, (op.input, op.weight, op.output)
    sizes = [batch.split(k, graph.tensors[t].shape) for k, t in enumerate(names)]
    factors = [wanted(op, k, graph, config) for k in range(3)]
    unit = config.elements
    reduction = op.reduction
    if batch.transposed and max(factors[INPUT], factors[WEIGHT]) > 1:  # else its elements are pixels
        reduction = -(-reduction // unit) * unit
    outputs = sizes[OUTPUT][3]
    if factors[OUTPUT] > 1 or (factors[WEIGHT] > 1 and not batch.transposed):
        outputs = -(-outputs // config.cols) * config.cols
    channels = (reduction, reduction, sizes[OUTPUT][3]) if batch.transposed else (reduction, outputs, outputs)
    before: list[Op] = []
    after: list[Op] = []
    found = list(names)
    residual = op.residual
    for k, (name, now) in enumerate(zip(names, channels, strict=True)):
        groups, heads, pixels, size = sizes[k]
        if now == size:
            continue
        runs = heads if batch.in_channels[k] else 1
        found[k] = f"{name}.{op.name}.heads"
        tensor = tensors[name]
        tensors[found[k]] = replace(
            tensor, name=found[k], shape=batch.joined(k, (groups, heads, pixels, now))
        )
        place = np.arange(now)
        source = np.where(place < size, np.arange(runs)[:, None] * size + place, -1).ravel()
        if k == OUTPUT:
            there = np.flatnonzero(source >= 0)
            after.append(_copy(f"{op.name}.heads", found[k], name, there, tensor, config))
            if residual:
                own = tensors[residual.input]
                made = replace(own, name=f"{own.name}.{op.name}.heads", shape=(*own.shape[:2], len(source)))
                tensors[made.name] = made
                before.append(_copy(made.name, own.name, made.name, source, own, config))
                residual = replace(residual, input=made.name)
        else:
            before.append(_copy(found[k], name, found[k], source, tensor, config))
    operands = {"input": found[INPUT], "weight": found[WEIGHT], "residual": residual}
    spread = replace(op, **operands, output=found[OUTPUT], reduction=reduction)  # type: ignore[arg-type]
    if channels[OUTPUT] != sizes[OUTPUT][3]:
        runs = batch.heads if batch.in_channels[OUTPUT] else 1
        room = channels[OUTPUT] - sizes[OUTPUT][3]

        def filled(values: np.ndarray, empty: int) -> np.ndarray:
            return np.pad(values.reshape(runs, -1), ((0, 0), (0, room)), constant_values=empty).ravel()

        spread = replace(
            spread, bias=filled(op.bias, 0), multiplier=filled(op.multiplier, 1),
            shift=filled(op.shift, int(op.shift.min()) if residual else 0),  # which exceeds the residual's
        )  # fmt: skip
    return before, spread, after


def _copy(
    name: str, source: str, output: str, channels: np.ndarray, tensor: Tensor, config: AcceleratorConfig
) -> Linear:
    """Channel `channels[k]` of the source as channel k, its code as it is; zero where that is -1."""
    n, one = len(channels), identity_code(config)
    codes = np.where(channels < 0, config.weight.zero_code, one).astype(config.weight.code_dtype)
    fmt = config.activation
    return Linear(
        name, source, output, Constant(codes.reshape(n, 1, 1, 1), config.weight), np.zeros(n, np.int64),
        np.ones(n, np.int64), np.zeros(n, np.int64), replace(tensor.quant, zero_point=0), fmt.min_fixed, fmt.max_fixed,
        groups=n, macs=0, channels=np.maximum(channels, 0)[:, None],
    )  # fmt: skip


def _copies(graph: QuantizedGraph) -> list[Linear]:
    """Those that `_spread` made: nothing else is called so."""
    return [op for op in graph.ops if isinstance(op, Linear) and op.name.endswith(".heads") and op.macs == 0]


def _into_producer(graph: QuantizedGraph) -> QuantizedGraph | None:
    """Room behind the outputs of the layer that is copied, which nothing else reads."""
    results = {o.tensor for o in graph.outputs}
    for copy in _copies(graph):
        assert copy.channels is not None
        producer = graph.producer(copy.input)
        alone = graph.consumers(copy.input) == (copy,) and copy.input not in results
        zero = copy.weight.fixed.ravel() == 0
        if not alone or not isinstance(producer, Linear) or not _takes_room(producer) or not zero.any():
            continue
        taken = copy.channels[:, 0]
        codes = np.where(
            zero[:, None, None, None], producer.weight.format.zero_code, producer.weight.codes[taken]
        )
        scale = producer.weight.scale
        made = replace(
            producer, output=copy.output, bias=np.where(zero, 0, producer.bias[taken]),
            multiplier=producer.multiplier[taken], shift=producer.shift[taken],
            weight=replace(
                producer.weight, codes=codes.astype(producer.weight.codes.dtype),
                scale=None if scale is None else scale[taken],
            ),
            groups=len(taken) if producer.channels is not None else 1,
            channels=None if producer.channels is None else producer.channels[taken],
        )  # fmt: skip
        return replace(graph, ops=tuple(made if op is producer else op for op in graph.ops if op is not copy))
    return None


def _takes_room(op: Linear) -> bool:
    """Whether an output without weights or bias is zero."""
    if op.raw or op.residual is not None or not (op.groups == 1 or op.channels is not None):
        return False
    fmt = op.requantized.format
    code = requantize(np.zeros(1, np.int64), 1, 0, fmt, op.requantized.zero_after, op.low, op.high)
    code = code if op.table is None else op.table[code]
    return not op.requantized.zero_before and int(fmt.fixed(code)[0]) == 0


def _into_consumers(graph: QuantizedGraph) -> QuantizedGraph | None:
    """Weights of zeros in the layers that read a copy without room."""
    results = {o.tensor for o in graph.outputs}
    for copy in _copies(graph):
        assert copy.channels is not None
        users = graph.consumers(copy.output)
        whole = (isinstance(u, Linear) and u.whole and u.inputs == (copy.output,) for u in users)
        if copy.output in results or not all(whole) or (copy.weight.fixed == 0).any():
            continue
        taken, total = copy.channels[:, 0], graph.tensors[copy.input].shape[2]
        changed: dict[str, Op] = {}
        for user in users:
            assert isinstance(user, Linear)
            old = user.weight.codes
            codes = np.full((*old.shape[:3], total), user.weight.format.zero_code, old.dtype)
            codes[..., taken] = old
            changed[user.name] = replace(user, input=copy.input, weight=replace(user.weight, codes=codes))
        ops = tuple(changed.get(op.name, op) for op in graph.ops if op is not copy)
        return replace(graph, ops=ops)
    return None
