"""Depthwise layers as FIR filters: how a kernel is cut into passes, and where its taps lie in the array's rows.

A FIR's pass streams a plane of words, and row r multiplies the word r after a window's first. So with lines of `line`
words, tap (y, x) of a pass is in row y*line + x: narrow tiles keep several rows of a kernel in the array at once. With
a stride, a pass streams every stride-th pixel, and has the taps that meet these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.schedule.tiles import zero_weights
from sateen.hw.matrix.unit import fir_cycles
from sateen.ir.operation import Window
from sateen.ir.quantized import Linear, Op
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, bits_of

MOST_WORDS = (1 << bits_of("line", Opcode.FIR)) - 1
MOST_PASSES = (1 << bits_of("kernel_w", Opcode.FIR)) - 1
WIDTHS = 3
"""Tile widths that are tried for each cut."""

Tap = tuple[int, int]
"""Its number in the kernel, and the words between a window's first and it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One axis of a kernel, in passes that begin `step` input pixels apart, each with words `stride` pixels apart."""

    stride: int
    step: int
    passes: tuple[tuple[Tap, ...], ...]

    @property
    def span(self) -> int:
        """Words that a window takes."""
        return max(shift for taps in self.passes for _, shift in taps) + 1


def cuts(kernel: int, stride: int, dilation: int, outputs: int) -> Iterator[Cut]:
    """All that a FIR can do: a tap in each pass, several neighbours, or those that meet every stride-th pixel."""
    stride = stride if outputs > 1 else 1
    yield Cut(stride, dilation, tuple(((k, 0),) for k in range(kernel)))
    if stride == 1:
        for size in range(2, kernel + 1):
            parts = (range(low, min(low + size, kernel)) for low in range(0, kernel, size))
            yield Cut(1, size * dilation, tuple(tuple((k, (k - p[0]) * dilation) for k in p) for p in parts))
    elif kernel > 1:
        at = [k * dilation for k in range(kernel)]
        phases = range(max(a % stride for a in at) + 1)
        taps = tuple(
            tuple((k, a // stride) for k, a in enumerate(at) if a % stride == phase) for phase in phases
        )
        yield Cut(stride, 1, taps)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a depthwise layer's planes are streamed: both axes, and the words of a line."""

    y: Cut
    x: Cut
    line: int
    window: Window
    in_h: int

    @property
    def passes(self) -> int:
        return len(self.y.passes) * len(self.x.passes)

    @property
    def streamed(self) -> Window:
        """Whose stride is from a word to the next, and whose dilation from a pass to the next."""
        return Window((1, 1), (self.y.stride, self.x.stride), (self.y.step, self.x.step), self.window.pads)

    def lines(self, y0: int, y1: int) -> int:
        """Of output rows [y0, y1): what is below the plane need not be streamed, where nothing comes behind it."""
        lines = y1 - y0 + self.y.span - 1
        if self.passes > 1:
            return lines
        inside = (self.in_h - 1 + self.window.pads[0]) // self.y.stride + 1 - y0
        return min(lines, max(y1 - y0, inside))

    def fields(self, y0: int, y1: int, x0: int, x1: int) -> dict[str, int]:
        """Those fields of its FIR that set the time it takes."""
        return {
            "kernel_h": len(self.y.passes),
            "kernel_w": len(self.x.passes),
            "channel_words": 1,
            "passes": 1,
            "out_h": y1 - y0,
            "out_w": x1 - x0,
            "line": self.line,
            "lines": self.lines(y0, y1),
        }

    def parts(self, words: int, config: AcceleratorConfig) -> list[Geometry]:
        """Some lines of the kernel each, whose sums are added up, with at most so many weight words if one line has
        no more."""
        size = max(1, words // (len(self.x.passes) * config.rows))
        top, *others = self.window.pads
        found = []
        for low in range(0, len(self.y.passes), size):
            cut = replace(self.y, passes=self.y.passes[low : low + size])
            pads = (top - low * self.y.step, others[0], others[1], others[2])
            found.append(replace(self, y=cut, window=replace(self.window, pads=pads)))
        return found

    def cycles(self, y0: int, y1: int, x0: int, x1: int, config: AcceleratorConfig) -> int:
        return fir_cycles(self.fields(y0, y1, x0, x1), config)


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """One output tile's taps, as a FIR has them."""

    input: str
    word: int
    """Channel word, and the tile's slice of it."""
    slice: int
    geometry: Geometry
    weights: np.ndarray
    """Codes (passes * rows, cols, lanes); those of lane 0 are taps."""

    @property
    def size(self) -> int:
        """Words of the weight buffer."""
        return len(self.weights)

    def space(self, config: AcceleratorConfig) -> int:
        """As `size`, up to the end of the last block of indices."""
        return -(-self.size // config.index_rows) * config.index_rows


def is_depthwise(op: Op) -> bool:
    """Whether output channel c reads input channel c, and no other."""
    return (
        isinstance(op, Linear)
        and op.channels is None
        and op.weight.shape[3] == 1
        and op.groups == op.weight.shape[0]
    )


def geometries(
    window: Window, plane: tuple[int, int], out: tuple[int, int], config: AcceleratorConfig
) -> Iterator[tuple[int, Geometry]]:
    """Tile widths, each with how tiles of that width may be streamed on the machine."""
    (in_h, in_w), (out_h, out_w) = plane, out
    axes = zip(window.kernel, window.stride, window.dilation, out, strict=True)
    rows, columns = (list(cuts(*axis)) for axis in axes)
    for y in rows:
        for x in columns:
            found = 0
            for parts in range(-(-out_w // config.acc_depth), out_w + 1):
                width = -(-out_w // parts)
                line = width + x.span - 1
                if width == out_w:
                    line -= _shared(x, window.pads[1], in_w, out_w)
                if (y.span - 1) * line + x.span > config.rows:
                    continue
                if (
                    max(line, out_h + y.span) <= MOST_WORDS
                    and max(len(y.passes), len(x.passes)) <= MOST_PASSES
                ):
                    yield width, Geometry(y, x, line, window, in_h)
                found += 1
                if found == WIDTHS or y.span == 1:
                    break


def _shared(cut: Cut, pad: int, in_w: int, out_w: int) -> int:
    """Words behind a line that are padding, as are those of the next line that are read in their place."""
    for shared in range(cut.span - 1, 0, -1):
        end = out_w + cut.span - 1
        begins = [n * cut.step - pad for n in range(len(cut.passes))]
        if all((end - shared) * cut.stride + b >= in_w and (shared - 1) * cut.stride + b < 0 for b in begins):
            return shared
    return 0


def filter_tile(op: Linear, tile: int, geometry: Geometry, config: AcceleratorConfig) -> Filter:
    """Output tile `tile` in a geometry."""
    low = tile * config.cols
    codes = op.weight.codes[low : low + config.cols, :, :, 0]
    weights = zero_weights((geometry.passes, config.rows, config.cols, config.lanes), config)
    pairs = ((a, b) for a in geometry.y.passes for b in geometry.x.passes)
    for part, (rows, columns) in zip(weights, pairs, strict=True):
        for ky, down in rows:
            for kx, right in columns:
                part[down * geometry.line + right, : len(codes), 0] = codes[:, ky, kx]
    word, part_of_word = divmod(tile, config.slices)
    return Filter(op.input, word, part_of_word, geometry, weights.reshape(-1, config.cols, config.lanes))
