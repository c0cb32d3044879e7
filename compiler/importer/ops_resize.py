"""Operators that enlarge: Resize and Upsample, ConvTranspose, DepthToSpace. No zero is multiplied.

Outputs that read their inputs with the same weights are a phase: a convolution of its own, whose pixels `Arrange` puts
between those of the other phases.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from sateen.compiler.importer import limits
from sateen.compiler.importer.broadcast import paired, stored
from sateen.compiler.importer.layout import reshape
from sateen.compiler.importer.moves import picked, place_channels, replaced
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value, axes_in
from sateen.compiler.importer.ops_elementwise import add_two
from sateen.compiler.importer.ops_linear import need
from sateen.compiler.importer.phases import MOST_PHASES, SAME, Phase, depthwise_kernel, emit_phases, phases
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Mul
from sateen.ir.ports import Shape

# -- Resize ---------------------------------------------------------------------------------------------------


def resize(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    sizes, scales = _sizes(walk, node, x)
    if sizes == list(x.shape):
        return [x]
    changed = [d for d in range(x.rank) if sizes[d] != x.shape[d]]
    mode = node.text("mode", "nearest")
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)
    channel = 1 if 1 not in changed else x.rank - 1  # as files have them whose channels are last
    if 0 in changed or channel in changed or x.rank not in (3, 4):
        raise Unsupported(
            f"it resizes {x.shape} to {tuple(sizes)}", "resize rows and columns of a 3-D or 4-D tensor"
        )
    spatial = [d for d in range(1, x.rank) if d != channel]
    if walk.is_open(x):
        walk.place(x, channel, spatial)
        return [walk.derive(node.proto.output[0], sizes, [x])]
    x, axes = place_channels(walk, node, x, channel, spatial)
    plane = list(walk.hwc(x)[:2])
    taps = [(np.arange(n)[:, None], np.ones((n, 1))) for n in plane]
    for d, axis in zip(spatial, axes, strict=True):
        if sizes[d] != x.shape[d]:
            taps[axis] = _taps(node, mode, x.shape[d], sizes[d], scales[d])
            plane[axis] = sizes[d]
    (row_at, row_weights), (column_at, column_weights) = taps
    if mode == "nearest":
        out = picked(walk, node.name, x, node.proto.output[0], row_at[:, 0], column_at[:, 0])
        return [replaced(x, out, channel, axes, walk.hwc(Value(out, x.layout)))]
    c = walk.hwc(x)[2]
    rows, columns = phases(row_at, row_weights), phases(column_at, column_weights)
    if len(rows) * len(columns) > MOST_PHASES:
        for d, axis in zip(spatial, axes, strict=True):
            x = _blended(walk, node, x, channel, axes, (d, axis), *taps[axis])
        return [x]
    source, before = _edges(walk, node, x, row_at, column_at)
    rows, columns = (
        [dataclasses.replace(p, start=p.start + b) for p in ps]
        for ps, b in zip((rows, columns), before, strict=True)
    )
    shape: Shape = (plane[0], plane[1], c)
    out = emit_phases(
        walk, node.name, source, node.proto.output[0], shape, rows, columns, depthwise_kernel(c), np.zeros(c)
    )
    return [replaced(x, out, channel, axes, shape)]


def _blended(
    walk: Walk, node: OnnxNode, x: Value, channel: int, axes: Sequence[int], where: tuple[int, int], at: np.ndarray,
    weights: np.ndarray,
) -> Value:  # fmt: skip
    """Along dimension d, which lies on `axis`: the inputs of each tap, moved, times weights that differ from pixel to
    pixel. For positions that do not repeat, where phases would be as many as outputs."""
    d, axis = where
    h, w, c = walk.hwc(x)
    total: Value | None = None
    for t in range(at.shape[1]):
        if not weights[:, t].any():
            continue
        picks = [np.arange(h), np.arange(w)]
        picks[axis] = np.clip(at[:, t], 0, (h, w)[axis] - 1)
        shape = (len(picks[0]), len(picks[1]), c)
        out = picked(walk, f"{node.name}.tap", x, f"{node.proto.output[0]}.tap", *picks)
        tap = replaced(x, out, channel, axes, shape)
        own = weights[:, t].reshape([-1 if k == d else 1 for k in range(x.rank)])
        part = paired(walk, node, Mul, tap, stored(walk, node.name, tap, own))
        total = part if total is None else add_two(walk, node, total, part)
    assert total is not None
    return total


def _edges(
    walk: Walk, node: OnnxNode, x: Value, rows: np.ndarray, columns: np.ndarray
) -> tuple[str, tuple[int, int]]:
    """The tensor with its outermost rows and columns repeated as far as taps reach beyond them, and how far before."""
    h, w, _ = walk.hwc(x)
    before = [max(0, -int(at.min())) for at in (rows, columns)]
    after = [max(0, int(at.max()) - n + 1) for at, n in ((rows, h), (columns, w))]
    if not any((*before, *after)):
        return x.tensor, (0, 0)
    at = [np.clip(np.arange(-b, n + a), 0, n - 1) for b, a, n in zip(before, after, (h, w), strict=True)]
    return picked(walk, f"{node.name}.edges", x, f"{x.tensor}.edges", *at), (before[0], before[1])


def _sizes(walk: Walk, node: OnnxNode, x: Value) -> tuple[list[int], list[float]]:
    """The output's shape, and how many times larger each dimension is by the file."""
    if node.op_type == "Upsample" or node.opset < 11:
        given = node.attributes.get("scales")
        scale = np.array(given) if given is not None else walk.constant(node, 1)
        size = None
    else:
        scale, size = walk.constant(node, 2), walk.constant(node, 3)
    axes: Sequence[int] = axes_in(node.integers("axes", range(x.rank)), x.rank)
    sizes, scales = list(x.shape), [1.0] * x.rank
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    if size is not None and size.size:
        if size.size != len(axes) or min(int(s) for s in size) < 1:
            raise Unsupported(
                f"sizes {size.ravel().tolist()} for {len(axes)} dimensions", f"give {len(axes)}"
            )
        wanted = [int(s) for s in size.ravel()]
        if policy != "stretch":
            every = [w / x.shape[d] for w, d in zip(wanted, axes, strict=True)]
            one = min(every) if policy == "not_larger" else max(every)
            wanted = [math.floor(one * x.shape[d] + 0.5) for d in axes]
        for d, w in zip(axes, wanted, strict=True):
            sizes[d], scales[d] = w, w / x.shape[d]
    elif scale is not None and scale.size:
        if scale.size != len(axes) or not (scale > 0).all():
            raise Unsupported(
                f"scales {scale.ravel().tolist()} for {len(axes)} dimensions", f"give {len(axes)} above 0"
            )
        for d, s in zip(axes, scale.ravel(), strict=True):
            sizes[d], scales[d] = math.floor(x.shape[d] * float(s)), float(s)
    else:
        raise Unsupported("it has neither sizes nor scales", "export the model again")
    return sizes, scales


