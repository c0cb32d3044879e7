"""What the array computes with constants: how a layer is cut, its tiles loaded, multiplied and drained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from sateen.compiler.schedule.dataflow import Plan, Source, Span, plan, plan_filters
from sateen.compiler.schedule.emitter import Access, View
from sateen.compiler.schedule.filters import Filter, is_depthwise
from sateen.compiler.schedule.products import Product, concat_product, linear_product
from sateen.compiler.schedule.tiles import Chunk, Packed, output_tiles, pack_tile
from sateen.ir.quantized import Concat, Linear, Op, Window
from sateen.machine.config import DEPTHWISE
from sateen.machine.isa import Opcode, Target
from sateen.machine.packing import index_words, tile_words

if TYPE_CHECKING:
    from sateen.compiler.schedule.lower import Lowering


def lower_linear(low: Lowering, op: Linear) -> None:
    _compute(low, linear_product(op, low.graph, low.config))


def lower_concat(low: Lowering, op: Concat) -> None:
    _compute(low, concat_product(op, low.graph, low.config))


def _plan(low: Lowering, product: Product, sources: list[list[Source]]) -> Plan:
    """In the faster dataflow of those that the machine has; the first of equals, weight-stationary."""
    op = product.op
    height, width, _ = low.graph.tensors[op.output].shape
    rows = low.placement.stripes[low.layer].rows
    stripes = [(r0, min(r0 + rows, height)) for r0 in range(0, height, rows)]
    everywhere = [d for d in low.dataflows if d != DEPTHWISE]
    n = low.graph.apart(op)
    sample = height // n if n > 1 else 0
    plans = [plan(sources, stripes, width, low.config, d, product.slides, sample) for d in everywhere]
    if DEPTHWISE in low.dataflows and isinstance(op, Linear) and is_depthwise(op):
        in_h, in_w, _ = low.graph.tensors[op.input].shape
        plane, out = (in_h // n, in_w), (height // n, width)
        if filters := plan_filters(op, stripes, plane, out, low.config, sample):
            plans.append(filters)
    chosen = min(plans, key=lambda p: (p.time, p.cycles))
    low.choices[low.layer] = chosen.dataflow, {p.dataflow: p.cycles for p in plans}
    return chosen


def _compute(low: Lowering, product: Product) -> None:
    config, op = low.config, product.op
    _, w_out, channels = low.graph.tensors[op.output].shape
    tiles = output_tiles(channels, config)
    origin = [product.sources(j) for j in range(tiles)]
    layer = _plan(low, product, origin)
    mode, parts = layer.mode, layer.chunks
    sources = _weights(low, layer, origin)
    alike = _alike(sources, parts)
    kept = {at: parts[at[0]][at[1]].space(config) for at in alike.values()}  # words of each, once
    space = sum(kept.values())
    if low.shared and space <= config.weight_depth // 2 and _at_once(low, op, layer):
        mode = "resident"  # for the ops to come; the order of one span is the same
    bases: dict[tuple[int, int], int] = {}
    resident: set[tuple[int, int]] = set()
    if mode == "resident":
        there = False
        if low.shared and all(indices is None for per in sources for _, indices in per):
            start, there = low.weights.find(tuple(w for per in sources for w, _ in per), space)
        else:
            start = low.weights.take(space)
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
            bases[at], there = low.weights.find((weights,), c.size)
        elif mode != "resident":
            bases[at] = low.weights.take(c.size)
        if not there:
            low.load_constant(Target.WEIGHT, "weight", bases[at], c.size, weights)
            if isinstance(c, Chunk) and indices is not None:
                low.load_indices(bases[at], c.size, c.shape.packing.index_bits, indices)
        if mode != "chunk":
            resident.add(at)
        return bases[at]

    parameter_base = low.tile_parameters(product, tiles)
    low.load_table(op)

    def compute(j: int, views: dict[str, View], spans: Sequence[Span]) -> None:
        first = low.acc_bank * config.acc_depth
        bank: Access = ("acc", low.acc_bank, low.acc_bank + 1)
        low.acc_bank ^= 1
        sizes = [(y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in spans]
        begins = [first + n for n in accumulate([0, *sizes[:-1]])]
        for k, c in enumerate(parts[j]):
            base = weight_base(j, k)
            for acc, span in zip(begins, spans, strict=True):
                if isinstance(c, Filter):
                    _fir(low, product, c, views[c.input], base, acc, bank, k > 0, *span)
                else:
                    _matrix(low, product, c, views[c.input], base, acc, bank, k > 0, *span)
        base = parameter_base(j)
        for acc, span in zip(begins, spans, strict=True):
            low.drain(product, j, views, base, acc, bank, *span)

    for r0, r1, views in low.stripe_views(op):
        if mode == "tile":
            resident.clear()
        spans = layer.spans(r0, r1, w_out)
        if mode == "resident":
            for span in spans:
                for j in range(tiles):
                    compute(j, views, [span])
                _, y1, _, x1 = span
                if x1 == w_out and low.must_store(op.output):
                    low.transfer(Opcode.STORE, op.output, views[op.output], span[0], y1)
        else:
            for j in range(tiles):
                for group in layer.together(spans, config):
                    compute(j, views, group)
            if low.must_store(op.output):
                low.transfer(Opcode.STORE, op.output, views[op.output], r0, r1)


def _at_once(low: Lowering, op: Op, layer: Plan) -> bool:
    """Whether all of the op's pixels are in one span, so that each weight is used once."""
    height, width, _ = low.graph.tensors[op.output].shape
    rows = low.placement.stripes[low.layer].rows
    return rows >= height and len(list(layer.spans(0, height, width))) == 1


