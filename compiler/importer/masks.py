"""Constants that take scores out of a Softmax, or choose between tensors."""

from __future__ import annotations

import numpy as np

from sateen.compiler.importer.affine import affine
from sateen.compiler.importer.broadcast import paired
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Add

MASKED = -1e4
"""In the place of -inf: its exponential is 0 beside that of any other score. Calibration cuts it down to what the
scores need (`sateen.compiler.quantize.scores`)."""


def finite(mask: np.ndarray) -> np.ndarray:
    """float64 with `MASKED` for -inf and all that is below it."""
    return np.maximum(mask.astype(np.float64), MASKED)


def added(walk: Walk, node: OnnxNode, i: int) -> np.ndarray | None:
    """Constant input i of an Add; -inf may mask what only a Softmax reads."""
    value = walk.constant(node, i)
    if value is None or value.dtype.kind != "f" or np.isnan(value).any():
        return walk.weights(node, i)
    if (np.isfinite(value) & (value >= MASKED)).all() or not _are_scores(
        walk, node
    ):  # masks nothing, most often
        return walk.weights(node, i)
    counted = value.max(axis=-1, initial=-np.inf) > -np.inf
    return finite(value) if counted.all() else walk.weights(node, i)


def _are_scores(walk: Walk, node: OnnxNode) -> bool:
    """Whether what a node gives is read by Softmax alone."""
    return {n.op_type for n in walk.model.graph.node if node.proto.output[0] in n.input} == {"Softmax"}


def chosen_by(walk: Walk, node: OnnxNode, first: np.ndarray) -> Value | np.ndarray:
    """Where's input 1 in the places `first`, else input 2: each times a constant of 0 and 1, or a mask of scores."""
    values = [walk.values[i] for i in node.inputs[1:]]
    shape = np.broadcast_shapes(first.shape, *(v.shape for v in values if v is not None))
    total: Value | None = None
    offset, scaled = np.zeros(()), True
    for i, (value, taken) in enumerate(zip(values, (first, ~first), strict=True), start=1):
        if not isinstance(value, np.ndarray) or not taken.any():
            continue
        number = value.astype(np.float64)
        if _are_scores(walk, node) and (number <= MASKED).all() and _leaves_some(taken, shape):
            number, scaled = finite(number), False
        elif not np.isfinite(np.where(taken, number, 0.0)).all():
            raise Unsupported(f"input {i} '{node.input(i)}' is not finite", "choose a finite number")
        offset = offset + np.where(taken, number, 0.0)
    for value, taken in zip(values, (first, ~first), strict=True):
        if isinstance(value, Value) and taken.any():
            factor = taken.astype(np.float64) if scaled else np.ones(())
            same = taken.all() and value.shape == shape
            part = value if same else affine(walk, node, value, factor, 0.0)
            total = part if total is None else paired(walk, node, Add, total, part)
    if total is None:
        return np.broadcast_to(offset, shape).astype(np.float32)
    return affine(walk, node, total, 1.0, offset) if offset.any() else total


def _leaves_some(masked: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether no row of the last dimension is masked whole."""
    return not np.broadcast_to(masked, np.broadcast_shapes(masked.shape, shape)).all(axis=-1).any()
