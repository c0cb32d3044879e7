"""Products of two computed tensors, head by head: a MOVE fills weight tiles while those before it are multiplied.

Where weights are narrower than activations, a code is two digits: tiles of high digits come first, then those of low
ones, the first of which multiplies what was summed by what a high digit counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sateen.compiler.schedule.emitter import View
from sateen.compiler.schedule.products import Product, computed_product
from sateen.compiler.schedule.tiles import even, output_tiles
from sateen.hw.matrix.unit import matrix_cycles
from sateen.ir.heads import INPUT, OUTPUT, WEIGHT
from sateen.ir.quantized import MatMul
from sateen.machine.array import WEIGHT_STATIONARY
from sateen.machine.isa import Opcode

if TYPE_CHECKING:
    from sateen.compiler.schedule.lower import Lowering


def lower_matmul(low: Lowering, op: MatMul) -> None:
    heads, stacked = op.batch.heads, not op.batch.in_channels[OUTPUT]
    product = computed_product(op)
    parameter_base = low.tile_parameters(product, output_tiles(len(op.bias), low.config))
    low.load_table(op)
    cycles = 0
    for r0, r1, views in low.stripe_views(op):
        for y in range(r0, r1):
            for head in (y % heads,) if stacked else range(heads):
                group = y // heads if stacked else y
                cycles += _head(low, product, op, views, parameter_base, y, group, head)
            if low.must_store(op.output):
                low.transfer(Opcode.STORE, op.output, views[op.output], y, y + 1)
    low.choices[low.layer] = WEIGHT_STATIONARY, {WEIGHT_STATIONARY: cycles}


def _head(
    low: Lowering, product: Product, op: MatMul, views: dict[str, View], parameter_base: Callable[[int], int], y: int,
    group: int, head: int,
) -> int:  # fmt: skip
    """One product of two matrices, row y of the output or a run of its channels. The cycles of its MATRIXs."""
    config, batch = low.config, op.batch
    shapes = {t: low.graph.tensors[t].shape for t in (*op.inputs, op.output)}
    sizes = [batch.split(k, shapes[t]) for k, t in enumerate((op.input, op.weight, op.output))]
    rows = [group if inside else group * batch.heads + head for inside in batch.in_channels]
    first = [head * size[3] if inside else 0 for inside, size in zip(batch.in_channels, sizes, strict=True)]
    x, w = views[op.input], views[op.weight]
    for t, row in zip((op.input, op.weight), rows, strict=False):
        low.bring(t, views[t], row + 1)
    width, outputs = sizes[OUTPUT][2:]
    words, tile = -(-op.reduction // config.elements), config.rows * config.dense_passes
    step = even(words, max(config.weight_depth // 4 // tile, 1))
    span = even(width, config.acc_depth)
    digits = (1, 0) if config.digits else (0,)  # which is high
    kept = len(digits) * words * tile <= config.weight_depth // 2  # for all spans
    parts = [(high, c0, min(c0 + step, words)) for high in digits for c0 in range(0, words, step)]
    cycles = 0
    for j in range(output_tiles(outputs, config)):
        bases: dict[tuple[int, int], int] = {}
        for x0 in range(0, width, span):
            x1 = min(x0 + span, width)
            acc, bank = low.acc_bank * config.acc_depth, ("acc", low.acc_bank, low.acc_bank + 1)
            low.acc_bank ^= 1
            for n, (high, c0, c1) in enumerate(parts):
                if (high, c0) not in bases or not kept:
                    bases[high, c0] = low.weights.take((c1 - c0) * tile)
                    _move(low, op, w, rows[WEIGHT], first[WEIGHT], j, c0, c1, bases[high, c0], high)
                weight_base = bases[high, c0]
                fields = {"kernel_h": 1, "kernel_w": 1, "channel_words": c1 - c0, "passes": config.dense_passes,
                          "out_h": 1, "out_w": x1 - x0, "output_stationary": 0}  # fmt: skip
                cycles += matrix_cycles(fields, config)
                base = x.base + rows[INPUT] * x.row + x0 * x.cw + first[INPUT] // config.elements + c0
                low.emit(
                    Opcode.MATRIX,
                    [x.rows(rows[INPUT], rows[INPUT] + 1), ("weight", weight_base, weight_base + (c1 - c0) * tile)],
                    [bank],
                    base=base % config.act_depth, step_x=x.cw % config.act_depth, in_w=x1 - x0, in_h=1,
                    stride_x=1, stride_y=1, dilation_x=1, dilation_y=1, weight_base=weight_base, acc_base=acc,
                    accumulate=int(n > 0), shifted=int(n > 0 and not high and c0 == 0),
                    padding=low.graph.tensors[op.input].quant.zero_code, **fields,
                )  # fmt: skip
            k = first[OUTPUT] // config.cols + j
            low.drain(product, k, views, parameter_base(k), acc, bank, y, y + 1, x0, x1)
    return cycles


def _move(
    low: Lowering, op: MatMul, v: View, row: int, channel: int, j: int, c0: int, c1: int, weight_base: int, high: int
) -> None:  # fmt: skip
    """Words [c0, c1) of the reduction, of output tile j, from the matrix that begins in `row` at `channel`."""
    config = low.config
    _, _, pixels, _ = op.batch.split(WEIGHT, low.graph.tensors[op.weight].shape)
    column, element = j * config.cols, c0 * config.elements
    if op.batch.transposed:
        origin = column * v.cw + channel // config.elements + c0
        fields = {"transposed": 1, "columns": min(config.cols, pixels - column)}
    else:
        word, part = divmod(channel // config.cols + j, config.slices)
        origin, fields = element * v.cw + word, {"slice": part}
    size = (c1 - c0) * config.rows * config.dense_passes
    low.emit(
        Opcode.MOVE, [v.rows(row, row + 1)], [("weight", weight_base, weight_base + size)],
        base=(v.base + row * v.row + origin) % config.act_depth, step=v.cw % config.act_depth,
        destination=weight_base, words=c1 - c0, high=high,
        reduction=min(op.reduction - element, (c1 - c0) * config.elements), **fields,
    )  # fmt: skip
