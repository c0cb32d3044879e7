"""Gradients of weights and biases as outer products (OUTER), and gates of gradients.

The gradient of what a layer gave comes from memory into the weight buffer, chunk by chunk of its pixels; what the layer
read lies in the activation buffer. Elements of the array keep sums over a chunk, the accumulators over all of them.
The exact sums leave as digits, by way of a slot in the activation buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sateen.compiler.schedule.emitter import Access, View
from sateen.compiler.schedule.sums import Chunk, Piece, Shape, chunks, input_rows, shape_of
from sateen.compiler.schedule.tiles import even
from sateen.errors import ConfigError
from sateen.formats import Format
from sateen.hw.matrix.unit import outer_cycles
from sateen.ir.quantized import BiasGradient, Gate, PoolGate, WeightGradient
from sateen.machine.isa import Opcode, Target
from sateen.machine.packing import pack_parameters, row_words

if TYPE_CHECKING:
    from sateen.compiler.schedule.lower import Lowering

OUTER = "outer_product"
"""What the array does then, beside its dataflows."""


def lower_sums(low: Lowering, op: WeightGradient | BiasGradient) -> None:
    """A bank of accumulators for as many tiles of as many pieces as fit; all chunks for each."""
    config = low.config
    _check_bits(low, op)
    shape = shape_of(op, low.graph, config)
    parts = chunks(op, low.graph, low.placement.stripes[low.layer].rows)
    parameters = config.cols // config.vector_lanes
    parameter_base = low.parameters.take(parameters)
    zeros = pack_parameters([0] * config.cols, [1] * config.cols, [0] * config.cols, config)
    low.load_constant(Target.PARAMETER, "param", parameter_base, parameters, low.constant(zeros))
    held: dict[Chunk, int] = {}
    cycles = slot = 0
    step = even(shape.tiles, config.acc_depth // shape.sums)
    together = 1
    if step == shape.tiles:
        together = even(len(shape.pieces), config.acc_depth // (shape.sums * shape.tiles))
    for first in range(0, len(shape.pieces), together):
        pieces = shape.pieces[first : first + together]
        for t0 in range(0, shape.tiles, step):
            tiles = range(t0, min(t0 + step, shape.tiles))
            bank: Access = ("acc", low.acc_bank, low.acc_bank + 1)
            begin = low.acc_bank * config.acc_depth
            low.acc_bank ^= 1
            for n, c in enumerate(parts):
                if len(parts) > 1 or c not in held:
                    held[c] = _gradients(low, op, c)
                view = _inputs(low, op, c, n, fresh=len(parts) > 1 or (first == 0 and t0 == 0))
                acc = begin
                for piece in pieces:
                    for tile in tiles:
                        cycles += _outer(low, op, shape, c, view, piece, held[c] + tile, acc, bank, n > 0)
                        acc += shape.sums
            acc = begin
            for piece in pieces:
                view = _slot(low, op, shape, slot)
                for tile in tiles:
                    _drain(low, op, shape, piece, tile, view, acc, bank, parameter_base)
                    acc += shape.sums
                if tiles.stop == shape.tiles:
                    _store(low, op, shape, piece, view)
                    slot += 1
    low.choices[low.layer] = OUTER, {OUTER: cycles}


def _check_bits(low: Lowering, op: WeightGradient | BiasGradient) -> None:
    for span in op.sums(low.graph.reach):
        bits = 1 + max((v if v >= 0 else ~v).bit_length() for v in span)
        if bits > low.config.acc_bits:
            raise ConfigError(
                f"{type(op).__name__} '{op.name}': sums over {op.pixels} pixels take {bits} bits, and acc_bits = "
                f"{low.config.acc_bits}; raise it, or make the batch smaller"
            )


def _gradients(low: Lowering, op: WeightGradient | BiasGradient, c: Chunk) -> int:
    """Loads a chunk's gradients; its first weight word."""
    height, width, channels = low.graph.tensors[op.gradient].shape
    own = height // low.graph.samples.get(op.gradient, 1)
    row = row_words(width, channels, low.config)
    first, rows = c.first * own + c.y0, (c.last - c.first - 1) * own + c.y1 - c.y0
    words = rows * row * low.config.slices
    base = low.weights.take(words)
    start = low.memory[op.gradient].offset + first * row * low.config.act_word_bytes
    low.emit(
        Opcode.LOAD,
        [("data", start, start + rows * row * low.config.act_word_bytes)], [("weight", base, base + words)],
        target=Target.WEIGHT, destination=base, source=start, words=words,
    )  # fmt: skip
    return base


