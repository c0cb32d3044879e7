"""Attention as one operator: two products of computed tensors with a Softmax between them, heads where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sateen.compiler.importer import limits
from sateen.compiler.importer.affine import affine
from sateen.compiler.importer.masks import finite
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value
from sateen.compiler.importer.ops_elementwise import add_two, table
from sateen.compiler.importer.ops_matmul import product
from sateen.compiler.importer.ops_rows import softmax
from sateen.compiler.importer.ops_select import select
from sateen.compiler.importer.ops_shape import reshaped
from sateen.compiler.importer.walk import Walk

_CACHE = ("past_key", "past_value", "nonpad_kv_seqlen")
"""Inputs 4 to 6: keys and values of earlier calls."""


def attention(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """softmax(scale · Q·Kᵀ, capped, + mask) · V of inputs (N, heads, tokens, features), or (N, tokens, features) whose
    heads are runs of features.

    Ref: ONNX operators, Attention, versions 23 to 25.
    """
    for i, what in enumerate(_CACHE, start=4):
        if node.input(i):
            raise Unsupported(f"it has {what}", "export the model without a cache", limits.NO_CACHE)
    if any(walk.used(o) for o in node.proto.output[1:] if o):
        raise Unsupported(
            "more than its first output is used", "compute the others apart", limits.RESULT_ALONE
        )
    q, k, v = (walk.value(node, i) for i in range(3))
    joined = q.rank == 3
    if {q.rank, k.rank, v.rank} not in ({3}, {4}):
        raise Unsupported(
            f"inputs of shapes {q.shape}, {k.shape} and {v.shape}", "give all 3 or 4 dimensions"
        )
    heads = node.integer("q_num_heads", 0) if joined else q.shape[1]
    shared = node.integer("kv_num_heads", 0) if joined else k.shape[1]
    if min(heads, shared) < 1 or heads % shared:
        raise Unsupported(
            f"{heads} heads of queries and {shared} of keys", "give a whole number of queries' heads to each"
        )
    if joined:
        q, k, v = (split(walk, node, x, n) for x, n in ((q, heads), (k, shared), (v, shared)))
    if shared < heads:
        owners = np.repeat(np.arange(shared), heads // shared)
        k, v = (select(walk, node, x, 1, owners, f"{node.name}.{n}") for x, n in ((k, "keys"), (v, "values")))
    scores = product(walk, node, q, Value(k.tensor, (*k.layout[:2], k.layout[3], k.layout[2]), k.host))
    scale = node.number("scale", 0.0) or q.shape[3] ** -0.5
    if cap := node.number("softcap", 0.0):
        scores = affine(walk, node, scores, scale / cap, 0.0)
        scores = affine(walk, node, table(walk, node, scores, "tanh"), cap, 0.0)
    else:
        scores = affine(walk, node, scores, scale, 0.0)
    given = walk.values[node.input(3)] if node.input(3) else None
    if isinstance(given, Value):
        scores = add_two(walk, node, scores, given)
    mask = bias(node, None if isinstance(given, Value) else given, q.shape[2], k.shape[2])
    if mask is not None:
        scores = affine(walk, node, scores, 1.0, mask)
    y = product(walk, node, softmax(walk, node, scores, 3), v)
    return [merged(walk, node, y) if joined else y]


def split(walk: Walk, node: OnnxNode, x: Value, heads: int) -> Value:
    """(N, heads, tokens, features) of (N, tokens, heads × features)."""
    n, tokens, features = x.shape
    if features % heads:
        raise Unsupported(f"{features} features in {heads} heads", "divide them evenly")
    y = reshaped(walk, node, x, (n, tokens, heads, features // heads))
    return Value(y.tensor, tuple(y.layout[d] for d in (0, 2, 1, 3)), y.host)


def merged(walk: Walk, node: OnnxNode, x: Value) -> Value:
    """The inverse of `split`."""
    n, heads, tokens, features = x.shape
    y = Value(x.tensor, tuple(x.layout[d] for d in (0, 2, 1, 3)), x.host)
    return reshaped(walk, node, y, (n, tokens, heads * features))


def bias(node: OnnxNode, given: np.ndarray | None, queries: int, keys: int) -> np.ndarray | None:
    """What is added to scores (…, queries, keys), of a mask and the window of neighbours; None for nothing."""
    total = np.zeros((queries, keys))
    if given is not None:
        mask = np.where(given, 0.0, -np.inf) if given.dtype == bool else given.astype(np.float64)
        if np.isnan(mask).any() or (mask == np.inf).any():
            raise Unsupported(
                f"its mask '{node.input(3)}' has values that are no numbers", "use -inf or False"
            )
        if mask.ndim < 1 or mask.shape[-1] > keys:
            raise Unsupported(
                f"its mask has shape {mask.shape} for {keys} keys", f"give (…, {queries}, {keys})"
            )
        if 1 < mask.shape[-1] < keys:  # keys beyond it do not count
            beyond = [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])]
            mask = np.pad(mask, beyond, constant_values=-np.inf)
        total = total + mask
    ahead = np.arange(keys) - np.arange(queries)[:, None]  # (queries, keys): of each key
    left, right = node.integer("left_window_size", -1), node.integer("right_window_size", -1)
    if node.integer("is_causal", 0):
        right = 0
    outside = (ahead > right if right >= 0 else False) | (-ahead > left if left >= 0 else False)
    total = np.where(outside, -np.inf, total)
    if (total == -np.inf).all(axis=-1).any():
        raise Unsupported("its mask leaves a query no key", "let each query count at least one")
    return finite(total) if total.any() else None
