"""Kernel, stride, dilation and padding of ONNX windows, turned to the IR's (height, width)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sateen.compiler.importer.nouns import OnnxNode, Unsupported


@dataclass(frozen=True, slots=True)
class Window:
    """One entry for each spatial dimension of the ONNX tensor; `end` includes what ceil_mode adds."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    out: tuple[int, ...]
    ceiled: bool = False
    """ceil_mode made the output larger than it would be without."""

    @property
    def padded(self) -> bool:
        return any(self.begin) or any(self.end)

    @property
    def pointwise(self) -> bool:
        return not self.padded and set(self.kernel) == {1} and set(self.stride) == {1}


def pair(axes: Sequence[int], values: Sequence[int], default: int) -> tuple[int, int]:
    """(H, W) of per-dimension values, `axes` naming the IR axis of each."""
    out = [default, default]
    for axis, value in zip(axes, values, strict=True):
        out[axis] = value
    return out[0], out[1]


def pads(axes: Sequence[int], window: Window) -> tuple[int, int, int, int]:
    """(top, left, bottom, right)."""
    return (*pair(axes, window.begin, 0), *pair(axes, window.end, 0))


def window_of(node: OnnxNode, sizes: Sequence[int], kernel: Sequence[int]) -> Window:
    """Read the attributes of Conv, MaxPool and AveragePool for an input of `sizes`.

    Raises Unsupported for negative padding and for windows that do not fit.
    """
    n = len(sizes)
    stride = node.integers("strides", [1] * n)
    dilation = node.integers("dilations", [1] * n)
    given = node.integers("pads", [0] * 2 * n)
    auto = node.text("auto_pad", "NOTSET")
    for name, values, length in (("strides", stride, n), ("dilations", dilation, n), ("pads", given, 2 * n)):
        if len(values) != length or min(values, default=0) < (0 if name == "pads" else 1):
            raise Unsupported(f"{name} = {list(values)}", f"give {length} numbers that are not negative")
    if len(kernel) != n or min(kernel) < 1:
        raise Unsupported(f"kernel_shape = {list(kernel)} on {n} dimensions", f"give {n} positive numbers")
    begin, end, out = list(given[:n]), list(given[n:]), []
    ceiled = False
    for i, size in enumerate(sizes):
        span = (kernel[i] - 1) * dilation[i] + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max(0, (-(-size // stride[i]) - 1) * stride[i] + span - size)
            small, large = total // 2, total - total // 2
            begin[i], end[i] = (small, large) if auto == "SAME_UPPER" else (large, small)
        elif auto == "VALID":
            begin[i] = end[i] = 0
        elif auto not in ("NOTSET", ""):
            raise Unsupported(f"auto_pad = {auto}", "use SAME_UPPER, SAME_LOWER, VALID or explicit pads")
        room = size + begin[i] + end[i] - span
        if room < 0:
            raise Unsupported(
                f"its window of {span} does not fit dimension {i + 2}, {size + begin[i] + end[i]} padded",
                "use a larger input or more padding",
            )
        count = room // stride[i] + 1
        if node.integer("ceil_mode", 0) and room % stride[i] and count * stride[i] < size + begin[i]:
            # One more window, unless it would start in the padding at the end (as PyTorch and ONNX say).
            end[i] += stride[i] - room % stride[i]
            count, ceiled = count + 1, True
        out.append(count)
    return Window(tuple(kernel), stride, dilation, tuple(begin), tuple(end), tuple(out), ceiled)
