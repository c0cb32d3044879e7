"""DRAIN: accumulators through the requantizers, and the activation table, into a slice of activation words.

Each step takes `vector_lanes` columns of a pixel, one step a cycle, `cols / vector_lanes` steps a pixel.
Nothing is kept between steps on the way in: each reads its accumulator, parameter and residual word again.
"""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from sateen.hw import isa
from sateen.hw.control.dispatch import is_idle
from sateen.hw.formats import circuits
from sateen.hw.isa import parameter_layout
from sateen.hw.memory.buffers import memory_of
from sateen.hw.ports import ReadPort, WritePort, activation_latency, vector_part
from sateen.hw.vector.requantize import Requantizer, control_layout, requantize_latency
from sateen.hw.walk import Walk
from sateen.hw.window import NestedCounter
from sateen.machine.config import AcceleratorConfig


def steps_per_pixel(config: AcceleratorConfig) -> int:
    """Steps, and cycles, of an output pixel."""
    return config.cols // config.vector_lanes


def drain_latency(config: AcceleratorConfig) -> int:
    """Cycles from a step's residual address to its write; what is read of accumulators and parameters waits for it."""
    return activation_latency(config) + requantize_latency(config) + config.table + 1


def row_signature(config: AcceleratorConfig) -> wiring.Signature:
    """How ROW uses the requantizer, while `active`; `hw/vector/row.py` drives it."""
    lanes = config.vector_lanes
    return wiring.Signature(
        {
            "active": Out(1),
            "control": Out(control_layout(config)),
            "valid": Out(1),
            "acc": Out(signed(config.acc_bits)).array(lanes),
            "parameter": Out(parameter_layout(config.acc_bits)).array(lanes),
            "o_valid": In(1),
            "o_code": In(config.activation.bits).array(lanes),
        }
    )


