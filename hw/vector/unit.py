"""The vector unit executes DRAIN (hw/vector/drain.py) and POOL (hw/vector/pool.py), one at a time."""

from collections.abc import Callable, Mapping

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from sateen.hw import isa
from sateen.hw.formats import circuits
from sateen.hw.terms import Component, Terms
from sateen.hw.vector.drain import Drain, drain_latency, steps_per_pixel
from sateen.hw.vector.pool import POOL, Pool
from sateen.hw.vector.requantize import REQUANTIZER
from sateen.hw.walk import Walk
from sateen.hw.window import NestedCounter, count_terms
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode


def drain_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of a DRAIN instruction: cycles from start to done.

    Parameters
    ----------
    fields : mapping or object
        The fields of isa.DRAIN as integers.
    """
    get = _getter(fields)
    return get("out_h") * get("out_w") * steps_per_pixel(config) + drain_latency(config)


def pool_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of a POOL instruction: cycles from start to done; a tap takes a cycle, inside the plane or not.

    Parameters
    ----------
    fields : mapping or object
        The fields of isa.POOL as integers.
    """
    get = _getter(fields)
    words = get("out_h") * get("out_w") * get("channel_words")
    return words * get("kernel_h") * get("kernel_w") + Pool.latency


def _getter(fields: object) -> Callable[[str], int]:
    if isinstance(fields, Mapping):
        return lambda name: int(fields[name])
    return lambda name: int(getattr(fields, name))


class VectorUnit(wiring.Component):
    """The unit.

    Members
    -------
    start, instruction, done
        The unit protocol: `instruction` is an isa.DRAIN or isa.POOL in its low bits. `done` comes
        drain_cycles() or pool_cycles() after `start`, with the last write.
    acc : Out(ReadPort(log2(2*acc_depth), cols*acc_bits))
        Accumulator words, latency 1.
    parameter : Out(ReadPort(log2(parameter_depth), vector_lanes*parameter_bits))
        Parameter words, latency 1, channel 0 lowest, without gaps.
    read : Out(ReadPort(log2(act_depth), act_word_bits))
        Activation words, latency 2.
    write : Out(WritePort(log2(act_depth), act_word_bits, slices))
        Slices of activation words; no `mask` if slices = 1.
    table : In(WritePort(activation.bits, 8))
        Fills the activation table. Only if `config.table`.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        self.drain = Drain(config=config)
        self.pool = Pool(config=config)
        ports = self.drain.signature.members
        members = {name: ports[name] for name in ("acc", "parameter", "read", "write")}
        if config.table:
            members["table"] = ports["table"]
        super().__init__({"start": In(1), "instruction": In(isa.INSTRUCTION_BITS), "done": Out(1)} | members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.drain = drain = self.drain
        m.submodules.pool = pool = self.pool
        opcode = data.View(isa.HEADER, self.instruction[: isa.HEADER.size]).opcode
        pooling = Signal()  # the last start was a POOL; settled before any access
        with m.If(self.start):
            m.d.sync += pooling.eq(opcode == Opcode.POOL)
        m.d.comb += [
            drain.instruction.eq(self.instruction[: isa.DRAIN.size]),
            drain.start.eq(self.start & (opcode == Opcode.DRAIN)),
            pool.instruction.eq(self.instruction[: isa.POOL.size]),
            pool.start.eq(self.start & (opcode == Opcode.POOL)),
            self.done.eq(drain.done | pool.done),
            drain.read.data.eq(self.read.data),
            pool.read.data.eq(self.read.data),
            self.read.en.eq(drain.read.en | pool.read.en),
            self.read.addr.eq(Mux(pooling, pool.read.addr, drain.read.addr)),
            self.write.en.eq(drain.write.en | pool.write.en),
            self.write.addr.eq(Mux(pooling, pool.write.addr, drain.write.addr)),
            self.write.data.eq(Mux(pooling, pool.write.data, drain.write.data)),
        ]
        if self.config.slices > 1:
            m.d.comb += self.write.mask.eq(Mux(pooling, pool.write.mask, drain.write.mask))
        wiring.connect(m, wiring.flipped(self.acc), drain.acc)
        wiring.connect(m, wiring.flipped(self.parameter), drain.parameter)
        if self.config.table:
            wiring.connect(m, wiring.flipped(self.table), drain.table)
        return m


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
    children=(REQUANTIZER, POOL),
    paths=lambda c, d: {"drain": d.memory + d.select(c.cols // c.vector_lanes)},
)
