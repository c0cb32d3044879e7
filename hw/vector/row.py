"""ROW: softmax or normalization of rows of words, through DRAIN's requantizer.

A row's words are read once or twice for its sums (`Lanes`), then a reciprocal is found digit by digit (`Reciprocal`),
then they are read again for results. Meanwhile the next row's sums are made: rows follow one another in the order
sums of row 0, of row 1, results of row 0, sums of row 2, results of row 1, and so on.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from sateen.formats import rows
from sateen.hw import isa
from sateen.hw.control.dispatch import is_idle
from sateen.hw.formats import circuits
from sateen.hw.isa import getter
from sateen.hw.memory.buffers import memory_of
from sateen.hw.memory.load import EXPONENTIAL_BITS
from sateen.hw.ports import ReadPort, WritePort, activation_latency, vector_part
from sateen.hw.terms import Component, Terms
from sateen.hw.vector.drain import row_signature
from sateen.hw.vector.lanes import (
    GREATEST_LATENCY,
    SHIFT_BITS,
    Lanes,
    lanes_latency,
    lanes_terms,
    row_layout,
    statistics_latency,
)
from sateen.hw.vector.reciprocal import Reciprocal, operand_bits, reciprocal_cycles, reciprocal_terms
from sateen.hw.vector.requantize import requantize_latency
from sateen.hw.window import NestedCounter, Sum, count_terms
from sateen.machine.config import AcceleratorConfig


def code_latency(config: AcceleratorConfig) -> int:
    """Cycles from an address to its codes in a register."""
    return activation_latency(config) + 1


def row_latency(config: AcceleratorConfig) -> int:
    """Cycles from a word's last address to its write."""
    return lanes_latency(config) + requantize_latency(config) + 1


