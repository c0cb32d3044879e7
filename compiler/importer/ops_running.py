"""Products with fixed matrices that ONNX has names for: running sums and triangles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sateen.compiler.importer.affine import affine
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value, axis_in
from sateen.compiler.importer.ops_linear import contract
from sateen.compiler.importer.walk import Walk


def cumulative_sum(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """CumSum along any axis but the batch."""
    x, given = walk.value(node), walk.constant(node, 1)
    if given is None or given.size != 1:
        raise Unsupported("its axis is not one number", "export the model again")
    axis = axis_in(int(given.ravel()[0]), x.rank)
    n = x.shape[axis]
    taken = np.triu(np.ones((n, n)), 1 if node.integer("exclusive", 0) else 0)  # (K, O): of what, for what
    if node.integer("reverse", 0):
        taken = taken[::-1, ::-1]
    return [contract(walk, node, x, (axis,), np.ascontiguousarray(taken), np.zeros(n), keep=True)]


def triangle(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """Trilu: one side of the last two dimensions' diagonal."""
    x, given = walk.value(node), walk.constant(node, 1)
    k = int(given.ravel()[0]) if given is not None and given.size else 0
    ones = np.ones(x.shape[-2:])
    return [affine(walk, node, x, np.triu(ones, k) if node.integer("upper", 1) else np.tril(ones, k), 0.0)]