class Drain(wiring.Component):
    """The DRAIN half of the vector unit.

    Members
    -------
    start : In(1)
        Take `instruction`, a DRAIN, and begin. Only when idle.
    done : Out(1)
        Strobe with the last write.
    acc : Out(ReadPort(log2(2*acc_depth), cols*acc_bits))
        Accumulator words, latency `config.memory_latency`.
    parameter : Out(ReadPort(log2(parameter_depth), vector_lanes*parameter_bits))
        Parameter words, latency `config.memory_latency`.
    read : Out(ReadPort(log2(act_depth), act_word_bits))
        Residual words, latency `activation_latency(config)`.
    write : Out(WritePort(log2(act_depth), act_word_bits, slices))
    table : In(WritePort(activation.bits, 8))
        Fills the activation table. Only if `config.table`.
    row : In(row_signature(config))
        Only if `config.row_unit`.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        self.latency = drain_latency(config)
        acc_bits, parameter_bits = config.acc_address_bits, config.parameter_address_bits
        members = vector_part(isa.layout_of(isa.Opcode.DRAIN, config), config) | {
            "acc": Out(ReadPort(acc_bits, config.cols * config.acc_bits)),
            "parameter": Out(ReadPort(parameter_bits, config.vector_lanes * config.parameter_bits)),
        }
        if config.table:
            members["table"] = In(WritePort(config.activation.bits, 8))
        if config.row_unit:
            members["row"] = In(row_signature(config))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._idle = is_idle(m, self.start, self.done)
        m.submodules.requantizer = requantizer = Requantizer(
            config=self.config, lanes=self.config.vector_lanes
        )
        control, part = self._control(m), self._slice(m)
        valid, step, last = self._issue(m, control)
        codes_valid, codes = requantizer.o_valid, requantizer.o_code
        if self.config.row_unit:
            row = self.row
            m.d.comb += [
                requantizer.control.eq(Mux(row.active, row.control, control)),
                requantizer.i_valid.eq(Mux(row.active, row.valid, valid[-1])),
                row.o_valid.eq(codes_valid),
                *(mine.eq(code) for mine, code in zip(row.o_code, codes, strict=True)),
            ]
            codes_valid = codes_valid & ~row.active
        else:
            m.d.comb += [requantizer.control.eq(control), requantizer.i_valid.eq(valid[-1])]
        self._feed(m, requantizer, part, valid, step)
        if self.config.table:
            codes_valid, codes = self._look_up(m, codes_valid, codes)
        last = self._delay(m, last, self.latency - 1)
        self._write(m, codes_valid, codes, last, part)
        return m

    def _control(self, m: Module) -> data.View:
        """The fields that do not change during the instruction."""
        config, i = self.config, self.instruction
        control = Signal(control_layout(config), reset_less=True)
        low, high = Signal.like(i.low, reset_less=True), Signal.like(i.high, reset_less=True)
        reads = i.residual & ~i.raw if config.residual else 0
        adds: ValueLike = reads
        if config.product:  # a multiplier of 0 says that the residual is one itself
            adds = reads & i.residual_multiplier.any()
            with m.If(self._idle):
                m.d.sync += control.product.eq(reads & ~i.residual_multiplier.any())
        with m.If(self._idle):
            m.d.sync += [
                control.residual.eq(adds),
                control.residual_multiplier.eq(i.residual_multiplier),
                control.residual_shift.eq(i.residual_shift),
                control.residual_zero.eq(i.residual_zero),
                control.zero_point.eq(Mux(i.raw, 0, i.zero_point)),
                control.raw.eq(i.raw),
                control.raw_shift.eq(i.raw_shift),
                low.eq(i.low),
                high.eq(i.high),
            ]
        bounds = circuits(config.activation)
        # settled long before the first channel is clamped
        m.d.sync += [
            control.low.eq(bounds.bound(m, low, "low")),
            control.high.eq(bounds.bound(m, high, "high")),
        ]
        if config.own_gradients:
            bounds = circuits(config.gradient)
            with m.If(self._idle):
                m.d.sync += control.gradient.eq(i.gradient)
            m.d.sync += [
                control.gradient_low.eq(bounds.bound(m, low, "gradient_low")),
                control.gradient_high.eq(bounds.bound(m, high, "gradient_high")),
            ]
        return control

    def _issue(self, m: Module, control: data.View) -> tuple[Value, list[Value], Value]:
        """Read addresses. Returns whether there is a step, 1 to `activation_latency` cycles after its addresses, and
        which of its pixel, 0 to as many after; with them: the pixel is the last of its row, and of all."""
        config, i = self.config, self.instruction
        step_bits, latency = exact_log2(steps_per_pixel(config)), activation_latency(config)
        m.submodules.nest = nest = NestedCounter(
            levels={"y": config.output_bits, "x": config.output_bits}, sums={}
        )
        active, pixel_end = Signal(), Signal()
        step = [Signal(step_bits, name=f"step_{k}") for k in range(latency + 1)]
        m.d.comb += [
            pixel_end.eq(active & (step[0] == (1 << step_bits) - 1)),
            nest.load.eq(self._idle),
            nest.step.eq(pixel_end),
            nest.parameters.count.y.eq(i.out_h),
            nest.parameters.count.x.eq(i.out_w),
        ]
        if config.residual:
            m.submodules.residual = residual = Walk(addr_bits=len(self.read.addr))
            m.d.comb += [
                residual.load.eq(self._idle),
                residual.base.eq(i.residual_base),
                residual.step_x.eq(i.residual_step_x),
                residual.step_y.eq(i.residual_step_y),
                residual.step.eq(pixel_end),
                residual.pixel_end.eq(1),
                residual.row_end.eq(nest.last.x),
                self.read.en.eq(
                    active & (control.residual | control.product if config.product else control.residual)
                ),
                self.read.addr.eq(residual.addr),
            ]
        with m.If(self.start):
            m.d.sync += active.eq(1)
        with m.Elif(pixel_end):
            m.d.sync += active.eq(~nest.last.y)
        with m.If(self._idle):
            m.d.sync += self.acc.addr.eq(i.acc_base)
        with m.Elif(pixel_end):  # pixels lie one after another there
            m.d.sync += self.acc.addr.eq(self.acc.addr + 1)
        with m.If(active):
            m.d.sync += step[0].eq(step[0] + 1)  # wraps, as the steps are a power of two
        valid = Signal(latency)
        m.d.sync += [valid.eq(Cat(active, valid)), *(b.eq(a) for a, b in pairwise(step))]
        parameter_base = Signal(len(self.parameter.addr), reset_less=True)
        with m.If(self._idle):
            m.d.sync += parameter_base.eq(i.parameter_base)
        m.d.comb += [
            self.acc.en.eq(active),
            self.parameter.en.eq(active),
            self.parameter.addr.eq(parameter_base + step[0]),
        ]
        return valid, step, Cat(nest.last.x, nest.last.y)

    def _delay(self, m: Module, value: Value, cycles: int) -> Value:
        """`value`, so many cycles later."""
        for k in range(cycles):
            register = Signal(len(value), name=f"last_{k + 1}", reset_less=True)
            m.d.sync += register.eq(value)
            value = register
        return value

    def _feed(
        self, m: Module, requantizer: Requantizer, part: Value, valid: Value, step: list[Value]
    ) -> None:
        """The columns of the step, of which slice `part` of the residual's word has the residual."""
        config, lanes = self.config, self.config.vector_lanes

        def pick(word: Value, index: Value, lane: int, bits: int) -> Value:
            """Element index*lanes + lane, as one expression."""
            choices = [word[k * bits : (k + 1) * bits] for k in range(lane, len(word) // bits, lanes)]
            for bit in index:
                choices = [Mux(bit, high, low) for low, high in zip(choices[::2], choices[1::2], strict=True)]
            return choices[0]

        for k in range(lanes):
            acc = Signal.like(requantizer.i_acc[k], name=f"acc_{k}", reset_less=True)
            parameter = Signal(config.parameter_bits, name=f"parameter_{k}", reset_less=True)
            with m.If(valid[-2]):
                m.d.sync += [
                    acc.eq(pick(self.acc.data, step[-2], k, config.acc_bits)),
                    parameter.eq(self.parameter.data.word_select(k, config.parameter_bits)),
                ]
            run = Cat(step[-1], part)
            if config.row_unit:
                acc = Mux(self.row.active, self.row.acc[k], acc)
                parameter = Mux(self.row.active, Value.cast(self.row.parameter[k]), parameter)
            m.d.comb += [
                requantizer.i_acc[k].eq(acc),
                Value.cast(requantizer.i_parameter[k]).eq(parameter),
                requantizer.i_residual[k].eq(pick(self.read.data, run, k, config.activation.bits)),
            ]

    def _slice(self, m: Module) -> Value:
        """The slice of the word that is read and written."""
        index = Signal(exact_log2(self.config.slices), reset_less=True)
        with m.If(self._idle):
            m.d.sync += index.eq(self.instruction.slice)
        return index

    def _look_up(self, m: Module, valid: Value, codes: list[Value]) -> tuple[Value, list[Value]]:
        """The table, or a register in its place. One copy of the table for each lane."""
        bits = self.config.activation.bits
        use = Signal()
        with m.If(self._idle):
            m.d.sync += use.eq(self.instruction.table & ~self.instruction.raw)
        found = Signal()
        m.d.sync += found.eq(valid)
        results = []
        for k, code in enumerate(codes):
            m.submodules[f"table_{k}"] = table = memory_of(shape=bits, depth=1 << bits)
            write, read = table.write_port(), table.read_port()
            passed = Signal(bits, name=f"passed_{k}", reset_less=True)
            with m.If(valid):
                m.d.sync += passed.eq(code)
            m.d.comb += [
                write.en.eq(self.table.en),
                write.addr.eq(self.table.addr),
                write.data.eq(self.table.data),
                read.en.eq(valid),
                read.addr.eq(code),
            ]
            results.append(Mux(use, read.data, passed))
        return found, results

    def _write(self, m: Module, valid: Value, codes: list[Value], last: Value, part: Value) -> None:
        """Gather a pixel's codes and write them to slice `part`."""
        config, i = self.config, self.instruction
        steps = steps_per_pixel(config)
        gathered = [
            Signal(config.activation.bits, name=f"gathered_{k}", reset_less=True) for k in range(config.cols)
        ]
        index = Signal(exact_log2(steps))
        with m.If(valid):
            m.d.sync += index.eq(index + 1)
            for k in range(steps):
                with m.If(index == k):
                    m.d.sync += [gathered[k * len(codes) + j].eq(code) for j, code in enumerate(codes)]
        writing, last_x, last_y = Signal(), Signal(), Signal()
        with m.If(valid):
            m.d.sync += [last_x.eq(last[0]), last_y.eq(last[1])]
        m.submodules.walk = walk = Walk(addr_bits=config.act_address_bits)
        m.d.sync += writing.eq(valid & (index == steps - 1))
        m.d.comb += [
            walk.load.eq(self._idle),
            walk.base.eq(i.base),
            walk.step_x.eq(i.step_x),
            walk.step_y.eq(i.step_y),
            walk.step.eq(writing),
            walk.pixel_end.eq(1),
            walk.row_end.eq(last_x),
            self.write.en.eq(writing),
            self.write.addr.eq(walk.addr),
            self.write.data.eq(Cat(gathered).replicate(config.slices)),
            self.done.eq(writing & last_y),
        ]
        if config.slices > 1:
            m.d.comb += self.write.mask.eq(1 << part)
