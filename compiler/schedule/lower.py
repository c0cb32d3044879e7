"""Ops to instructions, in an order that is correct if run one by one.

Each instruction carries what it reads and writes; `order` then hoists loads, and turns conflicts between units
into tokens. Nothing here thinks about time except the choice of tile sizes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sateen.compiler.schedule.computed import lower_computed
from sateen.compiler.schedule.emitter import Access, Lowered, View
from sateen.compiler.schedule.gradients import lower_gate, lower_sums
from sateen.compiler.schedule.linear import lower_concat, lower_linear
from sateen.compiler.schedule.matmul import lower_matmul
from sateen.compiler.schedule.place import planes_of
from sateen.compiler.schedule.products import Product
from sateen.compiler.schedule.rows import Rows
from sateen.compiler.schedule.samples import from_memory
from sateen.ir.pieces import Pair
from sateen.ir.quantized import (
    Arrange,
    BiasGradient,
    ComputedConv,
    Concat,
    Factor,
    Gate,
    Linear,
    MatMul,
    Maximum,
    MaxPool,
    Normalize,
    Op,
    PoolGate,
    QuantizedGraph,
    Softmax,
    Stored,
    WeightGradient,
    Window,
)
from sateen.machine.isa import Opcode, Target, bits_of
from sateen.machine.packing import pack_activations, pack_parameters


class Lowering(Rows):
    """One run over the graph; `result()` gives the instructions and the memory image."""

    def result(self) -> Lowered:
        alike = repeated(self.graph)
        for layer, op in enumerate(self.graph.ops):
            self.layer, self.shared = layer, op.name in alike
            if not isinstance(op, ComputedConv):  # which does so behind its own
                self.prefetch()
            LOWERING[type(op)].lower(self, op)
            of_memory = from_memory(op)  # has no place yet
            for t in op.inputs:  # rows that this op skipped and a later one reads
                if (
                    t not in of_memory
                    and t in self.placement.on_chip
                    and any(t in o.inputs for o in self.graph.ops[self.layer + 1 :])
                ):
                    self.bring(t, self.view(t, 0, 0, 0), self.graph.tensors[t].shape[0])
        return Lowered(
            self.steps, bytes(self.constants), self.inputs, self.outputs, self.data_size, self.choices
        )

    def prefetch(self, taps: int | None = None) -> None:
        """Load the weights of the next op, or so many taps more, where they are an input and have their place already.

        At once they would keep the bus from the program for long.
        """
        following = self.graph.ops[self.layer + 1 : self.layer + 2]
        for op in following if self.placement.ahead else ():
            if isinstance(op, ComputedConv) and op.weight in self.placement.on_chip:
                height, done = self.graph.tensors[op.weight].shape[0], self.loaded_rows.get(op.weight, 0)
                high = height if taps is None else min(height, done + taps)
                self.bring(op.weight, self.view(op.weight, 0, 0, 0), high)

    def pool(self, op: MaxPool) -> None:
        _, w_in, _ = self.graph.tensors[op.input].shape
        _, w_out, _ = self.graph.tensors[op.output].shape
        depth = self.config.act_depth
        for r0, r1, views in self.stripe_views(op):
            source, target = views[op.input], views[op.output]
            for y0, y1 in self.bands(op, r0, r1):
                low, high = self.graph.rows(op, op.input, y0, y1)
                self.bring(op.input, source, high)
                first, h_in, top = self.graph.place_of(op, op.input, y0)
                self.emit(
                    Opcode.POOL, [source.rows(low, high)], [target.rows(y0, y1)],
                    **self.window_fields(op.window, source.below(first), y0 - top, 0, w_in, h_in),
                    kernel_w=op.kernel[1], kernel_h=op.kernel[0], channel_words=source.cw, out_w=w_out, out_h=y1 - y0,
                    out_base=(target.base + y0 * target.row) % depth,
                    out_step_x=target.cw % depth, out_step_y=target.row % depth,
                )  # fmt: skip
            if self.must_store(op.output):
                self.transfer(Opcode.STORE, op.output, target, r0, r1)

    def arrange(self, op: Arrange) -> None:
        """Each piece is a POOL of single pixels: it reads and writes wherever its steps say."""
        depth, most = self.config.act_depth, (1 << bits_of("out_w", Opcode.POOL)) - 1
        for r0, r1, views in self.stripe_views(op):
            target = views[op.output]
            inside = (p.within(r0, r1) for p in op.pieces)
            for piece in (q for p in inside if p is not None for q in p.cut(most)):
                source = views[op.parts[piece.part]]
                low, high = piece.source.rows(piece.counts)
                self.bring(op.parts[piece.part], source, high)

                def words(view: View, pixels: Pair) -> int:
                    return (pixels[0] * view.row + pixels[1] * view.cw) % depth

                rows, columns = piece.counts
                self.emit(
                    Opcode.POOL, [source.rows(low, high)], [target.rows(*piece.target.rows(piece.counts))],
                    base=(source.base + words(source, piece.source.origin)) % depth,
                    step_x=words(source, piece.source.inner), step_y=words(source, piece.source.outer),
                    in_w=columns, in_h=rows, stride_x=1, stride_y=1, dilation_x=1, dilation_y=1, kernel_w=1, kernel_h=1,
                    channel_words=source.cw, out_w=columns, out_h=rows,
                    out_base=(target.base + words(target, piece.target.origin)) % depth,
                    out_step_x=words(target, piece.target.inner), out_step_y=words(target, piece.target.outer),
                )  # fmt: skip
            if self.must_store(op.output):
                self.transfer(Opcode.STORE, op.output, target, r0, r1)

    def maximum(self, op: Maximum) -> None:
        """A POOL whose window has two rows, as far apart as the tensors are."""
        _, width, _ = self.graph.tensors[op.output].shape
        depth = self.config.act_depth
        for r0, r1, views in self.stripe_views(op):
            a, b, target = (views[t] for t in (*op.parts, op.output))
            for y0, y1 in self.bands(op, r0, r1):
                for t in op.parts:
                    self.bring(t, views[t], y1)
                self.emit(
                    Opcode.POOL, [a.rows(y0, y1), b.rows(y0, y1)], [target.rows(y0, y1)],
                    base=(a.base + y0 * a.row) % depth, step_x=a.cw % depth, step_y=a.row % depth,
                    step_ky=(b.base - a.base) % depth, in_w=width, in_h=y1 - y0 + 1,
                    stride_x=1, stride_y=1, dilation_x=1, dilation_y=1, kernel_w=1, kernel_h=2,
                    channel_words=a.cw, out_w=width, out_h=y1 - y0,
                    out_base=(target.base + y0 * target.row) % depth,
                    out_step_x=target.cw % depth, out_step_y=target.row % depth,
                )  # fmt: skip
            if self.must_store(op.output):
                self.transfer(Opcode.STORE, op.output, target, r0, r1)

    def stored(self, op: Stored) -> None:
        """From the constants to its place; through the buffer where that is in memory, too."""
        source = self.constant(pack_activations(op.codes[None], self.config).tobytes())
        for r0, r1, views in self.stripe_views(op):
            view = views[op.output]
            self.load_constant(
                Target.ACTIVATION, "act", view.base + r0 * view.row, (r1 - r0) * view.row,
                source + r0 * view.row * self.config.act_word_bytes,
            )  # fmt: skip
            if self.must_store(op.output):
                self.transfer(Opcode.STORE, op.output, view, r0, r1)

    def window_fields(self, window: Window, v: View, y: int, x: int, w: int, h: int) -> dict[str, int]:
        """Fields of a walk that begins at row y and column x of the output, less what padding puts before it."""
        depth, row, stride, dilation = self.config.act_depth, v.row, window.stride, window.dilation
        top, left = y * stride[0] - window.pads[0], x * stride[1] - window.pads[1]
        return {
            "base": (v.base + top * row + left * v.cw) % depth,
            "step_x": stride[1] * v.cw % depth,
            "step_y": stride[0] * row % depth,
            "step_kx": dilation[1] * v.cw % depth,
            "step_ky": dilation[0] * row % depth,
            "x0": left,
            "y0": top,
            "in_w": w,
            "in_h": h,
            "stride_x": stride[1],
            "stride_y": stride[0],
            "dilation_x": dilation[1],
            "dilation_y": dilation[0],
        }

    def drain(
        self, product: Product, j: int, views: dict[str, View], parameter_base: int, acc: int, bank: Access,
        y0: int, y1: int, x0: int, x1: int, every: Pair = (1, 1),
    ) -> None:  # fmt: skip
        """`every`: the rows and columns that lie from one of these outputs to the next; the ends count them."""
        config, depth, op = self.config, self.config.act_depth, product.op
        out = views[op.output]
        word = j // config.slices
        lanes, last = config.cols // config.vector_lanes, y0 + (y1 - y0 - 1) * every[0] + 1
        reads: list[Access] = [bank, ("param", parameter_base, parameter_base + lanes)]
        fields = {
            "acc_base": acc, "out_w": x1 - x0, "out_h": y1 - y0, "parameter_base": parameter_base,
            "step_x": every[1] * out.cw % depth, "step_y": every[0] * out.row % depth, "slice": j % config.slices,
            "low": product.low, "high": product.high, "zero_point": product.zero_point,
        }  # fmt: skip
        if not op.raw:
            fields |= self.format_of(op.output)
        if r := product.residual:
            v, (_, width, _) = views[r.input], self.graph.tensors[r.input].shape
            first, height, above = self.graph.place_of(op, r.input, y0)
            plane = self.graph.tensors[op.output].shape[0] // self.graph.apart(op)
            follows = height > 1 or plane == 1  # one row for all of a plane, or one for each
            low, high = (first + y0 - above, first + last - above) if follows else (first, first + 1)
            self.bring(r.input, v, high)
            reads.append(v.rows(low, high))
            step_x, step_y = every[1] * v.cw * (width > 1), every[0] * v.row * follows
            fields |= {
                "residual": 1,
                "residual_base": (v.base + low * v.row + x0 * v.cw * (width > 1) + word) % depth,
                "residual_step_x": step_x % depth,
                "residual_step_y": step_y % depth,
                "residual_multiplier": 0 if isinstance(r, Factor) else r.multiplier,
                "residual_shift": 0 if isinstance(r, Factor) else r.shift,
                "residual_zero": self.graph.tensors[r.input].quant.zero_after,
            }
        if op.table is not None:
            reads.append(("table", 0, 1))
            fields["table"] = 1
        for plane in range(planes_of(op, config)):
            base = out.base + plane * out.plane_words + y0 * out.row + x0 * out.cw + word
            if op.raw:
                fields |= {"raw": 1, "raw_shift": plane * config.activation.bits}
            shifted = View(out.base + plane * out.plane_words, out.row, out.cw)
            self.emit(Opcode.DRAIN, list(reads), [shifted.rows(y0, last)], **fields, base=base % depth)

    def tile_parameters(self, product: Product, tiles: int) -> Callable[[int], int]:
        """Gives tile j's first parameter word, loaded: all tiles at once where they fit, else one by one."""
        config = self.config
        words = config.cols // config.vector_lanes
        n = tiles * config.cols
        bias, multiplier, shift = product.bias, product.multiplier, product.shift
        # columns beyond the last channel compute zeros; their shift must still exceed the residual's
        fill = int(np.min(shift)) if len(shift) else 0
        biases, multipliers, shifts = (
            [int(v) for v in values] + [empty] * (n - len(values))
            for values, empty in ((bias, 0), (multiplier, 0), (shift, fill))
        )
        if tiles * words <= config.parameter_depth:
            source = self.constant(pack_parameters(biases, multipliers, shifts, config))
            if self.shared:
                base, there = self.parameters.find((source,), tiles * words)
            else:
                base, there = self.parameters.take(tiles * words), False
            if not there:
                self.load_constant(Target.PARAMETER, "param", base, tiles * words, source)
            return lambda j: base + j * words
        spans = [slice(j * config.cols, (j + 1) * config.cols) for j in range(tiles)]
        sources = [
            self.constant(pack_parameters(biases[s], multipliers[s], shifts[s], config)) for s in spans
        ]

        def load(j: int) -> int:
            base = self.parameters.take(words)
            self.load_constant(Target.PARAMETER, "param", base, words, sources[j])
            return base

        return load

    def load_table(self, op: Op) -> None:
        if op.table is None:
            return
        table = op.table.astype(np.uint8).tobytes()
        if table != self.table:
            self.load_constant(Target.TABLE, "table", 0, len(table), self.constant(table))
            self.steps[-1].writes = [("table", 0, 1)]
            self.table = table


