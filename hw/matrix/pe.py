"""The processing element: `lanes` multipliers that add into one partial sum.

A row's group of activations is common to all its elements; each lane multiplies one of them, or of its own part of
them, picked by the index stored with its weight, or its own where the group has as many elements as there are lanes.
"""

from amaranth.hdl import Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from sateen.formats import Format
from sateen.hw.formats import Either, circuits, either
from sateen.hw.library.arithmetic import multiply_signed, multiply_signed_path, multiply_signed_terms
from sateen.hw.terms import Component, Delays, Technology, Terms
from sateen.machine.config import AcceleratorConfig


def weight_layout(weight: Either, index_bits: int) -> data.StructLayout:
    """A decoded weight with its index (0 bits wide where every lane has its own element)."""
    return data.StructLayout({"operand": weight.shape, "index": unsigned(index_bits)})


def index_bits(lanes: int, group: int, split: bool) -> int:
    return 0 if group == lanes else (group // (lanes if split else 1) - 1).bit_length()


def pe_latency(lanes: int) -> int:
    """Cycles from the activations to the partial sum: product, sum of several lanes, accumulation."""
    return 2 + (lanes > 1)


def _product_shape(
    multiplier: str, activation: Format, weight: Format, gradient: Format | None
) -> tuple[int, int]:
    """Bits of a product of two significands, and its largest exponent."""
    pairs = [(activation, weight)]
    if gradient:
        pairs += [(activation, gradient), (gradient, weight)]
    operands = [tuple(circuits(fmt).operand(multiplier) for fmt in pair) for pair in pairs]
    # w_a + w_w bits hold every product of two's complement numbers
    bits = max(a.significand_bits + w.significand_bits for a, w in operands)
    return bits, max(a.max_exponent + w.max_exponent for a, w in operands)


class PE(wiring.Component):
    """One processing element: of a weight-stationary column, or one that keeps a sum of its own.

    Parameters
    ----------
    lanes, group : int
        Multipliers, and activations to pick from.
    split : bool
        Each lane picks from the group / lanes activations of its own part of the group.
    activation, weight : Format
    multiplier : str
        "fixed": operands are fixed-point integers, a product is one multiplication. "shift": significands are
        multiplied, and the product is shifted by the sum of the exponents.
    acc_bits : int
        Width of the partial sum. Sums wrap there, so they are exact if the final sum fits.
    luts : bool
        Products are circuits of LUTs; otherwise synthesis chooses, which takes DSPs.
    own_sums : bool
        Build the switch that lets the element add to its own sum.
    depthwise : bool
        Build the switch that lets lane 0 multiply an element that is common to the column.
    gradient : Format, optional
        Operands are as wide as this format's, too; of a product at most one operand is.

    Members
    -------
    activations : In
        The row's group of decoded operands.
    weights : In
        `lanes` decoded weights with indices, taken at `load`. An activation of the same cycle meets the
        old ones.
    load : In(1)
    accumulate : In(1)
        Take psum_in + the products of the activations that came `latency` - 1 cycles before. `psum` is kept otherwise.
    psum_in : In(signed(acc_bits))
        Belongs to `accumulate`: one cycle before `psum`, hence the skew of a cycle per row.
    psum : Out(signed(acc_bits))
    discard, own, fresh : In(1)
        Only if `own_sums`. The products of this cycle's activations are zero (`discard`). With `accumulate`,
        take `psum` in the place of `psum_in` (`own`), or zero (`fresh`).
    filter : In(1)
    column : In
        Only if `depthwise`. With `filter`, lane 0 multiplies `column` in the place of one of `activations`.
    """

    initiation_interval = 1

    def __init__(
        self,
        *,
        lanes: int,
        group: int,
        split: bool = False,
        activation: Format,
        weight: Format,
        multiplier: str,
        acc_bits: int,
        luts: bool = False,
        own_sums: bool = False,
        depthwise: bool = False,
        gradient: Format | None = None,
    ):
        if lanes < 1 or group < lanes or group % lanes:
            raise ValueError(f"group must be a multiple of lanes = {lanes}, not {group!r}")
        self.lanes = lanes
        self.group = group
        self.split = split
        also = (gradient,) if gradient else ()
        decoded, weights = either(multiplier, activation, *also), either(multiplier, weight, *also)
        self.a, self.w = decoded.operand, weights.operand
        self.bits, self.top = _product_shape(multiplier, activation, weight, gradient)
        self.acc_bits = acc_bits
        self.luts = luts
        self.own_sums = own_sums
        self.depthwise = depthwise
        entry = weight_layout(weights, index_bits(lanes, group, split))
        switch = {"discard": In(1), "own": In(1), "fresh": In(1)} if own_sums else {}
        if depthwise:
            switch |= {"filter": In(1), "column": In(decoded.shape)}
        super().__init__(
            {
                "activations": In(data.ArrayLayout(decoded.shape, group)),
                "weights": In(data.ArrayLayout(entry, lanes)),
                "load": In(1),
                "accumulate": In(1),
                "psum_in": In(signed(acc_bits)),
                "psum": Out(signed(acc_bits)),
            }
            | switch
        )

    @property
    def latency(self) -> int:
        """Cycles from the activations to `psum`."""
        return pe_latency(self.lanes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        products = [self._product(m, lane) for lane in range(self.lanes)]
        total = products[0]
        if self.lanes > 1:
            # In a register, so that synthesis builds two short adders, not one of three operands: 50 LUTs, not 95
            # (int8, 2 lanes, ECP5). total: w_product + ceil_log2(lanes) bits, exact
            sum_of_lanes = sum(products[1:], products[0])
            total = Signal(signed(len(products[0]) + (self.lanes - 1).bit_length()), reset_less=True)
            m.d.sync += total.eq(sum_of_lanes)
        addend = self.psum_in
        if self.own_sums:
            addend = Mux(self.fresh, 0, Mux(self.own, self.psum, self.psum_in))
        with m.If(self.accumulate):
            m.d.sync += self.psum.eq(addend + total)  # back to acc_bits: exact modulo 2**acc_bits
        return m

    def _product(self, m: Module, lane: int) -> Value:
        """One lane: its weight register, its choice of activation and its product, registered."""
        weight = Signal(self.weights[lane].shape(), name=f"weight_{lane}", reset_less=True)
        with m.If(self.load):
            m.d.sync += weight.eq(self.weights[lane])
        activation = self._pick(lane, weight.index)
        if self.depthwise and lane == 0:
            activation = Mux(self.filter, Value.cast(self.column), activation)
        a_significand, a_exponent = self.a.parts(activation)
        w_significand, w_exponent = self.w.parts(weight.operand)

        bits = self.bits
        # `keep`: of two lanes that are added, Yosys' ice40_dsp (0.69) gives one's register to both DSPs and loses it
        attributes = {"keep": 1} if self.lanes > 1 else {}
        product = Signal(signed(bits), name=f"product_{lane}", reset_less=True, attrs=attributes)
        # without an enable, as `accumulate` picks its cycle: then a DSP's own register can take it
        if self.luts:
            m.d.sync += product.eq(multiply_signed(m, a_significand, w_significand))
        else:
            m.d.sync += product.eq(a_significand * w_significand)
        if self.own_sums:
            with m.If(self.discard):  # last, as a reset of the flip-flops
                m.d.sync += product.eq(0)
        top = self.top
        if top == 0:
            return product
        # the shift waits for the second stage: an exponent takes fewer flip-flops than a shifted product
        exponent = Signal(range(top + 1), name=f"exponent_{lane}", reset_less=True)
        m.d.sync += exponent.eq(a_exponent + w_exponent)
        shifted = Signal(signed(min(bits + top, self.acc_bits)), name=f"shifted_{lane}")
        m.d.comb += shifted.eq(
            product << exponent
        )  # at most bits + top; above acc_bits only the sum has to fit
        return shifted

    def _pick(self, lane: int, index: Value) -> Value:
        elements = [Value.cast(self.activations[k]) for k in range(self.group)]
        if self.group == self.lanes:
            return elements[lane]
        if self.split:
            part = self.group // self.lanes
            elements = elements[lane * part : (lane + 1) * part]
        elements += [elements[-1]] * ((1 << len(index)) - len(elements))
        for bit in index:  # a tree of two-way multiplexers is smaller than an Array
            elements = [Mux(bit, high, low) for low, high in zip(elements[::2], elements[1::2], strict=True)]
        return elements[0]


def _terms(c: AcceleratorConfig, t: Terms, first: bool = False, luts: bool = False) -> None:
    activation, weight = either(c.multiplier, *c.results), either(c.multiplier, c.weight, *c.results[1:])
    a, w = activation.operand, weight.operand
    lanes, acc = c.lanes, c.acc_bits
    gradient = c.gradient if c.own_gradients else None
    product, top = _product_shape(c.multiplier, c.activation, c.weight, gradient)
    if luts:
        multiply_signed_terms(a.significand_bits, w.significand_bits, lanes, t)
    else:
        t.multiply(a.significand_bits, w.significand_bits, lanes)
    unsigned = not (c.activation.signed or c.weight.signed)
    product -= 2 * unsigned
    t.add(one=1)
    if not first or c.own_sums:
        # the carry alone goes on above what is never negative: no LUT where the carry has its own input
        t.add(sum=product + ceil_log2(lanes) if unsigned and t.technology.carry_input else acc)
    if c.own_sums:
        t.add(own=acc, discard=lanes)
    if c.depthwise:
        t.add(filter=activation.bits)
    if c.group > lanes:
        t.add(**{f"choice_of_{1 << c.index_bits}": lanes * activation.bits})
    shifted = product
    if top:
        shifted = min(product + top, acc)
        t.add(
            shift=lanes * _shifter(product, top, shifted),
            shifted=lanes * shifted,
            ff=lanes * top.bit_length(),
        )
        if a.max_exponent and w.max_exponent:
            t.add(exponent=lanes * top.bit_length())
    if lanes > 1:  # all but two are first made two without a carry
        t.add(lanes=shifted + 1, saved=(lanes - 2) * (shifted + 1), ff=shifted + ceil_log2(lanes))
    kept = 0 if not luts and t.technology.absorbed(a.significand_bits, w.significand_bits) else product
    t.add(ff=lanes * (weight.bits + c.index_bits + kept))
    total = shifted + ceil_log2(lanes)
    t.add(ff=min(acc, total) if first and not c.own_sums else acc)


def _first_terms(c: AcceleratorConfig, t: Terms) -> None:
    """Nothing comes from above: no adder."""
    _terms(c, t, first=True)


def _lut_terms(c: AcceleratorConfig, t: Terms) -> None:
    _terms(c, t, luts=True)


def _first_lut_terms(c: AcceleratorConfig, t: Terms) -> None:
    _terms(c, t, first=True, luts=True)


def _shifter(width: int, most: int, shifted: int) -> int:
    """Two-way multiplexers of a shift to the left by 0 to `most`, of `width` bits to `shifted`."""
    return sum(min(width + (2 << level) - 1, shifted) for level in range(most.bit_length()))


def _paths(c: AcceleratorConfig, d: Delays) -> dict[str, float]:
    a, w = circuits(c.activation).operand(c.multiplier), circuits(c.weight).operand(c.multiplier)
    shifts = (a.max_exponent + w.max_exponent).bit_length()
    bits = a.significand_bits, w.significand_bits
    multiply = max(
        d.multiply(*bits) if c.lut_columns < c.cols else 0.0,
        multiply_signed_path(*bits, d) if c.lut_columns else 0.0,
    )
    return {
        "product": d.register + d.select(c.group // c.lanes) + _filter_path(c, d) + multiply,
        "element": d.register
        + max(
            d.lut * shifts + d.carry(c.acc_bits) * (1 + (c.lanes > 1)),
            circuits(c.weight).decode_path(c.multiplier, d),
        ),
    }


def _filter_path(c: AcceleratorConfig, d: Delays) -> float:
    """ns from an element of the word to what lane 0 chooses between."""
    return d.lut + d.select(c.slices) if c.depthwise else 0.0


def _blocks(c: AcceleratorConfig, technology: Technology) -> int:
    a, w = (circuits(f).operand(c.multiplier).significand_bits for f in (c.activation, c.weight))
    return c.lanes * technology.dsps(a, w)


FIRST_ELEMENT = Component(
    "first_element",
    (PE,),
    _first_terms,
    instances=lambda c: c.cols - c.lut_columns,
    paths=_paths,
    blocks=_blocks,
)
ELEMENT = Component(
    "element",
    (PE,),
    _terms,
    instances=lambda c: (c.rows - 1) * (c.cols - c.lut_columns),
    paths=_paths,
    blocks=_blocks,
)
FIRST_LUT_ELEMENT = Component("first_lut_element", (PE,), _first_lut_terms, instances=lambda c: c.lut_columns)
LUT_ELEMENT = Component("lut_element", (PE,), _lut_terms, instances=lambda c: (c.rows - 1) * c.lut_columns)
