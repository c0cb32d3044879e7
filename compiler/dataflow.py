"""How a layer is cut and computed, in either dataflow, and what that takes by the exact cycle model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sateen.compiler.tiles import Chunk, Shape, chunks, tile_shape
from sateen.config import OUTPUT_STATIONARY, AcceleratorConfig
from sateen.hw.matrix import matrix_cycles


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
    chunks: list[list[Chunk]]
    """For each output tile."""
    cycles: int
    """Of all its MATRIX instructions."""

    def spans(self, r0: int, r1: int, width: int) -> list[tuple[int, int, int, int]]:
        """Accumulator tiles (y0, y1, x0, x1) of rows [r0, r1)."""
        return [
            (y, min(y + self.tile_h, r1), x, min(x + self.tile_w, width))
            for y in range(r0, r1, self.tile_h)
            for x in range(0, width, self.tile_w)
        ]


def plan(
    sources: Sequence[Sequence[Source]], stripes: Sequence[tuple[int, int]], width: int, config: AcceleratorConfig,
    dataflow: str, slide: bool,
) -> Plan:  # fmt: skip
    """Cut a layer for one dataflow.

    Parameters
    ----------
    sources : for each output tile, one for each input
    stripes : output rows [low, high) that are computed before the next ones
    width : output columns
    slide : a tap is the neighbouring pixel's next (stride and dilation are equal)
    """
    sizes = [sum(s.shape.size(config, dataflow) for s in per) for per in sources]
    rows = stripes[0][1] - stripes[0][0]
    largest = sources[int(np.argmax(sizes))]
    tile_h, tile_w = _tile(rows, width, [s.shape for s in largest], config, dataflow)
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
    layer = Plan(dataflow, tile_h, tile_w, mode, cut, 0)
    cycles = sum(
        matrix_cycles(c.fields(y1 - y0, x1 - x0, slide), config)
        for low, high in stripes
        for y0, y1, x0, x1 in layer.spans(low, high, width)
        for per in cut
        for c in per
    )
    return Plan(dataflow, tile_h, tile_w, mode, cut, cycles)


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
        drain = pixels * (c.cols // c.vector_lanes) + 12
        cost = -(-rows // h) * max(matrix, drain) + drain
        if best is None or cost < best[0]:
            best = (cost, h)
    assert best is not None
    return best[1], width