def repeated(graph: QuantizedGraph) -> set[str]:
    """Ops whose weights others have as well, as the steps of a recurrent layer do."""
    found: dict[bytes, list[str]] = {}
    names = Counter(op.name for op in graph.ops)  # one for each sample
    for op in graph.ops:
        if isinstance(op, Linear):
            chosen = b"" if op.channels is None else op.channels.tobytes()
            key = repr((op.weight.shape, op.weight.sparsity, op.groups)).encode() + op.weight.codes.tobytes()
            found.setdefault(hashlib.sha256(key + chosen).digest(), []).append(op.name)
    tied = {name for ops in found.values() if len(ops) >= _MANY for name in ops}
    return tied | {name for name, n in names.items() if n > 1}


_MANY = 3
"""Ops with the same weights that keep them in one place."""


@dataclass(frozen=True, slots=True)
class Way:
    """How an op becomes instructions."""

    opcode: Opcode
    """Of the instruction that computes a tile of it, which names the unit (machine/isa.py)."""
    lower: Callable[[Lowering, Any], None]


LOWERING: dict[type[Op], Way] = {
    Linear: Way(Opcode.MATRIX, lower_linear),
    MatMul: Way(Opcode.MATRIX, lower_matmul),
    ComputedConv: Way(Opcode.MATRIX, lower_computed),
    WeightGradient: Way(Opcode.OUTER, lower_sums),
    BiasGradient: Way(Opcode.OUTER, lower_sums),
    Gate: Way(Opcode.GATE, lower_gate),
    PoolGate: Way(Opcode.GATE, lower_gate),
    MaxPool: Way(Opcode.POOL, Lowering.pool),
    Concat: Way(Opcode.MATRIX, lower_concat),
    Arrange: Way(Opcode.POOL, Lowering.arrange),
    Maximum: Way(Opcode.POOL, Lowering.maximum),
    Stored: Way(Opcode.LOAD, Lowering.stored),
    Softmax: Way(Opcode.ROW, Lowering.softmax),
    Normalize: Way(Opcode.ROW, Lowering.normalize),
}
