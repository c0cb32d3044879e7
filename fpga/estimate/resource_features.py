"""What each component of the machine consists of: the terms that the resource model has coefficients for.

Here are the units that compute; what moves data is in fpga/estimate/resource_movement.py.
"""

from __future__ import annotations

from collections.abc import Callable

from sateen.fpga.estimate.memory_map import memory
from sateen.fpga.estimate.resource_movement import (
    activations,
    buffer,
    control,
    indices,
    load,
    registers,
    store,
)
from sateen.fpga.estimate.resource_terms import (
    Terms,
    absorbed,
    comparator,
    decoder,
    log2,
    multiplication,
    mux,
    operand_bits,
    shifter,
)
from sateen.hw.formats import circuits
from sateen.hw.matrix.accumulator import BANKS
from sateen.hw.vector.requantize import BYTE, FINE, ZERO_BITS, residual_shift_limit
from sateen.hw.window import MATRIX_ORDER, POOL_ORDER, TILED_ORDER, Widths
from sateen.machine.config import AcceleratorConfig


def _window(t: Terms, c: AcceleratorConfig, order: tuple[str, ...], address: int) -> None:
    """The loop nest with its sums."""
    w = Widths.of(c)
    bits = {"ky": w.kernel, "kx": w.kernel, "c": w.channels, "p": w.passes}
    counts = [bits.get(name, w.output) for name in order]
    _counters(t, counts)
    t.add(ff=2 * w.plane + 2)
    # the start is kept for x alone, which the outermost loop does not step; a tile's steps are a pixel's
    for width, levels, rest in (
        (address, {name for name in order if name != "p"}, 4 * address),
        (w.position, {"tile_y", "ky", "oy"} & set(order), w.dilation + w.stride),
        (w.position, {"tile_x", "kx", "ox"} & set(order), w.dilation + w.stride + min(w.position, 14)),
    ):
        t.add(
            sums=width * len(levels), sources=width * _sources(order, levels), ff=width * len(levels) + rest
        )
    t.add(inside=2 * w.position)


def _sources(order: tuple[str, ...], levels: set[str]) -> int:
    """Two-way multiplexers for a bit of all values of a sum in hw.window.NestedCounter."""
    places = [place for place, name in enumerate(order) if name in levels]
    first, last = places[0], places[-1]
    # where a step of each level leads, or what it keeps; and the start
    return last - first + (first > 0) + len(levels)


def _counters(t: Terms, widths: list[int]) -> None:
    """Levels of a loop nest: each counts down from a limit, and compares with zero and one."""
    t.add(counts=5 * sum(widths), levels=len(widths), ff=2 * sum(widths) + len(widths))


