"""What rounding does to a network: float beside integers on some samples, layer by layer, and how ranges are used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sateen.compiler.float_executor import float_outputs, run_float
from sateen.formats import Format
from sateen.ir.graph import Graph
from sateen.ir.quant import Quant
from sateen.ir.quantized import QuantizedGraph
from sateen.sim.reference import finish_outputs, reference_codes

MEASURED = 32
"""Samples, at most; fewer of a large network, one at least."""
BINS = 24
_ELEMENTS = 1 << 24
"""Of all tensors of the samples together."""
_AT_ONCE = 1 << 22
EXACT_DB = 80.0
"""Of networks that compute the same, but for the order of their sums, or weights that were read as float32."""

ABOUT = {
    "outputs": "of the network, against the file as it was imported",
    "layers": "tensors that ops write, against the float network that was rounded: pruned, its passes' changes in it",
    "snr_db": "10 log10 of the float values' squares over the errors' squares; null where there is no error",
    "pruned_db": "snr_db of the float network that was rounded, where that is another one: pruned; else null",
    "agree": "samples whose largest value of the output is where float has it; null: the output is no vector",
    "pruned_agree": "the same of the float network that was rounded, where pruned_db is given",
    "largest_error": "in units of the largest magnitude of the float values",
    "range": "the least and the greatest value of the format at this scale; null for sums that are not rounded",
    "clipped": "share of the float values that lie outside of the range",
    "activations": f"shares of the float values in {BINS} equal parts of the range",
    "weights": f"shares of the weights in equal parts, {BINS} or its values, of their format; null: there are none",
}


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """imported : the file, pruned and changed by nothing
    rounded : what it was when it was brought into codes, with the quantized graph's tensors
    samples : (N, *shape) by input, to measure with
    """

    imported: Graph
    rounded: Graph
    samples: dict[str, np.ndarray]


def measure(qgraph: QuantizedGraph, origin: Origin) -> dict[str, Any]:
    """What errors.json holds; `about` says what its keys mean."""
    total = len(next(iter(origin.samples.values())))
    elements = max(1, sum(math.prod(t.shape) for t in qgraph.tensors.values()))
    count = max(1, min(total, _ELEMENTS // elements))
    step = max(1, _AT_ONCE // elements)
    outputs = {o.port.name: _Output() for o in qgraph.outputs}
    unrounded = {o.port.name: _Output() for o in qgraph.outputs}
    layers = {
        op.output: _Layer(qgraph, op.output) for op in qgraph.ops if _comparable(qgraph, origin, op.output)
    }
    for start in range(0, count, step):
        part = {k: v[start : min(start + step, count)] for k, v in origin.samples.items()}
        codes = reference_codes(qgraph, part)
        tensors = run_float(origin.rounded, part)
        imported = tensors if origin.imported is origin.rounded else run_float(origin.imported, part)
        wanted, given = float_outputs(origin.imported, imported), finish_outputs(qgraph, codes)
        for name, error in outputs.items():
            error.add(np.asarray(wanted[name], np.float64), np.asarray(given[name], np.float64))
        if imported is not tensors:
            for name, y in float_outputs(origin.rounded, tensors).items():
                unrounded[name].add(np.asarray(wanted[name], np.float64), np.asarray(y, np.float64))
        for tensor, layer in layers.items():
            layer.add(tensors[tensor], qgraph.real(tensor, codes[tensor]))
    return {
        "about": ABOUT,
        "samples": count,
        "outputs": [
            {"name": name, **error.figures(), **_pruned(unrounded[name])} for name, error in outputs.items()
        ],
        "layers": [
            {
                "name": op.name,
                "tensor": op.output,
                **layers[op.output].figures(),
                "weights": next((_of_codes(c.codes, c.format) for c in op.constants), None),
            }
            for op in qgraph.ops
            if op.output in layers
        ],
    }


def _pruned(output: _Output) -> dict[str, Any]:
    """What a network that is pruned loses, in float; nothing where float64's last digits alone differ."""
    found = output.figures()
    lossy = found["snr_db"] is not None and found["snr_db"] < EXACT_DB
    return {
        f"pruned_{key}": found[name] if lossy else None
        for key, name in (("db", "snr_db"), ("agree", "agree"))
    }


