"""One channel a cycle from the accumulator to a code: scale, add the residual or multiply by it, round once, clamp.

The definition is `sateen.formats.requantize.requantize` and DRAIN in docs/isa.md. All formats share the way
to a fixed-point number with a guard and a sticky bit; what follows is their family's (hw/formats).

Widths, with A = acc_bits and F = fixed_bits of the activation format:

- acc + bias: A + 1 bits; times the 16 bit multiplier: A + 17, exact.
- residual: R = max(F, 10) + 1 bits, the zero point taken off (F where steps differ and zero points are 0);
  times 16 bits, shifted left by at most `residual_shift_limit`: R + 16 + limit, exact.
- t, their sum: one bit more than the wider one, exact.

A machine whose gradients have a format of their own rounds to both, and a bit chooses: F is then the wider one's.

With `product`, a stage comes first that multiplies acc + bias by the residual, R bits: A + 1 + R bits, exact, take the
place of acc + bias in all that follows, with 0 as the residual that is added.
"""

from copy import copy
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from sateen.formats import Format
from sateen.hw.formats import Lane, circuits
from sateen.hw.isa import parameter_layout
from sateen.hw.shared import Shared, place, port_values
from sateen.hw.terms import Component, Delays, Terms
from sateen.machine.config import AcceleratorConfig

FINE = 3  # bits of a shift that are done after its bytes
BYTE = 1 << FINE
ZERO_BITS = 10  # of the zero points in an instruction
_OPERAND_BITS = 47  # a product with 16 bits stays in a 64 bit word of the simulator


def residual_shift_limit(config: AcceleratorConfig) -> int:
    """The largest shift - residual_shift that a program may use; the least is 0."""
    return max(0, config.acc_bits - config.clamp_bits - 1)


def fixed_bits(fmt: Format) -> int:
    """Of a residual less its zero point, and of what is rounded: what does not fit is above the largest, or out of the
    range with any zero point of 10 bits."""
    return max(fmt.fixed_bits, ZERO_BITS) + 1 if fmt.uniform else fmt.fixed_bits


def requantize_latency(config: AcceleratorConfig) -> int:
    """Cycles from an accumulator to its code."""
    return max(circuits(fmt).requantize_latency for fmt in config.results) + config.product


def control_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What is the same for all channels of a DRAIN. With `raw`, residual, product and zero_point must be 0; with
    `product`, residual must."""
    bound_of = circuits(config.activation).bound_shape
    own = {}
    if config.own_gradients:
        bound = circuits(config.gradient).bound_shape
        own = {"gradient": unsigned(1), "gradient_low": bound, "gradient_high": bound}
    return data.StructLayout(
        {
            "residual": unsigned(1),
            "residual_multiplier": unsigned(16),
            "residual_shift": unsigned(7),
            "residual_zero": signed(ZERO_BITS),
            "zero_point": signed(ZERO_BITS),
            "low": bound_of,
            "high": bound_of,
            "raw": unsigned(1),
            "raw_shift": unsigned(7),
        }
        | ({"product": unsigned(1)} if config.product else {})
        | own
    )


@dataclass(frozen=True)
class _GradientControl:
    """What a format's last stages read of a control, for results that are gradients."""

    control: data.View

    @property
    def low(self) -> Value:
        return self.control.gradient_low

    @property
    def high(self) -> Value:
        return self.control.gradient_high

    @property
    def raw(self) -> Value:
        return self.control.raw

    @property
    def zero_point(self) -> Value:
        return self.control.zero_point