def _matrix(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    address = log2(c.act_depth)
    _window(t, c, TILED_ORDER if c.output_stationary else MATRIX_ORDER, address)
    acc, weight = c.acc_address_bits, log2(c.weight_depth)
    t.add(one=1, padding=c.act_word_bits, addresses=2 * weight + 2 * acc)
    t.add(ff=weight + 2 * acc + c.activation.bits + 3 * (c.rows + (c.lanes > 1)))
    t.ff["one"] = 1
    if c.dense_passes > 1:
        t.add(passes=1, ff=2 * log2(c.dense_passes))
    if c.indexed:
        t.add(ff=2 * c.index_planes.bit_length())
    if c.output_stationary:
        t.add(rows=log2(c.rows), results=3 * acc + weight, tiled=1)
        t.add(ff=weight + acc + 2 * log2(c.rows) + (c.lanes > 1))
        t.ff["tiled"] = 1
    else:
        t.add(waits=log2(max(c.rows, 4)), ff=log2(max(c.rows, 4)))
    return t


def _accumulator(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    width, offset = c.cols * c.acc_bits, c.acc_address_bits - 1
    for _ in range(BANKS):
        t.store(family, memory(family, width, c.acc_depth), width)
    t.add(one=1, old=width, sums=width, answer=width, address=BANKS * offset)
    t.add(ff=2 * width + 3 * (offset + 1))
    t.ff["one"] = 1
    return t


def _edge(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    rows, width = c.rows, c.group * c.activation.bits
    decoder(t, c.activation, c.multiplier, c.elements)
    decoder(t, c.weight, c.multiplier, c.cols * c.lanes)
    t.add(
        one=1,
        rows=rows,
        indices=c.cols * c.lanes * c.index_planes,
        counted=c.lanes * c.index_bits * c.indexed,
    )
    t.add(ff=c.elements * operand_bits(c.activation, c.multiplier)
          + c.cols * c.lanes * c.weight.bits + 2 * rows + (c.lanes > 1))  # fmt: skip
    if c.indexed:
        t.add(ff=c.index_planes * c.cols * c.lanes + (c.index_bits - c.index_planes) * c.lanes)
    else:  # the same for all
        t.add(ff=log2(c.dense_passes) + (c.index_bits > 0 and c.lanes > 1))
    t.ff["one"] = 1
    if c.output_stationary:
        t.add(held=rows * rows * width, entering=rows * width, switch=1, switched_rows=rows, first=width)
        t.add(ff=(rows - 1) * c.act_word_bits + rows * rows * width + log2(max(rows, 2)) + 2 * (c.lanes > 1))
        t.ff["tiled"] = 1
    else:
        t.add(ff=rows * (rows - 1) // 2 * width)
    return t


def _element(c: AcceleratorConfig, family: str, first: bool = False) -> Terms:
    t = Terms()
    a, w = circuits(c.activation).operand(c.multiplier), circuits(c.weight).operand(c.multiplier)
    lanes, acc = c.lanes, c.acc_bits
    product = a.significand_bits + w.significand_bits
    top = a.max_exponent + w.max_exponent
    multiplication(t, family, a.significand_bits, w.significand_bits, lanes)
    unsigned = not (c.activation.signed or c.weight.signed)
    product -= 2 * unsigned
    t.add(one=1)
    if not first or c.output_stationary:
        # the carry alone goes on above what is never negative: no LUT where the carry has its own input
        t.add(sum=product + log2(lanes) if unsigned and family == "xcup" else acc)
    if c.output_stationary:
        t.add(own=acc, discard=lanes)
    if c.group > lanes:
        t.add(**{f"choice_of_{1 << c.index_bits}": lanes * operand_bits(c.activation, c.multiplier)})
    shifted = product
    if top:
        shifted = min(product + top, acc)
        t.add(
            shift=lanes * shifter(product, top, shifted), shifted=lanes * shifted, ff=lanes * top.bit_length()
        )
        if a.max_exponent and w.max_exponent:
            t.add(exponent=lanes * top.bit_length())
    if lanes > 1:  # all but two are first made two without a carry
        t.add(lanes=shifted + 1, saved=(lanes - 2) * (shifted + 1), ff=shifted + log2(lanes))
    kept = 0 if absorbed(family, a.significand_bits, w.significand_bits) else product
    t.add(ff=lanes * (operand_bits(c.weight, c.multiplier) + c.index_bits + kept))
    total = shifted + log2(lanes)
    t.add(ff=min(acc, total) if first and not c.output_stationary else acc)
    return t


def _first_element(c: AcceleratorConfig, family: str) -> Terms:
    return _element(c, family, first=True)


def _vector(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    lanes, bits, address = c.vector_lanes, c.activation.bits, log2(c.act_depth)
    steps = c.cols // lanes
    acc, parameter = c.acc_address_bits, log2(c.parameter_depth)
    codes = circuits(c.activation)
    t.add(one=1, acc=lanes * c.acc_bits * mux(family, steps), written=c.act_word_bits, addresses=2 * address,
          steps=steps, parameter=parameter, acc_address=2 * acc, walk=4 * address,
          residual=c.residual * lanes * bits * mux(family, c.elements // lanes), residual_walk=4 * c.residual * address,
          slices=c.slices if c.slices > 1 else 0)  # fmt: skip
    _counters(t, [c.output_bits] * 2)
    if codes.normaliser_stages:
        t.add(bounds=2 * c.activation.fixed_bits * (1 + codes.normaliser_stages))
    t.add(ff=lanes * (c.acc_bits + c.parameter_bits) + c.cols * bits + 4 * address * (1 + c.residual) + acc
          + parameter + log2(steps) * 4 + log2(c.slices) + 2 * c.activation.fixed_bits
          + 2 * codes.bound_shape.width + c.residual + 2 * (codes.requantize_latency + c.table))  # fmt: skip
    t.ff["one"] = 1
    if family == "xcup":  # shift registers without a reset are LUTs there
        t.add(ff=-2 * (codes.requantize_latency + c.table + 2))
    if c.table:
        found = memory(family, bits, 1 << bits)
        for _ in range(lanes):
            t.store(family, found, bits)
        t.add(table=lanes * bits, ff=lanes * bits + 2)
    return t


def _requantizer(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    fmt = c.activation
    acc, limit, fixed = c.acc_bits, residual_shift_limit(c), fmt.fixed_bits
    codes = circuits(fmt)
    residual = max(fixed, ZERO_BITS) + 1 if fmt.uniform else fixed
    shifted = residual + min(limit, BYTE - 1) if limit else residual
    distance = max(1, limit.bit_length())
    product, addend = acc + 17, shifted + 16
    aligned = residual + 16 + limit
    total = max(product, aligned) + 1 if c.residual else product
    bits = max(fixed, ZERO_BITS) + 1 if fmt.uniform else fixed
    window = bits + BYTE
    steps = min(-(-(total + 1) // BYTE), 1 << 7 - FINE)
    parts = -(-(acc + 1) // 47)  # operands of 47 bits
    low = -(-(acc + 1) // parts)
    for _ in range(parts - 1):
        multiplication(t, family, low, 16, signed=False)
    multiplication(t, family, acc + 1 - low * (parts - 1), 17)
    coarse = max(0, distance - FINE)  # its fine part is used before the first register
    t.add(one=1, bias=acc + 1, product=product * (parts - 1), total=total, window=window * mux(family, steps),
          lost=total, fine=window * 3, choices=16 + 7)  # fmt: skip
    t.add(ff=acc + 1 + 16 + 7 + 7 + total + 7 + window + 6)
    t.add(ff=0 if absorbed(family, acc + 1, 17) else product)
    if c.residual:
        multiplication(t, family, shifted, 17)
        t.add(residual=shifted * min(3, distance), align=aligned * mux(family, limit // BYTE + 1))
        t.add(ff=shifted + 2 * coarse + (0 if absorbed(family, shifted, 17) else addend))
        if fmt.uniform:
            t.add(zero=residual)
        else:
            t.add(decode=fixed * codes.exponent_bits)
    if not fmt.uniform:
        mantissa, exponent = codes.significand.significand_bits - 2, codes.normaliser_stages
        t.add(floating=1, magnitude=bits, code=fmt.bits,
              normalise=(bits + 1) * exponent)  # fmt: skip
        t.add(ff=bits + 4 + fmt.bits + mantissa + 2 + exponent + 3)
        t.add(ff=max(fmt.bits, exponent + mantissa + 1) + 2 + fmt.bits + 8)
    else:
        t.add(integer=1, rounded=bits + 1, clamp=fixed)
        t.add(ff=max(bits + 1, ZERO_BITS + 1) + 2 + fmt.bits + 6)
    return t


def _pool(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    address = log2(c.act_depth)
    _window(t, c, POOL_ORDER, address)
    t.add(one=1, walk=6 * address, best=c.act_word_bits)
    t.add(**{name: c.elements * n for name, n in comparator(c.activation).items()})
    t.add(ff=c.act_word_bits + 5 * address)
    t.ff["one"] = 1
    return t


TERMS: dict[str, Callable[[AcceleratorConfig, str], Terms]] = {
    "registers": registers,
    "control": control,
    "activations": activations,
    "weights": lambda c, family: buffer(c.weight_word_bits, c.weight_depth, family),
    "indices": indices,
    "parameters": lambda c, family: buffer(c.vector_lanes * c.parameter_bits, c.parameter_depth, family),
    "load": load,
    "store": store,
    "matrix": _matrix,
    "accumulator": _accumulator,
    "edge": _edge,
    "first_element": _first_element,
    "element": _element,
    "vector": _vector,
    "requantizer": _requantizer,
    "pool": _pool,
}

INSTANCES: dict[str, Callable[[AcceleratorConfig], int]] = dict.fromkeys(TERMS, lambda c: 1) | {
    "indices": lambda c: int(c.indexed),
    "first_element": lambda c: c.cols,
    "element": lambda c: (c.rows - 1) * c.cols,
    "requantizer": lambda c: c.vector_lanes,
}
"""How many of each component a machine has."""