def reach(quant: Quant) -> tuple[float, float]:
    """The least and the greatest real value of a tensor's codes."""
    unit = 2.0**quant.format.lsb_exponent
    low, high = (float(quant.real(np.array([v * unit]))[0]) for v in quant.reach)
    return low, high


class _Error:
    """Sums over samples, of values and their errors."""

    def __init__(self) -> None:
        self.squares = self.errors = self.largest = self.peak = 0.0

    def add(self, real: np.ndarray, found: np.ndarray) -> None:
        away = np.abs(found - real)
        self.squares += float(np.square(real).sum())
        self.errors += float(np.square(away).sum())
        self.largest = max(self.largest, float(away.max(initial=0.0)))
        self.peak = max(self.peak, float(np.abs(real).max(initial=0.0)))

    def figures(self) -> dict[str, Any]:
        snr = 10 * math.log10(max(self.squares, 1e-300) / self.errors) if self.errors else None
        relative = self.largest / self.peak if self.peak else float(self.largest > 0)
        return {"snr_db": None if snr is None else round(snr, 1), "largest_error": _rounded(relative)}


class _Output(_Error):
    """Errors of an output, and in how many samples its largest value is at the same place."""

    def __init__(self) -> None:
        super().__init__()
        self.agree, self.vector = 0, True

    def add(self, real: np.ndarray, found: np.ndarray) -> None:
        super().add(real, found)
        self.vector = real[0].size > 1 and max(real.shape[1:]) == real[0].size
        flat, other = (x.reshape(len(x), -1).argmax(axis=1) for x in (real, found))
        self.agree += int((flat == other).sum())

    def figures(self) -> dict[str, Any]:
        return super().figures() | {"agree": self.agree if self.vector else None}


class _Layer(_Error):
    """Errors of a tensor, and where its values lie in the range of its format."""

    def __init__(self, qgraph: QuantizedGraph, tensor: str) -> None:
        super().__init__()
        op = qgraph.producer(tensor)
        self.rounded = op is None or not op.raw
        self.low, self.high = reach(qgraph.tensors[tensor].quant)
        self.counts, self.clipped, self.total = np.zeros(BINS), 0, 0

    def add(self, real: np.ndarray, found: np.ndarray) -> None:
        super().add(real, found)
        self.total += real.size
        if self.rounded:
            self.clipped += int(((real < self.low) | (real > self.high)).sum())
            self.counts += np.histogram(real, BINS, (self.low, self.high))[0]

    def figures(self) -> dict[str, Any]:
        if not self.rounded:
            return super().figures() | {"range": None, "clipped": None, "activations": None}
        return super().figures() | {
            "range": [_rounded(self.low), _rounded(self.high)],
            "clipped": _rounded(self.clipped / self.total),
            "activations": [_rounded(n / self.total) for n in self.counts],
        }


def _comparable(qgraph: QuantizedGraph, origin: Origin, tensor: str) -> bool:
    shape = origin.rounded.shapes.get(tensor)
    return shape is not None and tuple(shape) == tuple(qgraph.tensors[tensor].shape)


def _of_codes(codes: np.ndarray, fmt: Format) -> list[float]:
    limits = (fmt.min_fixed, max(fmt.max_fixed, fmt.min_fixed + 1))
    values = len(np.unique(fmt.fixed(fmt.codes)))
    counts = np.histogram(fmt.fixed(codes), min(BINS, values), limits)[0]
    return [_rounded(n / max(codes.size, 1)) for n in counts]


def _rounded(x: float) -> float:
    """Four digits: those that follow depend on the order of sums."""
    return float(f"{x:.4g}")
