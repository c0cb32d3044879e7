"""Scale, offset and order of channels: 1×1 convolutions, which passes fold away where they can."""

from __future__ import annotations

import numpy as np

from sateen.compiler.importer.layout import axis_dims, indices, split_axes
from sateen.compiler.importer.nouns import Unsupported, Value
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Conv


def depthwise(name: str, source: str, output: str, scale: np.ndarray, offset: np.ndarray) -> Conv:
    """scale * x + offset, each (C,)."""
    return Conv(name, source, output, scale.reshape(-1, 1, 1, 1), offset, groups=len(scale))


def selection(
    name: str, source: str, output: str, channels: np.ndarray, kept: np.ndarray | None = None
) -> Conv:
    """Channel `channels[k]` of the source as channel k, and zero where not `kept`; both (O,)."""
    weight = np.ones(len(channels)) if kept is None else kept.astype(np.float64)
    return Conv(
        name, source, output, weight.reshape(-1, 1, 1, 1), np.zeros(len(weight)), groups=len(weight),
        channels=channels.astype(np.int64)[:, None],
    )  # fmt: skip


def raised(x: Value, rank: int) -> Value:
    """x with at least `rank` dimensions, as ONNX broadcasts it: new ones of size 1 come first."""
    return Value(x.tensor, ((),) * (rank - x.rank) + x.layout, x.host)


def aligned(x: Value, *constants: np.ndarray) -> tuple[Value, list[np.ndarray]]:
    """x and the constants in equal numbers of dimensions, by ONNX's broadcasting, which raises either.

    Raises Unsupported if a constant would enlarge x.
    """
    x = raised(x, max(c.ndim for c in constants))
    return x, [_aligned(x, c) for c in constants]


def loosely_aligned(x: Value, *constants: np.ndarray) -> tuple[Value, list[np.ndarray]]:
    """As `aligned`, but a constant may enlarge x. Raises Unsupported if they do not broadcast."""
    x = raised(x, max(c.ndim for c in constants))
    found = [c.reshape((1,) * (x.rank - c.ndim) + c.shape) for c in constants]
    for c in found:
        if any(m != n and 1 not in (m, n) for m, n in zip(c.shape, x.shape, strict=True)):
            raise Unsupported(
                f"its constant of shape {c.shape} and its input of shape {x.shape} do not broadcast",
                "give shapes that do",
            )
    return x, found


def _aligned(x: Value, constant: np.ndarray) -> np.ndarray:
    constant = constant.reshape((1,) * (x.rank - constant.ndim) + constant.shape)
    if all(c in (1, s) for c, s in zip(constant.shape, x.shape, strict=True)):
        return constant
    raise Unsupported(
        f"a constant of shape {constant.shape} would broadcast an input of shape {x.shape}",
        "give one number, or one for each channel",
    )


def settle(walk: Walk, name: str, x: Value, channel: int) -> Value:
    """x with dimension `channel` in the order of the IR's channels: a permutation becomes a 1×1 Conv."""
    if walk.is_open(x):
        return x
    hwc = walk.hwc(x)
    own, dim = axis_dims(hwc)[2], x.layout[channel]
    pieces = split_axes(dim, hwc)
    if dim == own or any(axis != 2 for _, _, axis in pieces) or x.shape[channel] != hwc[2]:
        return x
    out = walk.fresh(f"{x.tensor}.ordered")
    walk.emit(selection(f"{name}.order", x.tensor, out, indices(dim)), hwc)
    return Value(out, tuple(own if d == channel else other for d, other in enumerate(x.layout)))