class Requantizer(wiring.Component):
    """Pipelines for `lanes` channels a cycle; see the module's docstring.

    Members
    -------
    i_valid : In(1)
    i_acc : In(signed(acc_bits)).array(lanes)
    i_parameter : In(parameter_layout(acc_bits)).array(lanes)
    i_residual : In(activation.bits).array(lanes)
        The residual's code.
    control : In(control_layout(config))
        Stable from the first input to the last output.
    o_valid : Out(1)
        `i_valid`, `latency` cycles later.
    o_code : Out(activation.bits).array(lanes)
    """

    initiation_interval = 1

    def __init__(self, *, config: AcceleratorConfig, lanes: int = 1):
        self.config = config
        self.lanes = lanes
        self.latency = requantize_latency(config)
        super().__init__(
            {
                "i_valid": In(1),
                "i_acc": In(signed(config.acc_bits)).array(lanes),
                "i_parameter": In(parameter_layout(config.acc_bits)).array(lanes),
                "i_residual": In(config.activation.bits).array(lanes),
                "control": In(control_layout(config)),
                "o_valid": Out(1),
                "o_code": Out(config.activation.bits).array(lanes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if isinstance(platform, Shared) and self.lanes > 1:
            self._instances(m, platform)
            return m
        valid = Signal(self.latency)  # bit k: stage k + 1 holds channels
        m.d.sync += valid.eq(Cat(self.i_valid, valid))
        m.d.comb += self.o_valid.eq(valid[-1])
        enable = [self.i_valid, *valid]
        for k in range(self.lanes):
            channel = _Channel(m, k, self.config, self.control, enable)
            code = channel.run(self.i_acc[k], self.i_parameter[k], self.i_residual[k])
            m.d.comb += self.o_code[k].eq(code)
        return m

    def _instances(self, m: Module, platform: Shared) -> None:
        """Each lane a pipeline of one channel, with its own bits of what is valid."""
        parameters = {"config": self.config, "lanes": 1}
        mine, _ = port_values(self)
        for k in range(self.lanes):
            names = (("i_acc__0", f"i_acc__{k}"), ("i_parameter__0", f"i_parameter__{k}"),
                     ("i_residual__0", f"i_residual__{k}"), ("i_valid", "i_valid"), ("control", "control"))  # fmt: skip
            inputs = {port: mine[name] for port, name in names}
            lane = place(m, platform, f"lane_{k}", Requantizer, parameters, inputs)
            m.d.comb += self.o_code[k].eq(lane["o_code__0"])
            if k == 0:
                m.d.comb += self.o_valid.eq(lane["o_valid"])


class _Channel(Lane):
    """Builds all stages of a lane, which a first one for products may precede."""

    def __init__(self, m: Module, k: int, config: AcceleratorConfig, control: data.View, enable: list[Value]):
        super().__init__(m, k, control, enable[config.product :])
        self.config, self.format, self.first = config, config.activation, enable[0]
        self.circuits = circuits(self.format)
        self.bits = max(fixed_bits(fmt) for fmt in config.results)

    def run(self, acc: Value, parameter: data.View, residual: Value) -> Value:
        v, fixed = acc + parameter.bias, self._difference(residual)
        if self.config.product:
            v, fixed, parameter = self._multiply(v, fixed, parameter)
        t, shift = self._scale(v, parameter, fixed)
        rounded = self._shift(t, shift)
        if not self.config.own_gradients:
            return self.circuits.finish(self, *rounded)
        lanes = self, copy(self)
        lanes[1].control = _GradientControl(self.control)
        codes = [
            self._late(fmt, circuits(fmt).finish(lane, *self._within(fmt, *rounded)))
            for fmt, lane in zip(self.config.results, lanes, strict=True)
        ]
        return Mux(self.control.gradient, codes[1], codes[0])

    def _within(
        self, fmt: Format, x: Value, lost: Value, over: Value, negative: Value
    ) -> tuple[Value, Value, Value, Value]:
        """What `_shift` gives, for a format that may have fewer bits."""
        bits = fixed_bits(fmt)
        signs = x[bits:]
        return x[: bits + 1].as_signed(), lost, over | (signs.any() & ~signs.all()), negative

    def _late(self, fmt: Format, code: Value) -> Value:
        """A code of a format that takes fewer stages, as late as the other's."""
        first = circuits(fmt).requantize_latency + 1
        for stage in range(first, requantize_latency(self.config) - self.config.product + 1):
            code = self.register(stage, f"late_{fmt.name}", code)
        return code

    def _difference(self, residual: Value) -> Value:
        """The residual less its zero point."""
        fixed = self.circuits.decode_fixed(residual)
        own = fixed - self.control.residual_zero if self.format.uniform else fixed
        if not self.config.own_gradients:
            return own
        return Mux(self.control.gradient, circuits(self.config.gradient).decode_fixed(residual), own)

    def _multiply(self, v: Value, fixed: Value, parameter: data.View) -> tuple[Value, Value, data.View]:
        """Stage 0: the sum's factor is the residual, or 1; its addend the residual, or 0."""
        names = ("v", "fixed", "parameter")
        held = [self.new(0, name, x.shape()) for name, x in zip(names, (v, fixed, parameter), strict=True)]
        with self.m.If(self.first):
            self.m.d.sync += [a.eq(b) for a, b in zip(held, (v, fixed, parameter), strict=True)]
        v, fixed, parameter = held
        product = self.control.product
        return Mux(product, _product(v, fixed), v), Mux(product, 0, fixed), parameter

    def _scale(self, v: Value, parameter: data.View, fixed: Value) -> tuple[Value, Value]:
        """Stages 1 to 3: t and the shift that it still needs."""
        control, reg = self.control, self.register
        limit = residual_shift_limit(self.config)
        # 1: the sum with its bias; the residual, already shifted by the low bits of what it needs.
        # raw is a shift alone: multiplier 1, and what follows does not round.
        v = reg(1, "v", v)
        multiplier = reg(1, "multiplier", Mux(control.raw, Const(1, 16), parameter.multiplier))
        shift = reg(1, "shift", Mux(control.raw, control.raw_shift, parameter.shift))
        width = len(fixed)
        distance = (parameter.shift - control.residual_shift)[: bits_for(limit)]
        if limit:
            fixed = (fixed << distance[:FINE])[: width + min(limit, BYTE - 1)].as_signed()
        residual = reg(1, "residual", Mux(control.residual, fixed, 0))
        distance = reg(1, "distance", distance)
        # 2: multiply
        p = reg(2, "p", _product(v, multiplier))
        residual = reg(2, "residual", residual * control.residual_multiplier)
        distance = reg(2, "distance", distance)
        shift = reg(2, "shift", shift)
        # 3: add. The residual, shifted, has `width` + 16 + limit bits at most.
        addend = residual
        for i in range(1, limit // BYTE + 1):
            addend = Mux(distance[FINE:] == i, residual << (BYTE * i), addend)
        addend = addend[: width + 16 + limit].as_signed()
        return reg(3, "t", p + addend), reg(3, "shift", shift)

    def _shift(self, t: Value, shift: Value) -> tuple[Value, Value, Value, Value]:
        """Stages 4 and 5: floor(t * 2**-shift).

        Returns, still to be registered by stage 5, the number with its guard bit lowest, whether bits below
        were lost, whether it has more bits than are returned, and its sign.
        """
        m, bits = self.m, self.bits
        u = Cat(Const(0, 1), t)  # with the guard bit of a shift by 0
        sign = t[-1]
        window_bits = bits + 1 + BYTE - 1
        steps = min(-(-len(u) // BYTE), 1 << len(shift) - FINE)  # from this byte on only the sign is left
        extended = Cat(u, sign.replicate(steps * BYTE + window_bits))
        # 4: by bytes. Is a 1 lost below; does a bit above differ from the sign?
        below, above = [Const(0, 1)], [Const(0, 1)] * (steps + 1)
        for i in range(steps):
            below.append(below[-1] | extended[i * BYTE : (i + 1) * BYTE].any())
        for i in reversed(range(steps)):
            top = i * BYTE + window_bits - 1
            if top < len(u) - 1:
                above[i] = above[i + 1] | (extended[top : top + BYTE] ^ sign.replicate(BYTE)).any()
        window = self.new(4, "window", signed(window_bits))
        lost, over = self.new(4, "lost", 1), self.new(4, "over", 1)
        with m.If(self.enable[3]), m.Switch(shift[FINE:]):
            for i in range(steps):
                with m.Case(i):
                    m.d.sync += [
                        window.eq(extended[i * BYTE : i * BYTE + window_bits]),
                        lost.eq(below[i]),
                        over.eq(above[i]),
                    ]
            with m.Default():
                m.d.sync += [window.eq(sign.replicate(window_bits)), lost.eq(below[-1]), over.eq(0)]
        negative = self.register(4, "negative", sign)
        fine = self.register(4, "fine", shift[:FINE])
        # 5: by bits
        x = Signal(signed(window_bits), name=f"x_{self.k}")
        mask = (Const((1 << BYTE - 1) - 1, 2 * (BYTE - 1)) << fine)[BYTE - 1 : 2 * (BYTE - 1)]
        with m.If(self.enable[4]):
            m.d.comb += x.eq(window >> fine)
        lost = lost | (window[: BYTE - 1] & mask).any()
        signs = x[bits:]
        over = over | (signs.any() & ~signs.all())
        return x[: bits + 1].as_signed(), lost, over, negative


def _product(v: Value, multiplier: Value) -> Value:
    """signed × signed or unsigned, exact, from operands short enough for machine words of the simulator."""
    parts = -(-len(v) // _OPERAND_BITS)
    size = -(-len(v) // parts)
    total = v[(parts - 1) * size :].as_signed() * multiplier << (parts - 1) * size
    for i in range(parts - 1):
        total = total + (v[i * size : (i + 1) * size] * multiplier << i * size)
    return total[: len(v) + len(multiplier)].as_signed()


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    """A lane's."""
    mux, absorbed = t.technology.mux, t.technology.absorbed
    acc, limit = c.acc_bits, residual_shift_limit(c)
    bits = max(fixed_bits(fmt) for fmt in c.results)
    if c.product:  # the first stage; what it gives takes the place of the sum
        t.multiply(acc + 1, bits)
        t.add(choices=acc + 1 + 2 * bits, ff=acc + 1 + bits + 16 + 7)
        acc += bits
    shifted = bits + min(limit, BYTE - 1) if limit else bits
    distance = max(1, limit.bit_length())
    product, addend = acc + 17, shifted + 16
    aligned = bits + 16 + limit
    total = max(product, aligned) + 1 if c.residual else product
    window = bits + BYTE
    steps = min(-(-(total + 1) // BYTE), 1 << 7 - FINE)
    parts = -(-(acc + 1) // _OPERAND_BITS)
    low = -(-(acc + 1) // parts)
    for _ in range(parts - 1):
        t.multiply(low, 16, signed=False)
    t.multiply(acc + 1 - low * (parts - 1), 17)
    coarse = max(0, distance - FINE)  # its fine part is used before the first register
    t.add(one=1, bias=acc + 1, product=product * (parts - 1), total=total, window=window * mux(steps),
          lost=total, fine=window * 3, choices=16 + 7)  # fmt: skip
    t.add(ff=acc + 1 + 16 + 7 + 7 + total + 7 + window + 6)
    t.add(ff=0 if absorbed(acc + 1, 17) else product)
    if c.residual:
        t.multiply(shifted, 17)
        t.add(residual=shifted * min(3, distance), align=aligned * mux(limit // BYTE + 1))
        t.add(ff=shifted + 2 * coarse + (0 if absorbed(shifted, 17) else addend))
        for fmt in c.results:
            circuits(fmt).residual_terms(fixed_bits(fmt), t)
    for fmt in c.results:
        circuits(fmt).finish_terms(fixed_bits(fmt), ZERO_BITS, t)


def _path(c: AcceleratorConfig, d: Delays) -> dict[str, float]:
    acc = c.acc_bits + c.product * fixed_bits(c.activation)
    product = d.carry(acc + 17) + d.product
    return {"requantizer": d.register + product + max(circuits(fmt).finish_path(d) for fmt in c.results)}


REQUANTIZER = Component(
    "requantizer",
    (Requantizer,),
    _terms,
    instances=lambda c: c.vector_lanes,
    paths=_path,
    blocks=lambda c, technology: technology.dsps(c.acc_bits + 1, 17),
)
"""One of its lanes."""
