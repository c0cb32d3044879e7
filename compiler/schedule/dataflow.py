"""How a layer is cut and computed, in each way that the machine has, and what that takes by the exact cycle model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.schedule.filters import Filter, filter_tile, geometries
from sateen.compiler.schedule.tiles import Chunk, Shape, chunks, output_tiles, tile_shape
from sateen.hw.matrix.unit import matrix_cycles
from sateen.ir.quantized import Linear
from sateen.machine.config import DEPTHWISE, OUTPUT_STATIONARY, AcceleratorConfig
from sateen.machine.isa import Target
from sateen.sim.memory_timing import NOMINAL, load_timing

Span = tuple[int, int, int, int]
"""An accumulator tile: output rows [y0, y1) and columns [x0, x1), as (y0, y1, x0, x1)."""


@dataclass(frozen=True, slots=True)
class Source:
    """Weights of one output tile on one input, (KH, KW, words * elements, cols) codes from channel word `word0` on."""

    input: str
    dense: np.ndarray
    word0: int
    shape: Shape

    @classmethod
    def of(cls, input: str, dense: np.ndarray, word0: int, config: AcceleratorConfig) -> Source:
        return cls(input, dense, word0, tile_shape(dense, config))


@dataclass(frozen=True, slots=True)
class Plan:
    """One layer: its output rows in `stripes`, cut into accumulator tiles of at most tile_h × tile_w pixels."""

    dataflow: str
    tile_h: int
    tile_w: int
    mode: str
    """Weights are loaded once ("resident"), once for each stripe ("tile") or for each accumulator tile ("chunk")."""
    chunks: Sequence[Sequence[Chunk | Filter]]
    """For each output tile."""
    cycles: int
    """Of all its MATRIX or FIR instructions."""
    time: int
    """Cycles in which the slowest unit is busy, one accumulator tile after the other. Loads count where they are
    repeated for each, in the nominal memory: a bus that is slower or wider has other best cuts."""
    sample: int = 0
    """Output rows of a sample, where no tile reaches into the next one; 0 where all rows are alike."""

    def spans(self, r0: int, r1: int, width: int) -> list[Span]:
        """Accumulator tiles of rows [r0, r1)."""
        edge = self.sample or r1
        ends = [(low, min(low + edge - low % edge, r1)) for low in _begins(r0, r1, edge)]
        return [
            (y, min(y + self.tile_h, high), x, min(x + self.tile_w, width))
            for low, high in ends
            for y in range(low, high, self.tile_h)
            for x in range(0, width, self.tile_w)
        ]

    def together(self, spans: Sequence[Span], config: AcceleratorConfig) -> list[list[Span]]:
        """Runs of spans that a chunk of weights meets one after the other: samples that share an accumulator bank."""
        found: list[list[Span]] = []
        room = 0
        for span in spans:
            pixels = _pixels(span)
            if self.mode != "chunk" or not self.sample or pixels > room:
                found.append([])
                room = config.acc_depth
            found[-1].append(span)
            room -= pixels
        return found


def _begins(r0: int, r1: int, edge: int) -> list[int]:
    """r0, and every multiple of `edge` between it and r1."""
    return [r0, *range(r0 + edge - r0 % edge, r1, edge)]


def _pixels(span: Span) -> int:
    y0, y1, x0, x1 = span
    return (y1 - y0) * (x1 - x0)


def plan(
    sources: Sequence[Sequence[Source]], stripes: Sequence[tuple[int, int]], width: int, config: AcceleratorConfig,
    dataflow: str, slide: bool, sample: int = 0,
) -> Plan:  # fmt: skip
    """Cut a layer for one dataflow.

    Parameters
    ----------
    sources : for each output tile, one for each input
    stripes : output rows [low, high) that are computed before the next ones
    width : output columns
    slide : a tap is the neighbouring pixel's next (stride and dilation are equal)
    sample : as `Plan.sample`
    """
    sizes = [sum(s.shape.size(config, dataflow) for s in per) for per in sources]
    rows = stripes[0][1] - stripes[0][0]
    largest = sources[int(np.argmax(sizes))]
    within = min(rows, sample or rows)
    tile_h, tile_w = _tile(within, width, [s.shape for s in largest], config, dataflow)
    once = len(stripes) == 1 and tile_h >= rows and tile_w >= width
    half, quarter = config.weight_depth // 2, config.weight_depth // 4

    def pieces(k: int, s: Source, limit: int) -> list[Chunk]:
        return chunks(k, s.input, s.shape, s.word0, limit, config, dataflow)

    cut = [[c for k, s in enumerate(per) for c in pieces(k, s, half)] for per in sources]
    space = [sum(c.space(config) for c in per) for per in cut]
    if sum(space) <= config.weight_depth and not once:
        mode = "resident"
    elif max(space) <= half and not once:
        mode = "tile"
    else:
        mode, limit = "chunk", max(quarter, config.rows * config.dense_passes)
        cut = [[c for k, s in enumerate(per) for c in pieces(k, s, limit)] for per in sources]
    heights = [tile_h]
    if mode == "chunk" and tile_w == width:  # fewer tiles load the weights less often
        tallest = config.acc_depth // width
        heights += sorted(
            {-(-within // n) for n in range(1, within + 1)} & set(range(tile_h + 1, tallest + 1))
        )
    plans = [
        _timed(Plan(dataflow, h, tile_w, mode, cut, 0, 0, sample), cut, stripes, width, config, slide)
        for h in heights
    ]
    return min(plans, key=lambda p: p.time)


def plan_filters(
    op: Linear, stripes: Sequence[tuple[int, int]], plane: tuple[int, int], out: tuple[int, int],
    config: AcceleratorConfig, sample: int = 0,
) -> Plan | None:  # fmt: skip
    """Cut a depthwise layer for FIR; None where its kernel does not fit.

    `plane` and `out` are (height, width) of a sample, `sample` is as `Plan.sample`.
    """
    tiles, rows = output_tiles(op.weight.shape[0], config), stripes[0][1] - stripes[0][0]
    best = None
    for width, geometry in geometries(op.window, plane, out, config):
        space = -(-geometry.passes * config.rows // config.index_rows) * config.index_rows
        parts = [geometry]
        if space > config.weight_depth // 2:
            parts = geometry.parts(config.weight_depth // 4, config)
            if parts[0].passes * config.rows > config.weight_depth // 4:
                continue
        within = min(rows, sample or rows)
        fewest = -(-within // min(within, config.acc_depth // width))
        for height in sorted({-(-within // n) for n in range(fewest, min(within, fewest + 3) + 1)}):
            once = len(stripes) == 1 and height >= rows and width >= out[1]
            together = "tile" if space * tiles > config.weight_depth else "resident"
            mode = "chunk" if once or len(parts) > 1 else together
            layer = Plan(DEPTHWISE, height, width, mode, [], 0, 0, sample)
            spans = [s for low, high in stripes for s in layer.spans(low, high, out[1])]
            load = sum(_words_cycles(p.passes * config.rows, config) for p in parts) if mode == "chunk" else 0
            cycles = time = 0
            for y0, y1, x0, x1 in spans:
                top = y0 - y0 % sample if sample else 0
                fir = sum(p.cycles(y0 - top, y1 - top, x0, x1, config) for p in parts)
                cycles += tiles * fir
                time += tiles * max(fir + len(parts), load, _drain_cycles((y1 - y0) * (x1 - x0), config))
            if best is None or (time, cycles) < (best[0].time, best[0].cycles):
                best = replace(layer, cycles=cycles, time=time), parts
    if best is None:
        return None
    layer, parts = best
    return replace(layer, chunks=[[filter_tile(op, j, p, config) for p in parts] for j in range(tiles)])


def _timed(
    layer: Plan, cut: Sequence[Sequence[Chunk]], stripes: Sequence[tuple[int, int]], width: int,
    config: AcceleratorConfig, slide: bool,
) -> Plan:  # fmt: skip
    """With its `cycles` and `time`."""
    sizes = Counter(
        tuple((y1 - y0, x1 - x0) for y0, y1, x0, x1 in group)
        for low, high in stripes
        for group in layer.together(layer.spans(low, high, width), config)
    )
    cycles = time = 0
    for per in cut:
        load = sum(_load_cycles(c, config) for c in per) if layer.mode == "chunk" else 0
        for group, count in sizes.items():
            matrix = sum(matrix_cycles(c.fields(h, w, slide), config) for h, w in group for c in per)
            cycles += count * matrix
            time += count * max(matrix, load, sum(_drain_cycles(h * w, config) for h, w in group))
    return replace(layer, cycles=cycles, time=time)


def _words_cycles(words: int, config: AcceleratorConfig) -> int:
    """Of a LOAD of weights."""
    return load_timing(0, 0, words, Target.WEIGHT, config, NOMINAL).done


def _load_cycles(c: Chunk, config: AcceleratorConfig) -> int:
    cycles = _words_cycles(c.size, config)
    if bits := c.shape.packing.index_bits:
        words = -(-c.size // config.index_rows) * bits
        cycles += load_timing(0, 0, words, Target.INDEX, config, NOMINAL).done
    return cycles


def _drain_cycles(pixels: int, config: AcceleratorConfig) -> int:
    """Close to hw/vector/unit.py's: what is behind the last pixel is left open there."""
    return pixels * (config.cols // config.vector_lanes) + 12


def _tile(
    rows: int, width: int, shapes: Sequence[Shape], config: AcceleratorConfig, dataflow: str
) -> tuple[int, int]:
    """Rows and columns of an accumulator tile: few tiles waste few start-ups, small ones drain sooner."""
    c = config
    if width > c.acc_depth:
        return 1, -(-width // -(-width // c.acc_depth))
    tallest = min(rows, c.acc_depth // width)
    passes = sum(s.kh * s.kw * s.words * s.passes for s in shapes)
    overhead = c.rows + 12  # cycles of a MATRIX beside its passes
    best = None
    for parts in range(-(-rows // tallest), rows + 1):
        h = -(-rows // parts)
        pixels = h * width
        if dataflow == OUTPUT_STATIONARY:
            runs = h * -(-width // c.rows)
            matrix = runs * (sum(s.size(c, dataflow) for s in shapes) + c.rows) + overhead
        else:
            matrix = passes * max(pixels, c.rows) + overhead
        drain = _drain_cycles(pixels, c)
        cost = -(-rows // h) * max(matrix, drain) + drain
        if best is None or cost < best[0]:
            best = (cost, h)
    assert best is not None
    return best[1], width
