"""UPDATE: master weights, velocities and codes after a step of training, from the exact sums of their gradients.

The definition is `sateen.ir.gradients.Update` and UPDATE in docs/isa.md. Weights come in words of the activation
buffer: granules of as many as a word holds integers of 32 bits. While the lanes work on one granule the next is read; a
lane takes a weight in `TERMS` cycles, as it has one multiplier for the three terms of the sum. With `pruned_decay` the
decay's factor is another one for weights that the pattern of their old codes leaves out (`kept.py`).

Widths, with X the wider of 32 and the digits of a gradient: a product has X + 16 bits; the sum of three, in units of
2**-61, the finest that a factor has, 61 + X + 16 + 2, exact.
"""

# Ref: Fang et al. (arXiv 2309.13015), WUVE, the weight update beside the vector unit; here in fixed point.

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import wiring

from sateen.hw import isa
from sateen.hw.control.dispatch import is_idle
from sateen.hw.formats import circuits
from sateen.hw.isa import getter
from sateen.hw.memory.sore import SORE
from sateen.hw.ports import activation_latency, vector_part
from sateen.hw.terms import Component, Terms
from sateen.hw.vector.kept import KeptWeights, granule, granules
from sateen.hw.vector.requantize import Requantizer, requantize_latency
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode

TERMS = 3
"""Cycles that a lane takes for a weight."""
FRACTION = 61
"""Bits of a sum below the unit of a velocity."""
SUM_LATENCY = 9
"""Cycles from the first operand of a weight to its velocity."""
WEIGHT_LATENCY = SUM_LATENCY + 2
"""And to its master weight."""
_WRITTEN = ("velocity", "master", "codes")
_STEP = 6  # the velocity's unit is 2**-6 of the master weight's