def row_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of a ROW instruction: cycles from start to done.

    Parameters
    ----------
    fields : mapping or object
        The fields of isa.ROW as integers.
    """
    get = getter(fields)
    normalize, count = bool(get("normalize")), get("out_w") * get("out_h")
    steps = get("row_w") * get("row_h") * get("channel_words") * (config.elements // config.vector_lanes)
    statistics = statistics_latency(config)
    sums = (steps if normalize else 2 * steps + GREATEST_LATENCY - 1) + statistics - 1
    reciprocal = reciprocal_cycles(config, normalize)
    between = 0
    if count > 1:
        between = max(1 + sums, reciprocal) + (count - 2) * max(1 + steps + sums, reciprocal)
    last = max(statistics + (steps if count > 1 else 0), reciprocal)
    return 1 + sums + between + last + steps + row_latency(config)


class Row(wiring.Component):
    """The ROW part of the vector unit.

    Members
    -------
    start : In(1)
        Take `instruction`, an isa.ROW, and begin. Only when idle.
    done : Out(1)
        Strobe with the last write.
    read : Out(ReadPort(log2(act_depth), act_word_bits))
        Activation words, latency `activation_latency(config)`.
    write : Out(WritePort(log2(act_depth), act_word_bits, slices))
        Whole words.
    parameter : Out(ReadPort(log2(parameter_depth), vector_lanes*parameter_bits))
        Parameter words, latency `config.memory_latency`.
    requantizer : Out(row_signature(config))
        DRAIN's, which is this part's while `active`.
    exponential : In(WritePort(activation.bits, 32))
        Fills the table of exponentials. Only if `config.softmax`.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        words = config.vector_lanes * config.parameter_bits
        members = vector_part(isa.ROW, config) | {
            "parameter": Out(ReadPort(config.parameter_address_bits, words)),
            "requantizer": Out(row_signature(config)),
        }
        if config.softmax:
            members["exponential"] = In(WritePort(config.activation.bits, EXPONENTIAL_BITS))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        self._idle = is_idle(m, self.start, self.done)
        m.submodules.lanes = lanes = Lanes(config=config)
        m.submodules.reciprocal = reciprocal = Reciprocal(config=config)
        m.submodules.sums = sums = self._nest(passes=config.softmax)
        m.submodules.results = results = self._nest(passes=False)
        for nest in (sums, results):
            self._load(m, nest)
        self._fields(m, lanes, reciprocal)
        go = self._order(m, sums, results, reciprocal)
        self._row(m, lanes, reciprocal, go)
        self._tag(m, lanes, sums, results)
        self._codes(m, lanes)
        self._parameters(m, lanes, results)
        self._write(m, lanes, results)
        if config.softmax:
            wiring.connect(m, wiring.flipped(self.exponential), lanes.exponential)
        return m

    # -- addresses -----------------------------------------------------------------------------------------

    def _nest(self, passes: bool) -> NestedCounter:
        config, bits = self.config, self.config.output_bits
        steps = config.elements // config.vector_lanes
        levels = {"y": bits, "x": bits} | ({"p": 2} if passes else {})
        levels |= {"h": bits, "w": bits, "c": config.channel_bits, "s": steps.bit_length()}
        address = Const(0, config.act_address_bits).shape()
        walked = {"y": address, "x": address, "h": address, "w": address, "c": 1}
        position = Sum(Const(0, rows.COUNT_BITS).shape(), {"c": config.elements, "s": config.vector_lanes})
        return NestedCounter(levels=levels, sums={"word": Sum(address, walked), "position": position})

    def _load(self, m: Module, nest: NestedCounter) -> None:
        i, config, parameters = self.instruction, self.config, nest.parameters
        m.d.comb += [
            nest.load.eq(self._idle),
            parameters.count.y.eq(i.out_h),
            parameters.count.x.eq(i.out_w),
            parameters.count.h.eq(i.row_h),
            parameters.count.w.eq(i.row_w),
            parameters.count.c.eq(i.channel_words),
            parameters.count.s.eq(config.elements // config.vector_lanes),
            parameters.start.word.eq(i.base),
            parameters.step.word.y.eq(i.step_y),
            parameters.step.word.x.eq(i.step_x),
            parameters.step.word.h.eq(i.step_ky),
            parameters.step.word.w.eq(i.step_kx),
        ]
        if "p" in nest.levels:
            m.d.comb += parameters.count.p.eq(Mux(i.normalize, 1, 2) if config.normalize else 2)

    def _fields(self, m: Module, lanes: Lanes, reciprocal: Reciprocal) -> None:
        """What does not change during the instruction."""
        config, i, fmt = self.config, self.instruction, self.config.activation

        def held(name: str) -> Signal:
            signal = Signal.like(i[name], name=name, reset_less=True)
            with m.If(self._idle):
                m.d.sync += signal.eq(i[name])
            return signal

        self._normalize = (
            held("normalize") if config.normalize and config.softmax else Const(config.normalize)
        )
        self._first, self._last, self._distance = held("first"), held("last"), held("distance")
        self._parameter_base, self._per_channel = held("parameter_base"), held("per_channel")
        low, high, zero_point = held("low"), held("high"), held("zero_point")
        bounds = circuits(fmt)
        m.d.sync += [  # settled long before the first channel is clamped
            self.requantizer.control.low.eq(bounds.bound(m, low, "low")),
            self.requantizer.control.high.eq(bounds.bound(m, high, "high")),
        ]
        m.d.comb += [
            self.requantizer.control.zero_point.eq(zero_point),
            lanes.normalize.eq(self._normalize),
            reciprocal.root.eq(self._normalize),
            reciprocal.squares.eq(lanes.squares),
        ]
        if config.normalize:
            zero, self._centred = held("zero"), held("centred")
            count, epsilon = held("count"), held("epsilon")
            m.d.comb += [
                lanes.count.eq(count),
                lanes.zero.eq(Cat(zero[: fmt.fixed_bits - 1], zero[-1]).as_signed()),
                reciprocal.count.eq(count),
                reciprocal.epsilon.eq(epsilon),
                reciprocal.total.eq(Mux(self._centred, lanes.total, 0)),
            ]

    # -- order ---------------------------------------------------------------------------------------------

    def _order(self, m: Module, sums: NestedCounter, results: NestedCounter, reciprocal: Reciprocal) -> Value:
        """Walk rows for sums and for results in turn; returns the strobe with which the reciprocal of the row whose
        sums are made begins, and that of the row before is taken for its results."""
        self._summing, self._resulting = Signal(), Signal()
        self._greatest = Signal()
        go = Signal()
        pending, finding, finished = (
            Signal(),
            Signal(),
            Signal(),
        )  # a row has sums; a reciprocal; no more rows
        settles = statistics_latency(self.config) - 1
        left = Signal(range(settles + 1))
        row_end, pass_end = (sums.last.p, sums.last.h) if "p" in sums.levels else (sums.last.h, Const(0))
        if "p" in sums.levels:
            m.d.comb += self._greatest.eq(~sums.final.p)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [pending.eq(0), finding.eq(0), finished.eq(0), left.eq(settles)]
                with m.If(self.start):
                    m.d.sync += self.requantizer.active.eq(1)
                    m.next = "SUMS"
            with m.State("SUMS"):
                m.d.comb += self._summing.eq(1)
                m.d.sync += [pending.eq(1), finished.eq(sums.last.y)]
                with m.If(row_end):
                    m.next = "SETTLE"
                with m.Elif(pass_end):
                    m.next = "GREATEST"
            with m.State("GREATEST"):  # GREATEST_LATENCY - 1 cycles
                m.next = "SUMS"
            with m.State("SETTLE"):
                with m.If(left != 0):
                    m.d.sync += left.eq(left - 1)
                with m.Elif(~finding | reciprocal.done):
                    m.d.comb += go.eq(1)
                    m.d.sync += [
                        left.eq(settles),
                        finding.eq(pending),
                        pending.eq(0),
                    ]
                    with m.If(finding):
                        m.next = "RESULTS"
                    with m.Elif(~finished):
                        m.next = "SUMS"
            with m.State("RESULTS"):
                m.d.comb += self._resulting.eq(1)
                with m.If(results.last.h):
                    with m.If(~finished):
                        m.next = "SUMS"
                    with m.Elif(finding):
                        m.next = "SETTLE"
                    with m.Else():
                        m.next = "WRITES"
            with m.State("WRITES"), m.If(self.done):
                m.d.sync += self.requantizer.active.eq(0)
                m.next = "IDLE"
        address = Mux(self._summing, sums.value.word, results.value.word)
        m.d.comb += [
            sums.step.eq(self._summing),
            results.step.eq(self._resulting),
            reciprocal.start.eq(go & pending),
            self.read.en.eq(self._summing | self._resulting),
            self.read.addr.eq(address),
        ]
        return go

    def _row(self, m: Module, lanes: Lanes, reciprocal: Reciprocal, go: Value) -> None:
        """What results need of their row: kept once while its reciprocal is found, once for the results."""
        config, fmt = self.config, self.config.activation
        row = lanes.row
        kept = Signal(row_layout(config), reset_less=True)
        found = Signal(row_layout(config), name="found", reset_less=True)
        bits = operand_bits(config) - (reciprocal.half << 1)
        point = max(0, rows.reciprocal_bits(fmt) - rows.fraction_bits(fmt))
        of_root = operand_bits(config) // 2 - reciprocal.half + (point - rows.EPSILON_FRACTION // 2)
        shift = Mux(self._normalize, of_root, bits + (point - rows.GUARD_BITS))
        m.d.comb += row.eq(found)
        with m.If(go):
            m.d.sync += [
                found.eq(kept),
                found.inverse.eq(reciprocal.inverse),
                found.shift.eq(shift[:SHIFT_BITS]),
            ]
            if config.normalize:
                m.d.sync += kept.total.eq(Mux(self._centred, lanes.total, 0))
            if config.softmax:
                m.d.sync += kept.exponent.eq(lanes.exponent)

    # -- steps ---------------------------------------------------------------------------------------------

    def _tag(self, m: Module, lanes: Lanes, sums: NestedCounter, results: NestedCounter) -> None:
        config, tag = self.config, lanes.tag
        position = Signal(rows.COUNT_BITS)
        m.d.comb += [
            position.eq(Mux(self._summing, sums.value.position, results.value.position)),
            tag.statistics.eq(self._summing),
            tag.first.eq(sums.first.h),
            tag.greatest.eq(self._greatest),
            tag.result.eq(self._resulting),
        ]
        for k in range(config.vector_lanes):
            element = position | k
            m.d.comb += tag.inside[k].eq((element >= self._first) & (element < self._last))
        step = position[exact_log2(config.vector_lanes) : exact_log2(config.elements)]
        self._run = self._delayed(m, step, activation_latency(config), "run")
        self._inside = self._delayed(m, tag.inside, code_latency(config), "inside")

    def _delayed(self, m: Module, value: Value, cycles: int, name: str) -> Value:
        for k in range(cycles):
            register = Signal(len(value), name=f"{name}_{k + 1}", reset_less=True)
            m.d.sync += register.eq(value)
            value = register
        return value

    def _codes(self, m: Module, lanes: Lanes) -> None:
        """Of the word, in turn `vector_lanes`; results go to the requantizer."""
        config = self.config
        bits, n = config.activation.bits, config.vector_lanes
        run = Signal(n * bits)
        m.d.comb += run.eq(self.read.data.word_select(self._run, n * bits))
        for k in range(n):
            m.d.comb += [
                lanes.i_code[k].eq(run.word_select(k, bits)),
                self.requantizer.acc[k].eq(lanes.o_acc[k]),
                self.requantizer.parameter[k].eq(lanes.o_parameter[k]),
            ]
        m.d.comb += self.requantizer.valid.eq(lanes.o_valid)

    def _parameters(self, m: Module, lanes: Lanes, results: NestedCounter) -> None:
        """A word for each step of a pixel, or one for all."""
        config = self.config
        at = (
            lanes_latency(config) - 1 - config.memory_latency
        )  # the address; its data are there a cycle before
        now = self._delayed(m, Cat(self._resulting, results.last.c), at, "parameters")
        address = self.parameter.addr
        register = Signal.like(address, name="parameter_word", reset_less=True)
        with m.If(self._idle):
            m.d.sync += register.eq(self.instruction.parameter_base)
        with m.Elif(now[0]):
            m.d.sync += register.eq(Mux(now[1], self._parameter_base, register + self._per_channel))
        m.d.comb += [self.parameter.en.eq(now[0]), address.eq(register)]
        for k in range(config.vector_lanes):
            word = self.parameter.data.word_select(k, config.parameter_bits)
            m.d.comb += Value.cast(lanes.parameter[k]).eq(word)

    def _write(self, m: Module, lanes: Lanes, results: NestedCounter) -> None:
        """Gather a word's codes; elements outside of the row are as they were read, kept in a memory meanwhile."""
        config, bits, n = self.config, self.config.activation.bits, self.config.vector_lanes
        steps = config.elements // n
        ends = Cat(results.last.s & self._resulting, results.last.y & self._resulting)
        target = (results.value.word + self._distance)[: config.act_address_bits]
        known = self._delayed(m, Cat(ends, target), code_latency(config), "target")
        waiting = Cat(known, self._inside, *(lanes.code[k] for k in range(n)))
        delay = row_latency(config) - 1 - code_latency(config)
        now = Signal((delay + 1).bit_length())
        m.submodules.waiting = memory = memory_of(shape=len(waiting), depth=1 << len(now))
        write, read = memory.write_port(), memory.read_port()
        m.d.sync += now.eq(now + 1)
        m.d.comb += [
            write.en.eq(1),
            write.addr.eq(now),
            write.data.eq(waiting),
            read.en.eq(1),
            read.addr.eq(now - (delay - 1)),
        ]
        flags, rest = read.data[:2], read.data[2:]
        address, rest = rest[: config.act_address_bits], rest[config.act_address_bits :]
        inside, before = rest[:n], rest[n:]
        gathered = [Signal(bits, name=f"gathered_{e}", reset_less=True) for e in range(config.elements)]
        index = Signal(exact_log2(steps))
        writing, end = Signal(), Signal()
        result = self.requantizer.o_valid & self.requantizer.active
        m.d.sync += [writing.eq(result & flags[0]), end.eq(flags[1])]
        with m.If(result):
            m.d.sync += [index.eq(index + 1), self.write.addr.eq(address)]
            for step in range(steps):
                with m.If(index == step):
                    m.d.sync += [
                        gathered[step * n + k].eq(
                            Mux(inside[k], self.requantizer.o_code[k], before.word_select(k, bits))
                        )
                        for k in range(n)
                    ]
        m.d.comb += [
            self.write.en.eq(writing),
            self.write.data.eq(Cat(gathered)),
            self.done.eq(writing & end),
        ]
        if config.slices > 1:
            m.d.comb += self.write.mask.eq(-1)


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    address, n, bits = c.act_address_bits, c.vector_lanes, c.activation.bits
    fmt, mux = c.activation, t.technology.mux
    steps = c.elements // n
    levels = [c.output_bits] * 4 + [c.channel_bits, steps.bit_length()]
    for _ in range(2):
        count_terms(levels, t)
        t.add(sums=5 * address + 2 * rows.COUNT_BITS, sources=8 * address, ff=10 * address + 32)
    reciprocal_terms(c, t)
    for _ in range(n):
        lanes_terms(c, t)
    circuits(fmt).bound_terms(t)
    t.add(one=1, read=address + rows.COUNT_BITS, inside=2 * rows.COUNT_BITS * n, run=n * bits * mux(steps))
    t.add(target=address, gathered=c.act_word_bits, parameter=2 * c.parameter_address_bits)
    found = t.technology.memory(2 + address + n * (bits + 1), 16)
    t.store(found, 2 + address + n * (bits + 1))
    t.add(ff=c.act_word_bits + 6 * address + 2 * fmt.fixed_bits + 2 * circuits(fmt).bound_shape.width + 80)
    t.add(ff=3 * rows.COUNT_BITS + (rows.epsilon_bits(fmt) if c.normalize else 0))
    t.ff["one"] = 1


ROW = Component(
    "row",
    (Row, Lanes, Reciprocal, NestedCounter),
    _terms,
    instances=lambda c: int(c.row_unit),
)