def _inputs(low: Lowering, op: WeightGradient | BiasGradient, c: Chunk, n: int, fresh: bool) -> View:
    """Where what the layer read lies, loaded if it comes from memory."""
    if isinstance(op, BiasGradient):
        return View(0, 0, 0)
    first, last = input_rows(op, low.graph, c)
    view = low.view(op.input, n, first, last - first)
    if op.input in low.placement.on_chip:
        low.bring(op.input, view, last)
    elif fresh:
        low.transfer(Opcode.LOAD, op.input, view, first, last)
    return view


def _outer(
    low: Lowering, op: WeightGradient | BiasGradient, shape: Shape, c: Chunk, v: View, piece: Piece, weights: int,
    acc: int, bank: Access, accumulate: bool,
) -> int:  # fmt: skip
    """The cycles of a chunk's OUTERs: one, or one for each row where rows end within a beat."""
    config = low.config
    _, width, channels = low.graph.tensors[op.gradient].shape
    step = -(-channels // config.elements) * config.slices
    row = row_words(width, channels, config) * config.slices
    lines = [(c, weights)]
    if row != width * step:
        rows = [(s, y) for s in range(c.first, c.last) for y in range(c.y0, c.y1)]
        lines = [(Chunk(s, s + 1, y, y + 1), weights + k * row) for k, (s, y) in enumerate(rows)]
    cycles = 0
    for k, (part, base) in enumerate(lines):
        pixels = (part.last - part.first) * (part.y1 - part.y0) * width
        fields = {"kernel_w": part.last - part.first, "out_h": part.y1 - part.y0, "out_w": width}
        reads: list[Access] = [("weight", base, base + (pixels - 1) * step + 1)]
        if isinstance(op, BiasGradient):
            one = next(int(code) for code in config.activation.codes if config.activation.fixed(code) == 1)
            fields |= {"kernel_h": 1, "channel_words": 1, "y0": 1, "in_h": 1, "in_w": 1, "padding": one}
        else:
            first, last = input_rows(op, low.graph, part)
            reads.append(v.rows(first, last))
            padding = low.graph.tensors[op.input].quant.zero_code
            fields |= _window(low, op, part, v, piece) | ({"short": shape.short} if shape.short else {}) | {
                "kernel_h": shape.elements, "channel_words": piece.c1 - piece.c0, "padding": padding,
            }  # fmt: skip
        low.emit(
            Opcode.OUTER, reads, [bank],
            **fields, passes=1, weight_base=base, weight_step=step, acc_base=acc,
            accumulate=int(accumulate or k > 0),
        )  # fmt: skip
        cycles += outer_cycles(fields, config)
    return cycles


def _window(low: Lowering, op: WeightGradient, c: Chunk, v: View, piece: Piece) -> dict[str, int]:
    """Of one tap, over the samples of a chunk."""
    height, width, _ = low.graph.tensors[op.input].shape
    own, depth = height // low.graph.samples.get(op.gradient, 1), low.config.act_depth
    tap = divmod(piece.tap, op.kernel[1])
    top, left = (t * d - p for t, d, p in zip(tap, op.dilation, op.pads[:2], strict=True))
    top += c.y0 * op.stride[0]
    return {
        "base": (v.base + (c.first * own + top) * v.row + left * v.cw + piece.c0) % depth,
        "step_x": op.stride[1] * v.cw % depth, "step_y": op.stride[0] * v.row % depth,
        "step_kx": own * v.row % depth, "x0": left, "y0": top, "in_w": width, "in_h": own,
        "stride_x": op.stride[1], "stride_y": op.stride[0],
    }  # fmt: skip


def _slot(low: Lowering, op: WeightGradient | BiasGradient, shape: Shape, n: int) -> View:
    slots = low.placement.stripes[low.layer].slots[op.output]
    return View(slots[n % len(slots)], 0, shape.words, shape.plane)


def _drain(
    low: Lowering, op: WeightGradient | BiasGradient, shape: Shape, piece: Piece, tile: int, v: View, acc: int,
    bank: Access, parameter_base: int,
) -> None:  # fmt: skip
    """A tile's digits into the slot, a pixel for each channel."""
    config = low.config
    word, part = divmod(tile, config.slices)
    fields = {"out_w": 1, "out_h": 1, "step_x": 0, "step_y": 0}
    if isinstance(op, WeightGradient):
        across = (piece.c1 - piece.c0) * config.rows
        fields = {
            "out_w": across,
            "out_h": shape.elements,
            "step_x": (config.group >> shape.short) * v.cw,
            "step_y": v.cw,
        }
    parameters: Access = ("param", parameter_base, parameter_base + config.cols // config.vector_lanes)
    for digit in range(shape.digits):
        base = v.base + digit * shape.plane
        low.emit(
            Opcode.DRAIN, [bank, parameters], [("act", base, base + shape.plane)],
            **fields, acc_base=acc, parameter_base=parameter_base, base=base + word, slice=part, raw=1,
            raw_shift=digit * config.activation.bits,
        )  # fmt: skip


def _store(low: Lowering, op: WeightGradient | BiasGradient, shape: Shape, piece: Piece, v: View) -> None:
    config = low.config
    taps, inputs, outputs = low.graph.tensors[op.output].shape
    row = row_words(inputs, outputs, config)
    first = piece.c0 * config.elements * v.cw
    last = min(row, piece.c1 * config.elements * v.cw) if piece.c1 * config.elements < inputs else row
    for digit in range(shape.digits):
        base = v.base + digit * shape.plane
        start = (
            low.memory[op.output].offset + ((digit * taps + piece.tap) * row + first) * config.act_word_bytes
        )
        end = start + (last - first) * config.act_word_bytes
        low.emit(
            Opcode.STORE, [("act", base, base + last - first)], [("data", start, end)],
            source=base, destination=start, words=last - first,
        )  # fmt: skip


# -- gates ---------------------------------------------------------------------------------------------------


def bounds(fmt: Format, low: int, high: int) -> dict[str, int]:
    """Fields of a GATE for low < value < high in fixed-point units: codes, where there are values beyond."""
    codes = fmt.codes[np.isfinite(fmt.decode(fmt.codes))]
    fixed = fmt.fixed(codes)
    found = {"above": 0, "low": 0, "below": 0, "high": 0}
    for side, bound, beyond, key in (
        ("above", "low", fixed <= low, fixed),
        ("below", "high", fixed >= high, -fixed),
    ):
        if beyond.any():
            found |= {side: 1, bound: int(codes[beyond][np.argmax(key[beyond])])}
    return found


def lower_gate(low: Lowering, op: Gate | PoolGate) -> None:
    """A GATE for some rows of a sample at a time."""
    graph, depth = low.graph, low.config.act_depth
    _, width, _ = graph.tensors[op.output].shape
    _, w_in, _ = graph.tensors[op.reference].shape
    if isinstance(op, PoolGate):
        decides = {"equal": 1}
    else:
        decides = bounds(graph.tensors[op.reference].quant.format, op.low, op.high)
    for r0, r1, views in low.stripe_views(op):
        x, b, out = (
            views[t] for t in (op.reference, op.compared if decides.get("equal") else op.input, op.output)
        )
        gradient = views[op.input]
        for y0, y1 in low.bands(op, r0, r1):
            reads = []
            for t in op.inputs:
                rows = graph.rows(op, t, y0, y1)
                rows = min(rows[0], graph.tensors[t].shape[0] - 1), max(rows[1], rows[0] + 1)
                low.bring(t, views[t], rows[1])
                reads.append(views[t].rows(*rows))
            first, h_in, above = graph.place_of(op, op.reference, y0)
            low.emit(
                Opcode.GATE, reads, [out.rows(y0, y1)],
                **low.window_fields(op.window, x.below(first), y0 - above, 0, w_in, h_in),
                kernel_w=1, kernel_h=1, channel_words=x.cw, out_w=width, out_h=y1 - y0,
                out_base=(out.base + y0 * out.row) % depth, out_step_x=out.cw % depth, out_step_y=out.row % depth,
                second_base=(b.base + y0 * b.row) % depth, second_step_x=b.cw % depth, second_step_y=b.row % depth,
                distance=(gradient.base - b.base) % depth, **decides,
            )  # fmt: skip
        if low.must_store(op.output):
            low.transfer(Opcode.STORE, op.output, out, r0, r1)