def _weights(low: Lowering, layer: Plan, origin: list[list[Source]]) -> list[list[tuple[int, int | None]]]:
    """Where the weights and indices of each tile's chunks are in memory."""
    found = []
    for per, parts in zip(origin, layer.chunks, strict=True):
        packed: dict[int, Packed] = {}
        places: list[tuple[int, int | None]] = []
        for c in parts:
            if isinstance(c, Filter):
                places.append((low.constant(tile_words(c.weights, low.config).tobytes()), None))
                continue
            if c.source not in packed:
                s = per[c.source]
                packed[c.source] = pack_tile(s.dense, s.shape, low.config, layer.dataflow)
            places.append(_chunk_weights(low, c, packed[c.source]))
        found.append(places)
    return found


def _chunk_weights(low: Lowering, c: Chunk, packed: Packed) -> tuple[int, int | None]:
    words, indices = packed
    weights = low.constant(c.part(words).tobytes())
    if indices is None:
        return weights, None
    planes = index_words(c.part(indices), c.shape.packing.index_bits, low.config)
    return weights, low.constant(planes.tobytes())


def _matrix(
    low: Lowering, product: Product, c: Chunk, v: View, weight_base: int, acc: int, bank: Access, accumulate: bool,
    y0: int, y1: int, x0: int, x1: int,
) -> None:  # fmt: skip
    _, w_in, _ = low.graph.tensors[c.input].shape
    first, h_in, above = low.graph.place_of(product.op, c.input, y0)
    y0, y1 = y0 - above, y1 - above
    begin, end = _chunk_rows(product.window, c, y0, y1, h_in)
    low.bring(c.input, v, first + end)
    v = v.below(first)
    top, left = (-at * d for at, d in zip((c.ky0, c.kx0), product.window.dilation, strict=True))
    pads = product.window.pads
    moved = replace(product.window, pads=(pads[0] + top, pads[1] + left, *pads[2:]))
    window = low.window_fields(moved, v, y0, x0, w_in, h_in)
    window["base"] = (window["base"] + c.c0) % low.config.act_depth
    packing = c.shape.packing
    tiles: list[Access] = [("weight", weight_base, weight_base + c.size)]
    if packing.index_bits:
        tiles.append(("index", weight_base, weight_base + c.size))
    low.emit(
        Opcode.MATRIX,
        [v.rows(begin, end), *tiles],
        [bank],
        **window,
        **c.fields(y1 - y0, x1 - x0, product.slides),
        weight_base=weight_base, index_bits=packing.index_bits, index_shift=packing.index_shift,
        acc_base=acc, accumulate=int(accumulate), padding=low.graph.tensors[c.input].quant.zero_code,
        **low.format_of(c.input),
    )  # fmt: skip


def _fir(
    low: Lowering, product: Product, f: Filter, v: View, weight_base: int, acc: int, bank: Access, accumulate: bool,
    y0: int, y1: int, x0: int, x1: int,
) -> None:  # fmt: skip
    _, w_in, _ = low.graph.tensors[f.input].shape
    first, h_in, above = low.graph.place_of(product.op, f.input, y0)
    y0, y1 = y0 - above, y1 - above
    begin, end = product.window.rows(y0, y1, h_in)
    begin = min(begin, h_in - 1)
    end = max(end, begin + 1)
    low.bring(f.input, v, first + end)
    v = v.below(first)
    # lines below `end` may not be there yet; their taps are zero
    window = low.window_fields(f.geometry.streamed, v, y0, x0, w_in, end)
    window["base"] = (window["base"] + f.word) % low.config.act_depth
    low.emit(
        Opcode.FIR,
        [v.rows(begin, end), ("weight", weight_base, weight_base + f.size)],
        [bank],
        **window,
        **f.geometry.fields(y0, y1, x0, x1),
        slice=f.slice, weight_base=weight_base, index_bits=0, index_shift=0, acc_base=acc,
        accumulate=int(accumulate), padding=low.graph.tensors[f.input].quant.zero_code,
    )  # fmt: skip


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
