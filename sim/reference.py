"""The reference engine: the quantized graph in NumPy, op by op. It is the definition of right.

Every engine shares `quantize_inputs` and `finish_outputs`; between them there are only integers.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from sateen.arrays import NETWORK, check_ports
from sateen.errors import DataError
from sateen.formats import Format
from sateen.formats.requantize import requantize
from sateen.formats.rows import Exponentials, as_rows, from_rows, normalize_rows, softmax_rows
from sateen.ir.pieces import moved
from sateen.ir.ports import Port
from sateen.ir.quantized import (
    Arrange,
    BiasGradient,
    ComputedConv,
    Concat,
    Gate,
    Linear,
    MatMul,
    Maximum,
    MaxPool,
    Normalize,
    Op,
    PoolGate,
    QuantizedGraph,
    Softmax,
    Stored,
    Summed,
    WeightGradient,
)
from sateen.processors import processors
from sateen.sim import gradients
from sateen.sim.integer import Convolution, windows
from sateen.sim.requantizer import Requantizer

_CHUNK_ELEMENTS = 1 << 20
"""Of the largest im2col matrix of a chunk of images; so that a chunk's work stays near the cache."""


def run_reference(qgraph: QuantizedGraph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Graph outputs (N, *ONNX shape) by name, for inputs (N, *ONNX shape) by name: float32, or as the port says.

    Raises DataError when inputs are missing, misshapen or not finite.
    """
    needed = {o.tensor for o in qgraph.outputs}
    codes = _run(qgraph, quantize_inputs(qgraph, inputs), needed)
    return finish_outputs(qgraph, codes)


def reference_codes(qgraph: QuantizedGraph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor (N, H, W, C) by name: codes, or integer accumulators of a raw output."""
    return _run(qgraph, quantize_inputs(qgraph, inputs), None)


def quantize_inputs(qgraph: QuantizedGraph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The codes (N, H, W, terms * C) of every input tensor.

    Raises DataError when an input is missing, unknown, misshapen, not real numbers or not finite.
    """
    arrays = check_inputs(qgraph.inputs, inputs)
    return {
        p.name: qgraph.tensors[p.name].quant.quantize_terms(
            p.to_hwc(np.asarray(arrays[p.name], np.float64)), qgraph.terms(p)
        )
        for p in qgraph.inputs
    }


def check_inputs(ports: tuple[Port, ...], inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """`inputs`, by the file's names, as real, finite arrays (N, *port.shape) with one N of at least 1, by the file's
    names and the ports'; or DataError."""
    given = check_ports(inputs, {p.source: p.shape for p in ports}, say=NETWORK)
    for port in ports:
        if port.codes is not None:
            _check_codes(port, given[port.source])
        if port.table is not None:
            _check_rows(port, given[port.source])
    return {p.name: given[p.source] for p in ports} | given


def _check_codes(port: Port, x: np.ndarray) -> None:
    """Raise DataError unless `x` holds codes of the port's type."""
    assert port.codes is not None
    low, high = port.codes.format.min_fixed, port.codes.format.max_fixed
    what = f"the model takes {port.kind} codes, {low} to {high}, that stand for {port.codes.scale:.6g} * (code - "
    what += f"{port.codes.zero_point})"
    if x.dtype.kind == "f":
        raise DataError(f"input '{port.name}': type {x.dtype}; {what}: quantize it")
    if x.min() < low or x.max() > high:
        worst = int(x.min() if x.min() < low else x.max())
        raise DataError(f"input '{port.name}': it holds {worst}; {what}")


def _check_rows(port: Port, x: np.ndarray) -> None:
    """Raise DataError unless `x` holds indices of the port's table."""
    assert port.table is not None
    n = len(port.table)
    if x.min() < -n or x.max() >= n or (x != np.rint(x)).any():
        wrong = x[(x < -n) | (x >= n) | (x != np.rint(x))][0]
        raise DataError(
            f"input '{port.source}': it holds {wrong}; it chooses rows of a table of {n}: give integers from 0 to "
            f"{n - 1}"
        )


def finish_outputs(qgraph: QuantizedGraph, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Graph outputs (N, *ONNX shape) from codes, or from the exact accumulators of raw outputs."""
    results = {}
    for output in qgraph.outputs:
        real = qgraph.real(output.tensor, tensors[output.tensor])
        results[output.port.name] = output.port.stated(output.present(real))
    return results


# -- execution ---------------------------------------------------------------------------------------------


def _run(
    qgraph: QuantizedGraph, codes: dict[str, np.ndarray], keep: set[str] | None
) -> dict[str, np.ndarray]:
    """Run in chunks of images, on all cores; `keep` names the tensors to return (None: all)."""
    steps = [REFERENCE[type(op)](qgraph, op) for op in qgraph.ops]
    total = len(next(iter(codes.values())))
    size = max(1, _CHUNK_ELEMENTS // max((step.columns for step in steps), default=1))
    parts = [{k: v[i : i + size] for k, v in codes.items()} for i in range(0, total, size)]
    free = _last_uses(qgraph, keep)

    def run(part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = dict(part)
        for op, step, dead in zip(qgraph.ops, steps, free, strict=True):
            tensors[op.output] = step(tensors)
            for name in dead:
                del tensors[name]
        return tensors if keep is None else {k: tensors[k] for k in keep}

    # Images run in parallel, so BLAS must not: its threads would wait for one another.
    with threadpool_limits(1, "blas"):
        if len(parts) == 1:
            return run(parts[0])
        with ThreadPoolExecutor(processors()) as pool:
            done = list(pool.map(run, parts))
    return {k: np.concatenate([d[k] for d in done]) for k in done[0]}


def _last_uses(qgraph: QuantizedGraph, keep: set[str] | None) -> list[tuple[str, ...]]:
    """For each op the tensors that nothing reads after it."""
    last = {name: i for i, op in enumerate(qgraph.ops) for name in (op.output, *op.inputs)}
    kept = set(last) if keep is None else keep
    return [
        tuple(name for name, at in last.items() if at == i and name not in kept)
        for i in range(len(qgraph.ops))
    ]


class Step(Protocol):
    """An op as a function of the tensors so far; `columns` are the elements of the largest array that it makes of an
    image, but for copies that padding needs."""

    columns: int

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray: ...


class _Linear:
    def __init__(self, qgraph: QuantizedGraph, op: Linear) -> None:
        self.op = op
        h, w, c = qgraph.tensors[op.output].shape
        self.columns = h * w * (max(c, int(np.prod(op.weight.shape[1:]))) if op.groups == 1 else c)
        quant = qgraph.tensors[op.input].quant
        fixed = quant.format.fixed(quant.format.codes)
        weight = op.weight.fixed
        self.convolution = Convolution(
            weight,
            int(np.abs(fixed).max()),
            stride=op.stride,
            dilation=op.dilation,
            pads=op.pads,
            groups=op.groups,
            padding=int(fixed[quant.zero_code]),
        )
        self.fixed = fixed.astype(self.convolution.dtype)
        self.residual = _residual(qgraph, op)
        self.requantizer = Requantizer(op, self.convolution.bound, int(np.abs(self.residual).max()))

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        x = tensors[self.op.input]
        if self.op.channels is not None:
            x = x[..., self.op.channels.ravel()]
        acc = self.convolution(np.take(self.fixed, x))
        if self.op.raw:
            return self.requantizer.with_bias(acc)
        if self.op.residual is None:
            return self.requantizer(acc)
        return self.requantizer(acc, np.take(self.residual, tensors[self.op.residual.input]))


def _residual(qgraph: QuantizedGraph, op: Summed) -> np.ndarray:
    """What each code of the residual stands for; without one, 0."""
    if op.residual is None:
        return np.zeros(1, np.int64)
    r = qgraph.tensors[op.residual.input].quant
    return r.format.fixed(r.format.codes) - r.zero_after


class _MatMul:
    def __init__(self, qgraph: QuantizedGraph, op: MatMul) -> None:
        self.op = op
        h, w, c = qgraph.tensors[op.output].shape
        self.columns = h * w * max(c, op.reduction)
        self.fixed = [
            q.format.fixed(q.format.codes) for q in (qgraph.tensors[t].quant for t in (op.input, op.weight))
        ]
        if op.digits:
            self.fixed[1] = op.digits.value(op.digits.whole.codes)
        self.largest, other = (int(np.abs(fixed).max()) for fixed in self.fixed)
        self.residual = _residual(qgraph, op)
        bound = op.reduction * self.largest * other
        self.requantizer = Requantizer(op, bound, int(np.abs(self.residual).max()))

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        op = self.op
        x, y = (np.take(f, tensors[t]) for f, t in zip(self.fixed, (op.input, op.weight), strict=True))
        sums = op.batch.multiply(x, y, self._products)
        if op.raw:
            return self.requantizer.with_bias(sums)
        if op.residual is None:
            return self.requantizer(sums)
        return self.requantizer(sums, np.take(self.residual, tensors[op.residual.input]))

    def _products(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(N, M, K) by (N, K, O), exactly."""
        each = (
            Convolution(b.T[:, None, None], self.largest)(a[None, None]) for a, b in zip(x, y, strict=True)
        )
        return np.concatenate([p[0] if p.dtype == object else p[0].astype(np.int64) for p in each])


class _MaxPool:
    """Codes are mapped to their rank by value, the largest rank wins and is mapped back."""

    def __init__(self, qgraph: QuantizedGraph, op: MaxPool) -> None:
        self.op = op
        self.columns = int(np.prod(qgraph.tensors[op.output].shape))
        self.rank, self.code = value_order(qgraph.tensors[op.input].quant.format)

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        op = self.op
        top, left, bottom, right = op.pads
        x = np.take(self.rank, tensors[op.input])
        x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))  # rank 0 is the lowest value
        view = windows(x, op.kernel, op.stride, op.dilation)
        best = view[:, :, :, 0, 0].copy()
        for i in range(op.kernel[0]):
            for j in range(op.kernel[1]):
                np.maximum(best, view[:, :, :, i, j], out=best)
        return np.take(self.code, best)


class _Concat:
    def __init__(self, qgraph: QuantizedGraph, op: Concat) -> None:
        self.op = op
        self.columns = int(np.prod(qgraph.tensors[op.output].shape))

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([tensors[p] for p in self.op.parts], axis=-1)


class _Arrange:
    def __init__(self, qgraph: QuantizedGraph, op: Arrange) -> None:
        self.op = op
        self.columns = int(np.prod(qgraph.tensors[op.output].shape))

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        return moved([tensors[p] for p in self.op.parts], self.op.pieces)


class _Maximum:
    def __init__(self, qgraph: QuantizedGraph, op: Maximum) -> None:
        self.op = op
        self.columns = int(np.prod(qgraph.tensors[op.output].shape))
        self.rank, self.code = value_order(qgraph.tensors[op.output].quant.format)

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        a, b = (np.take(self.rank, tensors[p]) for p in self.op.parts)
        return np.take(self.code, np.maximum(a, b))


class _Stored:
    def __init__(self, qgraph: QuantizedGraph, op: Stored) -> None:
        self.codes, self.columns = op.codes, op.codes.size

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        return np.repeat(self.codes[None], len(next(iter(tensors.values()))), axis=0)


class _OfRows:
    """What rows are, and the requantization that all ops of rows share."""

    def __init__(self, qgraph: QuantizedGraph, op: Softmax | Normalize) -> None:
        self.columns = int(np.prod(qgraph.tensors[op.output].shape))
        self.input, self.quant = qgraph.tensors[op.input].quant, qgraph.tensors[op.output].quant
        self.bias, self.multiplier, self.shift = op.bias, op.multiplier, op.shift

    def codes(self, y: np.ndarray) -> np.ndarray:
        """Of the functions of rows (N, H, W, C)."""
        fmt = self.quant.format
        y = np.where(self.multiplier < 0, -y, y) + self.bias
        return requantize(y, np.abs(self.multiplier), self.shift, fmt, self.quant.zero_after)


class _Softmax(_OfRows):
    def __init__(self, qgraph: QuantizedGraph, op: Softmax) -> None:
        super().__init__(qgraph, op)
        self.op, self.table = op, Exponentials.of_words(op.exponentials)

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        return self.codes(softmax_rows(tensors[self.op.input], self.table, self.quant.format))


class _Normalize(_OfRows):
    def __init__(self, qgraph: QuantizedGraph, op: Normalize) -> None:
        super().__init__(qgraph, op)
        self.op = op
        self.fixed = self.input.format.fixed(self.input.format.codes) - self.input.zero_point

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        op, x = self.op, tensors[self.op.input]
        rows = as_rows(np.take(self.fixed, x), op.groups, op.plane)
        y = normalize_rows(rows, self.quant.format, count=op.count, epsilon=op.epsilon, centred=op.centred)
        return self.codes(from_rows(y, x.shape, op.groups, op.plane))


class _Fixed:
    """Tensors as fixed-point numbers."""

    def __init__(self, qgraph: QuantizedGraph, op: Op) -> None:
        self.op: Any = op
        self.columns = int(np.prod(qgraph.tensors[op.output].shape))
        self.formats = {t: qgraph.tensors[t].quant.format for t in op.inputs}
        self.out = qgraph.tensors[op.output].quant.format

    def fixed(self, tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
        return self.formats[name].fixed(tensors[name]).astype(np.float64)


class _ComputedConv(_Fixed):
    def __init__(self, qgraph: QuantizedGraph, op: ComputedConv) -> None:
        super().__init__(qgraph, op)
        self.columns *= len(op.kernel) * op.reduction
        reach = max(abs(v) for span in op.sums(qgraph.reach) for v in span)
        residual = max(map(abs, qgraph.reach(op.residual.input))) if op.residual else 0
        self.requantizer = Requantizer(op, reach, residual)

    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        op = self.op
        x = self.fixed(tensors, op.input)
        weights = self.fixed(tensors, op.weight)
        results = []
        for one, weight in zip(x[:, None], weights, strict=True):  # each sample may have its own
            kept = weight * gradients.selected(weight, op.pattern, 2 if op.transposed else 1)
            if op.transposed:
                results.append(gradients.backward(one, kept, op.window, op.plane).integers())
            else:
                results.append(gradients.forward(one, kept, op.window).integers())
        acc = np.concatenate([r if r.dtype == object else r.astype(np.int64) for r in results])
        if op.raw:
            return self.requantizer.with_bias(acc)
        residual = self.fixed(tensors, op.residual.input).astype(np.int64) if op.residual else None
        return self.requantizer(acc, residual)


class _WeightGradient(_Fixed):
    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        x, dy = (self.fixed(tensors, t) for t in (self.op.input, self.op.gradient))
        sums = [
            gradients.weight_gradient(a[None], b[None], self.op.window).integers()
            for a, b in zip(x, dy, strict=True)
        ]
        return np.stack([s if s.dtype == object else s.astype(np.int64) for s in sums])


class _BiasGradient(_Fixed):
    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        dy = self.fixed(tensors, self.op.gradient)
        return np.stack([gradients.bias_gradient(one)[None, None] for one in dy])


class _Gate(_Fixed):
    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        op = self.op
        dy = self.fixed(tensors, op.input).astype(np.int64)
        reference = self.fixed(tensors, op.reference)
        return self.out.from_fixed(gradients.gate(dy, reference, op.low, op.high))


class _PoolGate(_Fixed):
    def __call__(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        op = self.op
        dy = self.fixed(tensors, op.input).astype(np.int64)
        x, pooled = (self.fixed(tensors, t) for t in (op.reference, op.pooled))
        window = replace(op.window, dilation=op.dilation, pads=op.pads)
        return self.out.from_fixed(gradients.pool_gate(dy, x, pooled, op.tap, window))


REFERENCE: dict[type[Op], Callable[[QuantizedGraph, Any], Step]] = {
    Linear: _Linear,
    MatMul: _MatMul,
    MaxPool: _MaxPool,
    Concat: _Concat,
    Arrange: _Arrange,
    Maximum: _Maximum,
    Stored: _Stored,
    Softmax: _Softmax,
    Normalize: _Normalize,
    ComputedConv: _ComputedConv,
    WeightGradient: _WeightGradient,
    BiasGradient: _BiasGradient,
    Gate: _Gate,
    PoolGate: _PoolGate,
}


def value_order(fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """(rank of each code by value, code of each rank); -0 has the rank of +0, which is its code."""
    fixed = fmt.fixed(fmt.codes)
    values, rank = np.unique(fixed, return_inverse=True)
    return rank.astype(fmt.code_dtype), fmt.from_fixed(values)
