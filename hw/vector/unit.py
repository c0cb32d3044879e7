"""The vector unit executes the instructions of `PARTS`, one at a time: a block each, such as hw/vector/drain.py."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from sateen.hw import isa
from sateen.hw.formats import circuits
from sateen.hw.isa import getter
from sateen.hw.terms import Component, Terms
from sateen.hw.vector.drain import Drain, drain_latency, steps_per_pixel
from sateen.hw.vector.gate import GATE, Gate, gate_cycles
from sateen.hw.vector.pool import POOL, Pool, pool_latency
from sateen.hw.vector.requantize import REQUANTIZER
from sateen.hw.vector.row import ROW, Row, row_cycles
from sateen.hw.vector.update import UPDATE, UpdateUnit, update_cycles
from sateen.hw.walk import Walk
from sateen.hw.window import NestedCounter, count_terms
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, Unit, instructions_of


def drain_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of a DRAIN instruction: cycles from start to done.

    Parameters
    ----------
    fields : mapping or object
        The fields of isa.DRAIN as integers.
    """
    get = getter(fields)
    return get("out_h") * get("out_w") * steps_per_pixel(config) + drain_latency(config)


def pool_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of a POOL instruction: cycles from start to done; a tap takes a cycle, inside the plane or not.

    Parameters
    ----------
    fields : mapping or object
        The fields of isa.POOL as integers.
    """
    get = getter(fields)
    words = get("out_h") * get("out_w") * get("channel_words")
    return words * get("kernel_h") * get("kernel_w") + pool_latency(config)


@dataclass(frozen=True)
class Part:
    """What executes one of the unit's instructions: a block with ports `start`, `instruction`, `done`, and at least a
    `write` that is 0 while it is not at work; the cycles from start to done, of fields and configuration."""

    name: str
    block: Callable[..., Any]
    """Takes `config`."""
    cycles: Callable[[Any, AcceleratorConfig], int]


PARTS = {
    Opcode.DRAIN: Part("drain", Drain, drain_cycles),
    Opcode.POOL: Part("pool", Pool, pool_cycles),
    Opcode.GATE: Part("gate", Gate, gate_cycles),
    Opcode.ROW: Part("row", Row, row_cycles),
    Opcode.UPDATE: Part("update", UpdateUnit, update_cycles),
}


def parts_of(config: AcceleratorConfig) -> dict[Opcode, Part]:
    """Those that the machine has."""
    return {layout.opcode: PARTS[layout.opcode] for layout in instructions_of(Unit.VECTOR, config)}


class VectorUnit(wiring.Component):
    """The unit.

    Members
    -------
    start, instruction, done
        The unit protocol: `instruction` is one of those of `PARTS` in its low bits. `done` comes the part's `cycles`
        after `start`, with the last write.
    acc : Out(ReadPort(log2(2*acc_depth), cols*acc_bits))
        Accumulator words, latency `config.memory_latency`.
    parameter : Out(ReadPort(log2(parameter_depth), vector_lanes*parameter_bits))
        Parameter words, latency `config.memory_latency`, channel 0 lowest, without gaps.
    read : Out(ReadPort(log2(act_depth), act_word_bits))
        Activation words, latency `activation_latency(config)`.
    write : Out(WritePort(log2(act_depth), act_word_bits, slices))
        Slices of activation words; no `mask` if slices = 1.
    table : In(WritePort(activation.bits, 8))
        Fills the activation table. Only if `config.table`.
    exponential : In(WritePort(activation.bits, 32))
        Fills the table of exponentials. Only if `config.softmax`.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        self.parts: dict[Opcode, Any] = {
            opcode: part.block(config=config) for opcode, part in parts_of(config).items()
        }
        ports = self.parts[Opcode.DRAIN].signature.members
        members = {name: ports[name] for name in ("acc", "parameter", "read", "write")}
        if config.table:
            members["table"] = ports["table"]
        if config.softmax:
            members["exponential"] = self.parts[Opcode.ROW].signature.members["exponential"]
        super().__init__({"start": In(1), "instruction": In(isa.INSTRUCTION_BITS), "done": Out(1)} | members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        opcode = data.View(isa.HEADER, self.instruction[: isa.HEADER.size]).opcode
        first, *others = self.parts
        # the last start was this part's; settled before any access
        started = {kind: Signal(name=f"{PARTS[kind].name}_started") for kind in others}
        with m.If(self.start):
            m.d.sync += [signal.eq(opcode == kind) for kind, signal in started.items()]
        for kind, part in self.parts.items():
            m.submodules[PARTS[kind].name] = part
            m.d.comb += [
                part.instruction.eq(self.instruction[: len(Value.cast(part.instruction))]),
                part.start.eq(self.start & (opcode == kind)),
            ]
        m.d.comb += self.done.eq(_any(part.done for part in self.parts.values()))
        mask = ("mask",) if self.config.slices > 1 else ()
        shared: dict[str, tuple[str, ...]] = {"read": ("addr",), "write": ("addr", "data", *mask)}
        if self.config.row_unit:
            shared["parameter"] = ("addr",)
        for name, signals in shared.items():
            mine = getattr(self, name)
            ports = {k: getattr(p, name) for k, p in self.parts.items() if name in p.signature.members}
            m.d.comb += mine.en.eq(_any(port.en for port in ports.values()))
            for signal in signals:
                value = getattr(ports[first], signal)
                for kind in others:
                    if kind in ports:
                        value = Mux(started[kind], getattr(ports[kind], signal), value)
                m.d.comb += getattr(mine, signal).eq(value)
            if name != "write":
                m.d.comb += [port.data.eq(mine.data) for port in ports.values()]
        drain = self.parts[Opcode.DRAIN]
        wiring.connect(m, wiring.flipped(self.acc), drain.acc)
        if self.config.row_unit:
            row = self.parts[Opcode.ROW]
            wiring.connect(m, row.requantizer, drain.row)
        else:
            wiring.connect(m, wiring.flipped(self.parameter), drain.parameter)
        if self.config.softmax:
            wiring.connect(m, wiring.flipped(self.exponential), row.exponential)
        if self.config.table:
            wiring.connect(m, wiring.flipped(self.table), drain.table)
        return m


def _any(values: Iterable[Value]) -> Value:
    return reduce(or_, values)


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    lanes, bits, address = c.vector_lanes, c.activation.bits, ceil_log2(c.act_depth)
    steps = c.cols // lanes
    acc, parameter = c.acc_address_bits, ceil_log2(c.parameter_depth)
    mux = t.technology.mux
    t.add(one=1, acc=lanes * c.acc_bits * mux(steps), written=c.act_word_bits, addresses=2 * address,
          steps=steps, parameter=parameter, acc_address=2 * acc, walk=4 * address,
          residual=c.residual * lanes * bits * mux(c.elements // lanes), residual_walk=4 * c.residual * address,
          slices=c.slices if c.slices > 1 else 0)  # fmt: skip
    count_terms([c.output_bits] * 2, t)
    codes = circuits(c.activation)
    codes.bound_terms(t)
    t.add(ff=lanes * (c.acc_bits + c.parameter_bits) + c.cols * bits + 4 * address * (1 + c.residual) + acc
          + parameter + ceil_log2(steps) * 4 + ceil_log2(c.slices) + 2 * c.activation.fixed_bits
          + 2 * codes.bound_shape.width + c.residual + 2 * (codes.requantize_latency + c.table))  # fmt: skip
    t.ff["one"] = 1
    if t.technology.least_chain:  # the flags of a word are delayed by LUTs there
        t.add(ff=-2 * (codes.requantize_latency + c.table + 2))
    if c.table:
        found = t.technology.memory(bits, 1 << bits)
        for _ in range(lanes):
            t.store(found, bits)
        t.add(table=lanes * bits, ff=lanes * bits + 2)


VECTOR = Component(
    "vector",
    (VectorUnit, Drain, NestedCounter, Walk),
    _terms,
    children=(REQUANTIZER, POOL, GATE, ROW, UPDATE),
    paths=lambda c, d: {
        "drain": (d.register if c.memory_registers else d.memory) + d.select(c.cols // c.vector_lanes)
    },
)
