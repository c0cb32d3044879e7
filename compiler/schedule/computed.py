"""Convolutions whose weights are computed, and the gradients of their inputs: MOVEs fill the tiles that MATRIX takes.

The gradient of an input is a convolution for each phase of the strides, with the taps that reach it, turned; its
pixels are written between those of the other phases. No zero is multiplied but a border's, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from sateen.compiler.schedule.emitter import Access, View
from sateen.compiler.schedule.products import computed_product
from sateen.compiler.schedule.tiles import even, output_tiles
from sateen.hw.matrix.unit import matrix_cycles
from sateen.ir.pieces import Pair
from sateen.ir.quantized import ComputedConv
from sateen.machine.array import WEIGHT_STATIONARY
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, bits_of

if TYPE_CHECKING:
    from sateen.compiler.schedule.lower import Lowering


@dataclass(frozen=True, slots=True)
class Line:
    """Outputs `first`, `first + every`, … of an axis: the q-th reads from `origin + q * stride` on, a tap `dilation`
    from the next."""

    first: int
    every: int
    taps: tuple[int, ...]
    origin: int
    stride: int
    dilation: int

    def inside(self, low: int, high: int) -> range:
        """Which of its outputs lie in [low, high)."""
        return range(-((self.first - low) // self.every) if low > self.first else 0, max(0, self.upto(high)))

    def upto(self, high: int) -> int:
        """How many lie below."""
        return -((self.first - high) // self.every)


def lines(op: ComputedConv, axis: int) -> list[Line]:
    """The phases of rows (0) or columns (1), those with taps first."""
    kernel, stride, dilation, pad = (p[axis] for p in (op.kernel, op.stride, op.dilation, op.pads))
    if not op.transposed:
        return [Line(0, 1, tuple(range(kernel)), -pad, stride, dilation)]
    found = []
    for phase in range(stride):
        taps = [k for k in range(kernel - 1, -1, -1) if (phase + pad - k * dilation) % stride == 0]
        at = [(phase + pad - k * dilation) // stride for k in taps]
        apart = at[1] - at[0] if len(at) > 1 else 1
        found.append(Line(phase, stride, tuple(taps), at[0] if at else 0, 1, apart))
    return sorted(found, key=lambda line: not line.taps)


@dataclass(frozen=True, slots=True)
class Span:
    """Outputs that one MATRIX computes: rows and columns of a sample, counted in those of a phase."""

    sample: int
    rows: range
    columns: range

    @property
    def pixels(self) -> int:
        return len(self.rows) * len(self.columns)


@dataclass(frozen=True, slots=True)
class Part:
    """What a MATRIX takes: taps `rows` × `columns` of a phase, of channel words [c0, c1)."""

    rows: range
    columns: range
    c0: int
    c1: int


@dataclass(frozen=True, slots=True)
class Phase:
    y: Line
    x: Line

    def parts(self, words: int, tile: int, limit: int) -> list[Part]:
        """Of at most `limit` weight words; a channel word of a tap takes `tile`. All taps at once where a tap has one
        channel word, else a tap after the other, as MATRIX goes through channels before columns."""
        rows, columns = range(len(self.y.taps)), range(len(self.x.taps))
        if not rows or not columns:
            return []
        if words == 1 and len(columns) * tile <= limit:
            step = even(len(rows), limit // (len(columns) * tile))
            return [Part(rows[k : k + step], columns, 0, 1) for k in range(0, len(rows), step)]
        step = even(words, max(limit // tile, 1))
        return [
            Part(rows[y : y + 1], columns[x : x + 1], c, min(c + step, words))
            for y in rows
            for x in columns
            for c in range(0, words, step)
        ]


def passes_of(op: ComputedConv, config: AcceleratorConfig) -> int:
    """Weight tiles of an activation word."""
    return config.dense_passes if op.pattern.dense else config.group // op.pattern.m * op.pattern.n


def lower_computed(low: Lowering, op: ComputedConv) -> None:
    """Weights of an output tile are made once if half the buffer holds them, else for each accumulator bank."""
    config = low.config
    product = computed_product(op)
    _, width, channels = low.graph.tensors[op.output].shape
    tiles = output_tiles(channels, config)
    parameter_base = low.tile_parameters(product, tiles)
    low.load_table(op)
    words, tile = -(-op.reduction // config.elements), passes_of(op, config) * config.rows
    phases = [Phase(y, x) for y in lines(op, 0) for x in lines(op, 1)]
    phases.sort(key=lambda p: not (p.y.taps and p.x.taps))
    kept = prod(op.kernel) * words * tile <= config.weight_depth // 2
    limit = max(config.weight_depth // 4, tile)
    cycles = 0
    for r0, r1, views in low.stripe_views(op):
        stored = r0
        for j in range(tiles):
            bases: dict[tuple[Phase, Part], int] = {}
            for phase in phases:
                parts = phase.parts(words, tile, limit)
                for group in _groups(low, op, phase, r0, r1):
                    bank = low.acc_bank * config.acc_depth
                    access: Access = ("acc", low.acc_bank, low.acc_bank + 1)
                    low.acc_bank ^= 1
                    for n, part in enumerate(parts or [None]):
                        if part is not None and ((phase, part) not in bases or not kept):
                            bases[phase, part] = _fill(low, op, phase, part, views[op.weight], j)
                        acc = bank
                        for span in group:
                            base = 0 if part is None else bases[phase, part]
                            cycles += _matrix(low, op, phase, part, span, views, base, acc, access, n > 0)
                            acc += span.pixels
                        if j or tiles == 1:
                            low.prefetch(1)
                    for y, rows, x, columns in _drained(low, op, phase, group):
                        low.drain(
                            product, j, views, parameter_base(j), bank, access, y, y + rows, x, x + columns,
                            (phase.y.every, phase.x.every),
                        )  # fmt: skip
                        bank += rows * columns
                        if low.must_store(op.output) and j == tiles - 1 and len(phases) == 1:
                            done = y + rows if x + columns == width else y
                            low.transfer(Opcode.STORE, op.output, views[op.output], stored, done)
                            stored = done
        if low.must_store(op.output):
            low.transfer(Opcode.STORE, op.output, views[op.output], stored, r1)
    low.prefetch()
    low.choices[low.layer] = WEIGHT_STATIONARY, {WEIGHT_STATIONARY: cycles}


def _groups(low: Lowering, op: ComputedConv, phase: Phase, r0: int, r1: int) -> Iterator[list[Span]]:
    """Spans of output rows [r0, r1) that fill an accumulator bank together."""
    height, width, _ = low.graph.tensors[op.output].shape
    own, most = height // low.graph.apart(op), low.config.acc_depth
    columns = phase.x.inside(0, width)
    group: list[Span] = []
    for sample, y0, y1 in low.graph.spans(op, r0, r1):
        rows = phase.y.inside(y0 - sample * own, y1 - sample * own)
        if not rows or not columns:
            continue
        across = even(len(columns), most)
        down = even(len(rows), max(most // across, 1))
        for y in range(0, len(rows), down):
            for x in range(0, len(columns), across):
                span = Span(sample, rows[y : y + down], columns[x : x + across])
                if group and sum(s.pixels for s in group) + span.pixels > most:
                    yield group
                    group = []
                group.append(span)
    if group:
        yield group


def _drained(
    low: Lowering, op: ComputedConv, phase: Phase, group: list[Span]
) -> list[tuple[int, int, int, int]]:
    """First row and rows, first column and columns of what leaves together: samples whose rows go on evenly."""
    own = low.graph.tensors[op.output].shape[0] // low.graph.apart(op)
    most = min((1 << bits_of("out_h", Opcode.DRAIN)) - 1, (1 << low.config.plane_bits) - 1)
    found: list[tuple[int, int, int, int]] = []
    for span in group:
        y = own * span.sample + phase.y.first + span.rows[0] * phase.y.every
        x, rows = phase.x.first + span.columns[0] * phase.x.every, len(span.rows)
        if found:
            first, before, *across = found[-1]
            if (
                y == first + before * phase.y.every
                and across == [x, len(span.columns)]
                and before + rows <= most
            ):
                found[-1] = first, before + rows, x, len(span.columns)
                continue
        found.append((y, rows, x, len(span.columns)))
    return found


def _fill(low: Lowering, op: ComputedConv, phase: Phase, part: Part, v: View, j: int) -> int:
    """MOVEs of the weights of output tile `j`, and where they begin."""
    config = low.config
    words = part.c1 - part.c0
    tile = passes_of(op, config) * config.rows * words
    base = low.weights.take(tile * len(part.rows) * len(part.columns))
    pattern = {}
    if not op.pattern.dense:
        shift = (op.pattern.m // op.pattern.n).bit_length() - 1
        pattern = {"index_bits": op.pattern.index_bits, "index_shift": shift}
    element = part.c0 * config.elements
    _, inputs, _ = low.graph.tensors[op.weight].shape
    if op.transposed:
        origin = j * config.cols * v.cw + part.c0
        fields = {"transposed": 1, "columns": min(config.cols, inputs - j * config.cols)}
    else:
        word, run = divmod(j, config.slices)
        origin, fields = element * v.cw + word, {"slice": run}
    places = [(y, x) for y in part.rows for x in part.columns]
    for n, (y, x) in enumerate(places):
        tap = phase.y.taps[y] * op.kernel[1] + phase.x.taps[x]
        low.bring(op.weight, v, tap + 1)
        first = base + n * tile
        writes: list[Access] = [("weight", first, first + tile)]
        if pattern:
            writes.append(("index", first, first + tile))
        low.emit(
            Opcode.MOVE, [v.rows(tap, tap + 1)], writes,
            base=(v.base + tap * v.row + origin) % config.act_depth, step=v.cw % config.act_depth, destination=first,
            words=words, reduction=min(op.reduction - element, words * config.elements), **fields, **pattern,
        )  # fmt: skip
    return base


def _matrix(
    low: Lowering, op: ComputedConv, phase: Phase, part: Part | None, span: Span, views: dict[str, View], base: int,
    acc: int, bank: Access, accumulate: bool,
) -> int:  # fmt: skip
    """The cycles of a MATRIX; without a part, of one that sums nothing."""
    config, depth = low.config, low.config.act_depth
    height, width, _ = low.graph.tensors[op.input].shape
    own = height // low.graph.apart(op)
    y, x = phase.y, phase.x
    kh, kw, c0, words = (1, 1, 0, 1) if part is None else (
        len(part.rows), len(part.columns), part.c0, part.c1 - part.c0
    )  # fmt: skip
    passes = 1 if part is None else passes_of(op, config)
    tap: Pair = (0, 0) if part is None else (part.rows[0], part.columns[0])
    top = y.origin + span.rows[0] * y.stride + tap[0] * y.dilation
    left = x.origin + span.columns[0] * x.stride + tap[1] * x.dilation
    bottom = top + (len(span.rows) - 1) * y.stride + (kh - 1) * y.dilation + 1
    if part is None:
        top, bottom = own, own  # beyond the plane: padding
    v = views[op.input]
    first = span.sample * own
    low_row = min(max(0, top), own - 1)
    high_row = max(low_row + 1, min(own, bottom))
    low.bring(op.input, v, first + high_row)
    size = kh * kw * words * passes * config.rows
    reads: list[Access] = [v.rows(first + low_row, first + high_row), ("weight", base, base + size)]
    pattern = {}
    if part is not None and not op.pattern.dense:
        reads.append(("index", base, base + size))
        shift = (op.pattern.m // op.pattern.n).bit_length() - 1
        pattern = {"index_bits": op.pattern.index_bits, "index_shift": shift}
    fields = {"kernel_h": kh, "kernel_w": kw, "channel_words": words, "passes": passes, "out_h": len(span.rows),
              "out_w": len(span.columns), "output_stationary": 0}  # fmt: skip
    pair: Pair = (min(kh - 1, 1), min(kw - 1, 1))  # a single tap has no next
    low.emit(
        Opcode.MATRIX, reads, [bank],
        base=(v.base + (first + top) * v.row + left * v.cw + c0) % depth,
        step_x=x.stride * v.cw % depth, step_y=y.stride * v.row % depth,
        step_kx=pair[1] * x.dilation * v.cw % depth, step_ky=pair[0] * y.dilation * v.row % depth,
        x0=left, y0=top, in_w=width, in_h=own, stride_x=x.stride, stride_y=y.stride,
        dilation_x=pair[1] * x.dilation, dilation_y=pair[0] * y.dilation,
        weight_base=base, acc_base=acc, accumulate=int(accumulate),
        padding=low.graph.tensors[op.input].quant.zero_code, **low.format_of(op.input), **fields, **pattern,
    )  # fmt: skip
    return matrix_cycles(fields, config)
