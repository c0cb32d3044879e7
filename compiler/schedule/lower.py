"""Ops to instructions, in an order that is correct if run one by one.

Each instruction carries what it reads and writes; `order` then hoists loads, and turns conflicts between units
into tokens. Nothing here thinks about time except the choice of tile sizes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from sateen.compiler.schedule.computed import lower_computed
from sateen.compiler.schedule.dataflow import Plan, Source, Span, plan, plan_filters
from sateen.compiler.schedule.emitter import Access, Lowered, View
from sateen.compiler.schedule.filters import Filter, is_depthwise
from sateen.compiler.schedule.gradients import lower_gate, lower_sums
from sateen.compiler.schedule.matmul import lower_matmul
from sateen.compiler.schedule.place import planes_of
from sateen.compiler.schedule.products import Product, concat_product, linear_product
from sateen.compiler.schedule.rows import Rows
from sateen.compiler.schedule.samples import from_memory
from sateen.compiler.schedule.tiles import Chunk, Packed, output_tiles, pack_tile
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
from sateen.machine.config import DEPTHWISE
from sateen.machine.isa import Opcode, Target, bits_of
from sateen.machine.packing import index_words, pack_activations, pack_parameters, tile_words


class Lowering(Rows):
    """One run over the graph; `result()` gives the instructions and the memory image."""

    def result(self) -> Lowered:
        alike = repeated(self.graph)
        for layer, op in enumerate(self.graph.ops):
            self.layer, self.shared = layer, op.name in alike
            if not isinstance(op, ComputedConv):  # which does so behind its own
                self._prefetch()
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

    def _prefetch(self, taps: int | None = None) -> None:
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
        for r0, r1, views in self._stripe_views(op):
            source, target = views[op.input], views[op.output]
            for y0, y1 in self.bands(op, r0, r1):
                low, high = self.graph.rows(op, op.input, y0, y1)
                self.bring(op.input, source, high)
                first, h_in, top = self.graph.place_of(op, op.input, y0)
                self.emit(
                    Opcode.POOL, [source.rows(low, high)], [target.rows(y0, y1)],
                    **self._window(op.window, source.below(first), y0 - top, 0, w_in, h_in),
                    kernel_w=op.kernel[1], kernel_h=op.kernel[0], channel_words=source.cw, out_w=w_out, out_h=y1 - y0,
                    out_base=(target.base + y0 * target.row) % depth,
                    out_step_x=target.cw % depth, out_step_y=target.row % depth,
                )  # fmt: skip
            if self._must_store(op.output):
                self.transfer(Opcode.STORE, op.output, target, r0, r1)

    def arrange(self, op: Arrange) -> None:
        """Each piece is a POOL of single pixels: it reads and writes wherever its steps say."""
        depth, most = self.config.act_depth, (1 << bits_of("out_w", Opcode.POOL)) - 1
        for r0, r1, views in self._stripe_views(op):
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
            if self._must_store(op.output):
                self.transfer(Opcode.STORE, op.output, target, r0, r1)

    def maximum(self, op: Maximum) -> None:
        """A POOL whose window has two rows, as far apart as the tensors are."""
        _, width, _ = self.graph.tensors[op.output].shape
        depth = self.config.act_depth
        for r0, r1, views in self._stripe_views(op):
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
            if self._must_store(op.output):
                self.transfer(Opcode.STORE, op.output, target, r0, r1)

    def stored(self, op: Stored) -> None:
        """From the constants to its place; through the buffer where that is in memory, too."""
        source = self.constant(pack_activations(op.codes[None], self.config).tobytes())
        for r0, r1, views in self._stripe_views(op):
            view = views[op.output]
            self.load_constant(
                Target.ACTIVATION, "act", view.base + r0 * view.row, (r1 - r0) * view.row,
                source + r0 * view.row * self.config.act_word_bytes,
            )  # fmt: skip
            if self._must_store(op.output):
                self.transfer(Opcode.STORE, op.output, view, r0, r1)

    def _window(self, window: Window, v: View, y: int, x: int, w: int, h: int) -> dict[str, int]:
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

    def linear(self, op: Linear) -> None:
        self._compute(linear_product(op, self.graph, self.config))

    def concat(self, op: Concat) -> None:
        self._compute(concat_product(op, self.graph, self.config))

    def _plan(self, product: Product, sources: list[list[Source]]) -> Plan:
        """In the faster dataflow of those that the machine has; the first of equals, weight-stationary."""
        op = product.op
        height, width, _ = self.graph.tensors[op.output].shape
        rows = self.placement.stripes[self.layer].rows
        stripes = [(r0, min(r0 + rows, height)) for r0 in range(0, height, rows)]
        everywhere = [d for d in self.dataflows if d != DEPTHWISE]
        n = self.graph.apart(op)
        sample = height // n if n > 1 else 0
        plans = [plan(sources, stripes, width, self.config, d, product.slides, sample) for d in everywhere]
        if DEPTHWISE in self.dataflows and isinstance(op, Linear) and is_depthwise(op):
            in_h, in_w, _ = self.graph.tensors[op.input].shape
            plane, out = (in_h // n, in_w), (height // n, width)
            if filters := plan_filters(op, stripes, plane, out, self.config, sample):
                plans.append(filters)
        chosen = min(plans, key=lambda p: (p.time, p.cycles))
        self.choices[self.layer] = chosen.dataflow, {p.dataflow: p.cycles for p in plans}
        return chosen

    def _compute(self, product: Product) -> None:
        config, op = self.config, product.op
        _, w_out, channels = self.graph.tensors[op.output].shape
        tiles = output_tiles(channels, config)
        origin = [product.sources(j) for j in range(tiles)]
        layer = self._plan(product, origin)
        mode, parts = layer.mode, layer.chunks
        sources = self._weights(layer, origin)
        alike = _alike(sources, parts)
        kept = {at: parts[at[0]][at[1]].space(config) for at in alike.values()}  # words of each, once
        space = sum(kept.values())
        if self.shared and space <= config.weight_depth // 2 and self._at_once(op, layer):
            mode = "resident"  # for the ops to come; the order of one span is the same
        bases: dict[tuple[int, int], int] = {}
        resident: set[tuple[int, int]] = set()
        if mode == "resident":
            there = False
            if self.shared and all(indices is None for per in sources for _, indices in per):
                start, there = self.weights.find(tuple(w for per in sources for w, _ in per), space)
            else:
                start = self.weights.take(space)
            bases = dict(zip(kept, accumulate(kept.values(), initial=start), strict=False))
            resident.update(bases if there else ())

        def weight_base(j: int, k: int) -> int:
            """Where chunk k of tile j is, after making sure that it is there."""
            c, at = parts[j][k], alike[j, k] if mode == "resident" else (j, k)
            if at in resident:
                return bases[at]
            weights, indices = sources[j][k]
            there = False
            if mode != "resident" and indices is None:
                bases[at], there = self.weights.find((weights,), c.size)
            elif mode != "resident":
                bases[at] = self.weights.take(c.size)
            if not there:
                self.load_constant(Target.WEIGHT, "weight", bases[at], c.size, weights)
                if isinstance(c, Chunk) and indices is not None:
                    self.load_indices(bases[at], c.size, c.shape.packing.index_bits, indices)
            if mode != "chunk":
                resident.add(at)
            return bases[at]

        parameter_base = self._parameters(product, tiles)
        self._load_table(op)

        def compute(j: int, views: dict[str, View], spans: Sequence[Span]) -> None:
            first = self.acc_bank * config.acc_depth
            bank: Access = ("acc", self.acc_bank, self.acc_bank + 1)
            self.acc_bank ^= 1
            sizes = [(y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in spans]
            begins = [first + n for n in accumulate([0, *sizes[:-1]])]
            for k, c in enumerate(parts[j]):
                base = weight_base(j, k)
                for acc, span in zip(begins, spans, strict=True):
                    if isinstance(c, Filter):
                        self._fir(product, c, views[c.input], base, acc, bank, k > 0, *span)
                    else:
                        self._matrix(product, c, views[c.input], base, acc, bank, k > 0, *span)
            base = parameter_base(j)
            for acc, span in zip(begins, spans, strict=True):
                self._drain(product, j, views, base, acc, bank, *span)

        for r0, r1, views in self._stripe_views(op):
            if mode == "tile":
                resident.clear()
            spans = layer.spans(r0, r1, w_out)
            if mode == "resident":
                for span in spans:
                    for j in range(tiles):
                        compute(j, views, [span])
                    _, y1, _, x1 = span
                    if x1 == w_out and self._must_store(op.output):
                        self.transfer(Opcode.STORE, op.output, views[op.output], span[0], y1)
            else:
                for j in range(tiles):
                    for group in layer.together(spans, config):
                        compute(j, views, group)
                if self._must_store(op.output):
                    self.transfer(Opcode.STORE, op.output, views[op.output], r0, r1)

    def _at_once(self, op: Op, layer: Plan) -> bool:
        """Whether all of the op's pixels are in one span, so that each weight is used once."""
        height, width, _ = self.graph.tensors[op.output].shape
        rows = self.placement.stripes[self.layer].rows
        return rows >= height and len(list(layer.spans(0, height, width))) == 1

    def _weights(self, layer: Plan, origin: list[list[Source]]) -> list[list[tuple[int, int | None]]]:
        """Where the weights and indices of each tile's chunks are in memory."""
        found = []
        for per, parts in zip(origin, layer.chunks, strict=True):
            packed: dict[int, Packed] = {}
            places: list[tuple[int, int | None]] = []
            for c in parts:
                if isinstance(c, Filter):
                    places.append((self.constant(tile_words(c.weights, self.config).tobytes()), None))
                    continue
                if c.source not in packed:
                    s = per[c.source]
                    packed[c.source] = pack_tile(s.dense, s.shape, self.config, layer.dataflow)
                places.append(self._chunk_weights(c, packed[c.source]))
            found.append(places)
        return found

    def _chunk_weights(self, c: Chunk, packed: Packed) -> tuple[int, int | None]:
        words, indices = packed
        weights = self.constant(c.part(words).tobytes())
        if indices is None:
            return weights, None
        planes = index_words(c.part(indices), c.shape.packing.index_bits, self.config)
        return weights, self.constant(planes.tobytes())

    def _matrix(
        self, product: Product, c: Chunk, v: View, weight_base: int, acc: int, bank: Access, accumulate: bool,
        y0: int, y1: int, x0: int, x1: int,
    ) -> None:  # fmt: skip
        _, w_in, _ = self.graph.tensors[c.input].shape
        first, h_in, above = self.graph.place_of(product.op, c.input, y0)
        y0, y1 = y0 - above, y1 - above
        low, high = _chunk_rows(product.window, c, y0, y1, h_in)
        self.bring(c.input, v, first + high)
        v = v.below(first)
        top, left = (-at * d for at, d in zip((c.ky0, c.kx0), product.window.dilation, strict=True))
        pads = product.window.pads
        moved = replace(product.window, pads=(pads[0] + top, pads[1] + left, *pads[2:]))
        window = self._window(moved, v, y0, x0, w_in, h_in)
        window["base"] = (window["base"] + c.c0) % self.config.act_depth
        packing = c.shape.packing
        tiles: list[Access] = [("weight", weight_base, weight_base + c.size)]
        if packing.index_bits:
            tiles.append(("index", weight_base, weight_base + c.size))
        self.emit(
            Opcode.MATRIX,
            [v.rows(low, high), *tiles],
            [bank],
            **window,
            **c.fields(y1 - y0, x1 - x0, product.slides),
            weight_base=weight_base, index_bits=packing.index_bits, index_shift=packing.index_shift,
            acc_base=acc, accumulate=int(accumulate), padding=self.graph.tensors[c.input].quant.zero_code,
        )  # fmt: skip

    def _fir(
        self, product: Product, f: Filter, v: View, weight_base: int, acc: int, bank: Access, accumulate: bool,
        y0: int, y1: int, x0: int, x1: int,
    ) -> None:  # fmt: skip
        _, w_in, _ = self.graph.tensors[f.input].shape
        first, h_in, above = self.graph.place_of(product.op, f.input, y0)
        y0, y1 = y0 - above, y1 - above
        low, high = product.window.rows(y0, y1, h_in)
        low = min(low, h_in - 1)
        high = max(high, low + 1)
        self.bring(f.input, v, first + high)
        v = v.below(first)
        # lines below `high` may not be there yet; their taps are zero
        window = self._window(f.geometry.streamed, v, y0, x0, w_in, high)
        window["base"] = (window["base"] + f.word) % self.config.act_depth
        self.emit(
            Opcode.FIR,
            [v.rows(low, high), ("weight", weight_base, weight_base + f.size)],
            [bank],
            **window,
            **f.geometry.fields(y0, y1, x0, x1),
            slice=f.slice, weight_base=weight_base, index_bits=0, index_shift=0, acc_base=acc,
            accumulate=int(accumulate), padding=self.graph.tensors[f.input].quant.zero_code,
        )  # fmt: skip

    def _drain(
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

    def _parameters(self, product: Product, tiles: int) -> Callable[[int], int]:
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

    def _load_table(self, op: Op) -> None:
        if op.table is None:
            return
        table = op.table.astype(np.uint8).tobytes()
        if table != self.table:
            self.load_constant(Target.TABLE, "table", 0, len(table), self.constant(table))
            self.steps[-1].writes = [("table", 0, 1)]
            self.table = table


def _chunk_rows(window: Window, c: Chunk, y0: int, y1: int, height: int) -> tuple[int, int]:
    """Input rows that a chunk reads for output rows [y0, y1), at least one."""
    stride, dilation, top = window.stride[0], window.dilation[0], window.pads[0]
    low = y0 * stride - top + c.ky0 * dilation
    high = (y1 - 1) * stride - top + (c.ky1 - 1) * dilation + 1
    low = min(max(0, low), height - 1)
    return low, max(low + 1, min(height, high))


def _alike(
    sources: list[list[tuple[int, int | None]]], parts: Sequence[Sequence[Chunk | Filter]]
) -> dict[tuple[int, int], tuple[int, int]]:
    """Of each chunk of each tile the first one that has the same weights, as tiles of an average pool all have."""
    first: dict[tuple[int, int | None, int], tuple[int, int]] = {}
    return {
        (j, k): first.setdefault((*places, parts[j][k].size), (j, k))
        for j, per in enumerate(sources)
        for k, places in enumerate(per)
    }


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
    Linear: Way(Opcode.MATRIX, Lowering.linear),
    MatMul: Way(Opcode.MATRIX, lower_matmul),
    ComputedConv: Way(Opcode.MATRIX, lower_computed),
    WeightGradient: Way(Opcode.OUTER, lower_sums),
    BiasGradient: Way(Opcode.OUTER, lower_sums),
    Gate: Way(Opcode.GATE, lower_gate),
    PoolGate: Way(Opcode.GATE, lower_gate),
    MaxPool: Way(Opcode.POOL, Lowering.pool),
    Concat: Way(Opcode.MATRIX, Lowering.concat),
    Arrange: Way(Opcode.POOL, Lowering.arrange),
    Maximum: Way(Opcode.POOL, Lowering.maximum),
    Stored: Way(Opcode.LOAD, Lowering.stored),
    Softmax: Way(Opcode.ROW, Lowering.softmax),
    Normalize: Way(Opcode.ROW, Lowering.normalize),
}