def _positions(node: OnnxNode, size: int, out: int, scale: float) -> np.ndarray:
    """Where in the input each output lies, float64 (out,)."""
    if node.op_type == "Upsample" or node.opset < 11:
        mode = "asymmetric"
    else:
        mode = node.text("coordinate_transformation_mode", "half_pixel")
    o = np.arange(out, dtype=np.float64)
    match mode:
        case "half_pixel":
            return (o + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            adjustment = out / (scale * size)
            center = size / 2
            return center * (1 - adjustment) + (o + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (o + 0.5) / scale - 0.5 if out > 1 else np.zeros(out)
        case "align_corners":
            return o * (size - 1) / (out - 1) if out > 1 else np.zeros(out)
        case "asymmetric":
            return o / scale
        case "tf_half_pixel_for_nn":
            return (o + 0.5) / scale
    raise Unsupported(
        f"coordinate_transformation_mode = {mode}",
        "use half_pixel, align_corners or asymmetric",
        limits.COORDINATES,
    )


def _taps(node: OnnxNode, mode: str, size: int, out: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """For each output the inputs (out, taps), which may lie outside, and their weights.

    Ref: ONNX operators, Resize; Keys, Cubic convolution interpolation, 1981.
    """
    at = _positions(node, size, out, scale)
    nearly = np.rint(at)
    at = np.where(np.abs(at - nearly) < 1e-9 * max(1.0, size), nearly, at)
    if node.integer("antialias", 0) and out < size and mode != "nearest":
        raise Unsupported("antialias = 1", "use antialias = 0, or an average pool", limits.COORDINATES)
    match mode:
        case "nearest":
            old = node.op_type == "Upsample" or node.opset < 11
            rounding = "floor" if old else node.text("nearest_mode", "round_prefer_floor")
            rounded: dict[str, Callable[[np.ndarray], np.ndarray]] = {
                "floor": np.floor,
                "ceil": np.ceil,
                "round_prefer_floor": lambda v: np.ceil(v - 0.5),
                "round_prefer_ceil": lambda v: np.floor(v + 0.5),
            }
            if rounding not in rounded:
                raise Unsupported(
                    f"nearest_mode = {rounding}", f"use {', '.join(rounded)}", limits.COORDINATES
                )
            return np.clip(rounded[rounding](at), 0, size - 1).astype(np.int64)[:, None], np.ones((out, 1))
        case "linear":
            base = np.floor(at)  # outside the input all are its edge, see `_edges`
            f = at - base
            offsets, weights = np.array([0, 1]), np.stack([1 - f, f], axis=1)
        case "cubic":
            a = node.number("cubic_coeff_a", -0.75)
            if node.integer("exclude_outside", 0):
                raise Unsupported("exclude_outside = 1", "use exclude_outside = 0", limits.COORDINATES)
            base = np.floor(at)
            f = at - base

            def near(t: np.ndarray) -> np.ndarray:
                return ((a + 2) * t - (a + 3)) * t * t + 1

            def far(t: np.ndarray) -> np.ndarray:
                return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

            offsets, weights = (
                np.array([-1, 0, 1, 2]),
                np.stack([far(f + 1), near(f), near(1 - f), far(2 - f)], axis=1),
            )
        case _:
            raise Unsupported(f"mode = {mode}", "use nearest, linear or cubic", limits.COORDINATES)
    return base.astype(np.int64)[:, None] + offsets, weights


# -- transposed convolution -----------------------------------------------------------------------------------


def conv_transpose(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """out[o] = sum of x[i] * w[k] where i * stride + k * dilation - pad = o: correlations with every stride-th tap."""
    x = walk.value(node)
    weight = need(walk.weights(node, 1), "weights")  # (I, O / groups, spatial...)
    n = weight.ndim - 2
    if n not in (1, 2):
        raise Unsupported(
            f"{n}-D transposed convolution", "only 1-D and 2-D are supported", limits.ONE_OR_TWO_D
        )
    groups = node.integer("group", 1)
    if x.rank != weight.ndim or x.shape[1] != weight.shape[0] or groups < 1 or x.shape[1] % groups:
        raise Unsupported(
            f"its input of shape {x.shape} does not fit weights of shape {weight.shape} in {groups} groups",
            "channels must be weight.shape[0], a multiple of group",
        )
    outputs = weight.shape[1] * groups
    bias = walk.weights(node, 2)
    bias = np.zeros(outputs) if bias is None else bias
    if bias.shape != (outputs,):
        raise Unsupported(f"its bias has shape {bias.shape}", f"it must be ({outputs},)")
    begin, sizes = _transposed_sizes(node, x.shape[2:], weight.shape[2:])
    stride, dilation = node.integers("strides", [1] * n), node.integers("dilations", [1] * n)
    if walk.is_open(x):
        walk.place(x, 1, range(2, x.rank))
        return [walk.derive(node.proto.output[0], (x.shape[0], outputs, *sizes), [x])]
    x, axes = place_channels(walk, node, x, 1, range(2, x.rank))
    taps = [[dataclasses.replace(SAME, weights=np.zeros(1))] for _ in range(2)]  # tap number 0
    plane = [1, 1]
    for k, axis in enumerate(axes):
        taps[axis] = _transposed(weight.shape[2 + k], stride[k], dilation[k], begin[k], sizes[k])
        plane[axis] = sizes[k]
    per = weight.shape[1]
    spatial = [0, 0]  # where rows and columns are in the weights
    for k, axis in enumerate(axes):
        spatial[axis] = 2 + k
    full = weight if n == 2 else np.expand_dims(weight, 2 if axes == (1,) else 3)
    order = (2, 3) if n == 1 or axes == (0, 1) else (3, 2)
    full = full.transpose(0, 1, *order).reshape(groups, -1, per, *(full.shape[o] for o in order))
    full = full.transpose(0, 2, 3, 4, 1).reshape(outputs, *(full.shape[3:5]), -1)  # (O, KH, KW, I / groups)

    def kernel(y: Phase, x: Phase) -> tuple[np.ndarray, int]:
        rows, columns = y.weights.astype(np.int64), x.weights.astype(np.int64)
        part = np.where(
            (rows >= 0)[:, None, None] & (columns >= 0)[:, None], full[:, rows][:, :, columns], 0.0
        )
        return np.ascontiguousarray(part), groups

    shape: Shape = (plane[0], plane[1], outputs)
    out = emit_phases(walk, node.name, x.tensor, node.proto.output[0], shape, taps[0], taps[1], kernel, bias)
    return [replaced(x, out, 1, axes, shape)]


def _transposed(kernel: int, stride: int, dilation: int, begin: int, out: int) -> list[Phase]:
    """Phases whose `weights` are numbers of taps, -1 for one that is zero."""
    found = []
    for first in range(min(stride, out)):
        phase = (first + begin) % stride
        own = [k for k in range(kernel) if (k * dilation - phase) % stride == 0][::-1]
        m = (first + begin - phase) // stride
        count = len(range(first, out, stride))
        if not own:
            found.append(Phase(first, stride, count, m, 1, np.array([-1])))
            continue
        at = [m - (k * dilation - phase) // stride for k in own]
        step = at[1] - at[0] if len(at) > 1 else 1
        found.append(Phase(first, stride, count, at[0], 1, np.array(own), step))
    return found


def _transposed_sizes(
    node: OnnxNode, sizes: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Pads at the beginning, and the output's sizes. Ref: ONNX operators, ConvTranspose."""
    n = len(sizes)
    stride, dilation = node.integers("strides", [1] * n), node.integers("dilations", [1] * n)
    more, given = node.integers("output_padding", [0] * n), node.integers("pads", [0] * 2 * n)
    wanted = node.integers("output_shape", ())[-n:]
    auto = node.text("auto_pad", "NOTSET")
    for name, values, length, least in (
        ("strides", stride, n, 1),
        ("dilations", dilation, n, 1),
        ("pads", given, 2 * n, 0),
        ("output_padding", more, n, 0),
    ):
        if len(values) != length or min(values) < least:
            raise Unsupported(f"{name} = {list(values)}", f"give {length} numbers of at least {least}")
    begin, out = [], []
    for k in range(n):
        span = (kernel[k] - 1) * dilation[k] + 1
        whole = stride[k] * (sizes[k] - 1) + more[k] + span
        if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
            size = wanted[k] if wanted else sizes[k] * stride[k]
            total = max(0, whole - size)
            small, large = total // 2, total - total // 2
            begin.append(large if auto == "SAME_LOWER" else small)
        else:
            pads = (0, 0) if auto == "VALID" else (given[k], given[n + k])
            begin.append(pads[0])
            size = whole - sum(pads)
        if size < 1:
            raise Unsupported(f"its output would have {size} of dimension {k + 2}", "use smaller pads")
        out.append(size)
    return begin, out


# -- depth to space -------------------------------------------------------------------------------------------


def depth_to_space(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """Only another view: what reads it moves the pixels."""
    x = walk.value(node)
    b = node.integer("blocksize", 0)
    if x.rank != 4 or b < 1 or x.shape[1] % (b * b):
        raise Unsupported(f"blocksize {b} of shape {x.shape}", "channels must be a multiple of its square")
    n, c, h, w = x.shape
    if node.text("mode", "DCR") == "DCR":
        return [
            _viewed(walk, x, (n, b, b, c // b // b, h, w), (0, 3, 4, 1, 5, 2), (n, c // b // b, h * b, w * b))
        ]
    return [
        _viewed(walk, x, (n, c // b // b, b, b, h, w), (0, 1, 4, 2, 5, 3), (n, c // b // b, h * b, w * b))
    ]


def space_to_depth(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    b = node.integer("blocksize", 0)
    if x.rank != 4 or b < 1 or x.shape[2] % b or x.shape[3] % b:
        raise Unsupported(f"blocksize {b} of shape {x.shape}", "height and width must be multiples of it")
    n, c, h, w = x.shape
    order = (0, 3, 5, 1, 2, 4) if node.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return [_viewed(walk, x, (n, c, h // b, b, w // b, b), order, (n, c * b * b, h // b, w // b))]


def _viewed(
    walk: Walk, x: Value, shape: tuple[int, ...], perm: tuple[int, ...], result: tuple[int, ...]
) -> Value:
    if walk.is_open(x):
        walk.place(x, 1, (2, 3))
        return walk.derive(f"{x.tensor}.blocks", result, [x])
    layout = reshape(x.layout, shape)
    back = None if layout is None else reshape(tuple(layout[p] for p in perm), result)
    if back is None:
        raise Unsupported(
            f"its input of shape {x.shape} is not laid out in whole dimensions",
            "remove the Reshape before it",
        )
    return dataclasses.replace(x, layout=back)