def digits(config: AcceleratorConfig) -> int:
    """Words that the sums of a word of codes take."""
    return -(-config.acc_bits // config.activation.bits)


def interval(config: AcceleratorConfig) -> int:
    """Cycles from a granule to the next, whole steps of the lanes: their own, or what reading takes."""
    words = reads(config) + config.pruned_decay  # one of the codes that come
    return TERMS * max(granule(config) // config.update_lanes, -(-words // TERMS))


def reads(config: AcceleratorConfig) -> int:
    """Words that are read for a granule."""
    return 2 + digits(config)


def _loaded(config: AcceleratorConfig) -> int:
    """Cycles from the first read of a granule to the last in which its words are not yet the lanes'."""
    latency = 2  # of reading; a cycle more is one for all that is read
    return -(-(reads(config) + latency + 1) // TERMS) * TERMS - 1 + activation_latency(config) - latency


def _unscaled(config: AcceleratorConfig) -> AcceleratorConfig:
    """The machine whose requantizer takes a master weight."""
    return config.replace(acc_bits=32, product=False, gradient_format="")


def _code_latency(config: AcceleratorConfig) -> int:
    """Cycles from the first operand of a word's last weight to the write of its codes, on a phase of their own."""
    latency = requantize_latency(_unscaled(config))
    return WEIGHT_LATENCY + latency + 1 + (2 - latency) % TERMS


def update_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of an UPDATE instruction: cycles from start to done.

    Parameters
    ----------
    fields : mapping or object
        The fields of isa.UPDATE as integers.
    """
    get = getter(fields)
    steps, words = granule(config) // config.update_lanes, get("words")
    bits = get("index_bits") if config.pruned_decay else 0
    return (
        1
        + (granules(config) << bits if bits else 0)
        + (words * granules(config) - 1) * interval(config)
        + _loaded(config)
        + 1
        + TERMS * (steps - 1)
        + _code_latency(config)
    )


class UpdateUnit(wiring.Component):
    """The UPDATE part of the vector unit.

    Members
    -------
    start : In(1)
        Take `instruction`, an isa.UPDATE, and begin. Only when idle.
    done : Out(1)
        Strobe with the last write.
    read : Out(ReadPort(log2(act_depth), act_word_bits))
        Activation words, latency `activation_latency(config)`.
    write : Out(WritePort(log2(act_depth), act_word_bits, slices))
        Whole words.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        super().__init__(vector_part(isa.LAYOUT[Opcode.UPDATE], config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        i = self.instruction
        idle = is_idle(m, self.start, self.done)
        rule = Signal(i.shape(), reset_less=True)
        with m.If(idle):
            m.d.sync += rule.eq(i)
        kept = None
        if self.config.pruned_decay:
            m.submodules.kept = kept = KeptWeights(config=self.config)
            m.d.comb += [kept.idle.eq(idle), kept.start.eq(self.start), kept.instruction.eq(i)]
        self._lanes(m, idle, rule, kept, *self._fetch(m, idle, rule, kept))
        return m

    # -- words of a granule ---------------------------------------------------------------------------------

    def _fetch(
        self, m: Module, idle: Value, rule: Value, kept: KeptWeights | None
    ) -> tuple[list[Signal], Value]:
        """What is read of a granule, velocities, master weights and digits; as it becomes the lanes', three bits: there
        is one, it ends a word of codes, and the instruction."""
        c, i = self.config, self.instruction
        per_word, planes = granules(c), digits(c)
        active, time = Signal(), Signal(range(interval(c)))
        part = Signal(range(max(2, per_word)))  # granule of a word of codes
        left = Signal(24, reset_less=True)
        velocity, master, gradient, digit = (
            Signal(c.act_address_bits, name=name, reset_less=True)
            for name in ("velocity", "master", "gradient", "digit")
        )
        last_of_word, next_granule = Signal(), Signal()
        m.d.comb += [
            last_of_word.eq(part == per_word - 1),
            next_granule.eq(active & (time == interval(c) - 1)),
            self.read.en.eq(active & (time < reads(c))),
            self.read.addr.eq(Mux(time == 0, velocity, Mux(time == 1, master, digit))),
        ]
        begin, step, jump = self.start, Const(1), Const(1)
        if kept is not None:
            m.d.comb += [kept.slot.eq(active & (time == reads(c))), kept.data.eq(self.read.data)]
            with m.If(kept.ahead | kept.slot):
                m.d.comb += [self.read.en.eq(kept.en), self.read.addr.eq(kept.addr)]
            begin = (self.start & ~i.index_bits.any()) | kept.first_read
            step, jump = rule.step, self._jump(m, rule)
        with m.If(idle):
            m.d.sync += [
                velocity.eq(i.velocity),
                master.eq(i.master),
                gradient.eq(i.gradient),
                left.eq(i.words),
            ]
            m.d.sync += [part.eq(0), time.eq(0)]
        with m.If(begin):
            m.d.sync += active.eq(1)
        with m.Elif(active):
            m.d.sync += time.eq(Mux(next_granule, 0, time + 1))
            m.d.sync += digit.eq(Mux(time == 1, gradient, digit + rule.plane))
            with m.If(next_granule):
                m.d.sync += [velocity.eq(velocity + 1), master.eq(master + 1), part.eq(part + 1)]
                with m.If(last_of_word):
                    m.d.sync += [part.eq(0), gradient.eq(gradient + step), left.eq(left - 1)]
                    if kept is not None:
                        m.d.sync += [velocity.eq(velocity + jump), master.eq(master + jump)]
                    with m.If(left == 1):
                        m.d.sync += active.eq(0)
        # what arrives
        arrived = [self.read.en & (time == n) for n in range(reads(c))]
        place: Value = part
        for n in range(activation_latency(c)):
            strobes, places = (
                Signal(reads(c), name=f"arrives_{n + 1}"),
                Signal.like(part, name=f"part_{n + 1}"),
            )
            m.d.sync += [strobes.eq(Cat(arrived)), places.eq(place)]
            arrived, place = list(strobes), places
        size, bits = granule(c), c.activation.bits
        mine = self.read.data.word_select(place, size * bits)
        following = [Signal(c.act_word_bits, name=f"next_{name}", reset_less=True) for name in "vw"]
        following += [Signal(size * bits, name=f"next_g{n}", reset_less=True) for n in range(planes)]
        for n, (strobe, held) in enumerate(zip(arrived, following, strict=True)):
            with m.If(strobe):
                m.d.sync += held.eq(self.read.data if n < 2 else mine)
        # a granule's first cycle, and what it is, as its words become the lanes'
        ends = Cat(active & (time == 0), last_of_word, last_of_word & (left == 1))
        for n in range(_loaded(c)):
            delayed = Signal(3, name=f"begun_{n + 1}")
            m.d.sync += delayed.eq(ends)
            ends = delayed
        return following, ends

    # -- lanes ----------------------------------------------------------------------------------------------

    def _jump(self, m: Module, rule: Value) -> Value:
        """Words from the last granule's integers of a word of codes to the first's of the next."""
        jump = Signal(self.config.act_address_bits, name="jump", reset_less=True)
        m.d.sync += jump.eq(rule.step * granules(self.config) - (granules(self.config) - 1))
        return jump

    def _lanes(
        self,
        m: Module,
        idle: Value,
        rule: Value,
        kept: KeptWeights | None,
        following: list[Signal],
        begun: Value,
    ) -> None:
        c = self.config
        codes = circuits(c.activation)
        bounds = [
            codes.bound(m, Const(value, Shape(c.activation.fixed_bits, True)), name)
            for value, name in ((c.activation.min_fixed, "low"), (c.activation.max_fixed, "high"))
        ]
        lanes, size, bits = c.update_lanes, granule(c), c.activation.bits
        steps = size // lanes
        velocity, master = (Signal(size * 32, name=name, reset_less=True) for name in ("now_v", "now_w"))
        sums = [Signal(size * bits, name=f"now_g{n}", reset_less=True) for n in range(digits(c))]
        left, phase = Signal(range(steps + 1)), Signal(range(TERMS))
        word_end, end = Signal(), Signal()
        shifts = Signal()
        m.d.comb += shifts.eq(phase == TERMS - 1)
        with m.If(begun[0]):
            m.d.sync += [left.eq(steps), phase.eq(0), word_end.eq(begun[1]), end.eq(begun[2])]
            m.d.sync += [a.eq(b) for a, b in zip((velocity, master, *sums), following, strict=True)]
        with m.Elif(left.any()):
            m.d.sync += phase.eq(Mux(shifts, 0, phase + 1))
            with m.If(shifts):
                m.d.sync += [x.eq(x >> lanes * 32) for x in (velocity, master)]
                m.d.sync += [x.eq(x >> lanes * bits) for x in sums]
                m.d.sync += left.eq(left - 1)
        held: Signal | None = None
        if kept is not None:
            held = Signal(size, name="now_kept", reset_less=True)
            m.d.comb += [kept.begins.eq(begun[0]), kept.ends_word.eq(begun[1])]
            with m.If(begun[0]):
                m.d.sync += held.eq(kept.kept)
            with m.Elif(left.any() & shifts):
                m.d.sync += held.eq(held >> lanes)
        busy, last = Signal(), Signal()
        m.d.comb += [busy.eq(left.any()), last.eq(left == 1)]

        # in the cycle of a weight's first operand: there is one; its granule ends, the word of codes, all
        flags = [Signal(4, name="flags_0")]
        m.d.comb += flags[0].eq(Cat(busy & (phase == 0), last, last & word_end, last & word_end & end))
        for n in range(_code_latency(c)):
            delayed = Signal(4, name=f"flags_{n + 1}")
            m.d.sync += delayed.eq(flags[-1])
            flags.append(delayed)

        made = [
            self._lane(
                m, rule, bounds, lane, phase, flags,
                velocity.word_select(lane, 32), master.word_select(lane, 32),
                Cat(x.word_select(lane, bits) for x in sums), None if held is None else held[lane],
            )
            for lane in range(lanes)
        ]  # fmt: skip
        code_at = WEIGHT_LATENCY + requantize_latency(_unscaled(c))
        written = []
        for name, column, width, at, total in (
            ("v", 0, 32, SUM_LATENCY, size), ("w", 1, 32, WEIGHT_LATENCY, size), ("c", 2, bits, code_at, c.elements),
        ):  # fmt: skip
            new = Cat(values[column] for values in made)
            out = Signal(total * width, name=f"out_{name}", reset_less=True)
            with m.If(flags[at][0]):
                m.d.sync += out.eq(Cat(out, new)[lanes * width :])
            written.append(out)

        # each kind of word leaves on a phase of its own, before the next shift
        addresses = [Signal(c.act_address_bits, name=f"{name}_out", reset_less=True) for name in _WRITTEN]
        writes = [
            flags[SUM_LATENCY + 1][0] & flags[SUM_LATENCY + 1][1],
            flags[WEIGHT_LATENCY + 1][0] & flags[WEIGHT_LATENCY + 1][1],
            flags[_code_latency(c)][0] & flags[_code_latency(c)][2],
        ]
        m.d.comb += [
            self.write.en.eq(Cat(writes).any()),
            self.write.addr.eq(Mux(writes[0], addresses[0], Mux(writes[1], addresses[1], addresses[2]))),
            self.write.data.eq(Mux(writes[0], written[0], Mux(writes[1], written[1], written[2]))),
            self.done.eq(writes[2] & flags[_code_latency(c)][3]),
        ]
        jump = None if kept is None else self._jump(m, rule)
        ends = [flags[SUM_LATENCY + 1][2], flags[WEIGHT_LATENCY + 1][2], None]
        for address, name, written_now, end_now in zip(addresses, _WRITTEN, writes, ends, strict=True):
            with m.If(idle):
                m.d.sync += address.eq(self.instruction[name])
            with m.Elif(written_now):
                if jump is None:
                    m.d.sync += address.eq(address + 1)
                elif end_now is None:
                    m.d.sync += address.eq(address + rule.step)
                else:
                    m.d.sync += address.eq(address + Mux(end_now, jump, 1))
        if c.slices > 1:
            m.d.comb += self.write.mask.eq(-1)

    def _lane(
        self, m: Module, rule: Value, bounds: list[Value], lane: int, phase: Value, flags: list[Signal], v: Value,
        w: Value, g: Value, kept: Value | None,
    ) -> tuple[Value, Value, Value]:  # fmt: skip
        """Velocity, master weight and code of a weight, each valid in its own cycle."""
        c = self.config

        def register(name: str, value: Value, enable: Value | None = None) -> Signal:
            held = Signal(value.shape(), name=f"{name}_{lane}", reset_less=True)
            if enable is None:
                m.d.sync += held.eq(value)
            else:
                with m.If(enable):
                    m.d.sync += held.eq(value)
            return held

        width = max(32, len(g))
        names = ("momentum", "decay", "rate")
        terms = [(x, rule[n], rule[f"{n}_shift"]) for n, x in zip(names, (v, w, g), strict=True)]
        if kept is not None:
            terms[1] = (w, Mux(kept, rule.decay, rule.pruned), rule.decay_shift)
        operand = Signal(signed(width), name=f"operand_{lane}")
        factor, shift = Signal(16, name=f"factor_{lane}"), Signal(6, name=f"shift_{lane}")
        with m.Switch(phase):
            for n, (x, k, s) in enumerate(terms):
                with m.Case(n):
                    m.d.comb += [operand.eq(x.as_signed()), factor.eq(k), shift.eq(FRACTION - s)]
        # 1, 2: the product; 3, 4: in units of 2**-61; 5 to 7: the sum
        x, k, s = register("x", operand), register("k", factor), register("s", shift)
        product, s = register("product", (x * k)[: width + 16].as_signed()), register("s2", s)
        fine = register("fine", (product << s[:3])[: width + 16 + 7].as_signed())
        s = register("s3", s[3:])
        coarse = Signal(signed(width + 16 + FRACTION), name=f"coarse_{lane}")
        m.d.comb += coarse.eq(fine << (s << 3))
        term = register("term", coarse)
        total = Signal(signed(width + 16 + FRACTION + 2), name=f"total_{lane}", reset_less=True)
        m.d.sync += total.eq(Mux(flags[4][0], 0, total) + term)
        # 8, 9: the velocity, rounded and saturated
        whole = register("whole", total[FRACTION:].as_signed())
        up = register("up", total[FRACTION - 1] & (total[: FRACTION - 1].any() | total[FRACTION]))
        velocity = register("velocity", _saturated(whole + up))
        # 10, 11: the master weight
        step = register("step", (velocity >> _STEP) + (
            velocity[_STEP - 1] & (velocity[: _STEP - 1].any() | velocity[_STEP])
        ))  # fmt: skip
        old = w.as_signed()
        for n in range(1 + (WEIGHT_LATENCY - 2) // TERMS):  # held for a step of the lanes each
            old = register(f"old{n}", old, flags[n * TERMS][0])
        master = register("master", _saturated(old - step))
        # the code
        unscaled = _unscaled(c)
        requantizer = Requantizer(config=unscaled)
        m.submodules[f"requantizer_{lane}"] = requantizer
        control = requantizer.control
        m.d.comb += [
            requantizer.i_valid.eq(flags[WEIGHT_LATENCY][0]),
            requantizer.i_acc[0].eq(master),
            requantizer.i_parameter[0].bias.eq(0),
            requantizer.i_parameter[0].multiplier.eq(rule.multiplier),
            requantizer.i_parameter[0].shift.eq(rule.shift),
            requantizer.i_residual[0].eq(0),
            control.low.eq(bounds[0]),
            control.high.eq(bounds[1]),
        ]
        return velocity, master, requantizer.o_code[0]


def _saturated(x: Value) -> Value:
    """As signed 32 bits."""
    over = x[31:].any() & ~x[31:].all()
    return Mux(over, Cat((~x[-1]).replicate(31), x[-1]), x[:32]).as_signed()


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    lanes, width, word = c.update_lanes, max(32, digits(c) * c.activation.bits), c.act_word_bits
    total = width + 16 + FRACTION + 2
    for _ in range(lanes if c.update else 0):
        t.multiply(width, 17)
    t.add(one=1, operand=lanes * width, fine=lanes * (width + 23) * 3, coarse=lanes * (total - 2) * 3,
          total=lanes * total, rounded=lanes * 3 * 40, words=4 * word, address=10 * c.act_address_bits)  # fmt: skip
    sums = granule(c) * digits(c) * c.activation.bits
    t.add(ff=lanes * (3 * width + 2 * total + 300) + 7 * word + 2 * sums + 8 * c.act_address_bits)
    if c.pruned_decay:
        slots = granule(c) * max(p.n for p in c.sparse_patterns)
        entry = c.activation.bits + c.index_planes
        t.add(selection=slots * (entry + c.activation.fixed_bits), kept=2 * slots * c.index_planes,
              ahead=8 * c.act_address_bits, decay=16 * lanes)  # fmt: skip
        t.add(ff=slots * (2 * entry + c.activation.bits) + 5 * c.act_address_bits + 80)
    t.ff["one"] = 1


UPDATE = Component(
    "update",
    (UpdateUnit, Requantizer, KeptWeights, SORE),
    _terms,
    instances=lambda c: int(c.update),
)
