"""A machine that only loads and stores: the real control, bus and units around an activation memory."""

from amaranth.back import verilog
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sateen.hw.control.registers import Registers
from sateen.hw.control.unit import Control
from sateen.hw.memory import axi
from sateen.hw.memory.load import LoadUnit
from sateen.hw.memory.store import StoreUnit
from sateen.machine.config import AcceleratorConfig


class CopyMachine(wiring.Component):
    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "m_axi": Out(axi.AXI4(config.bus_bits)),
                "s_axi": In(axi.AXI4Lite()),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.registers = registers = Registers(config=config)
        m.submodules.control = control = Control(config=config)
        m.submodules.load = load = LoadUnit(config=config)
        m.submodules.store = store = StoreUnit(config=config)
        m.submodules.ram = ram = Memory(shape=config.act_word_bits, depth=config.act_depth, init=[])
        wiring.connect(m, wiring.flipped(self.s_axi), registers.bus)
        axi.attach(m, self.m_axi, load.axi)
        axi.attach(m, self.m_axi, store.axi)
        for name, part in (("load", load), ("store", store)):
            unit = getattr(control, name)
            m.d.comb += [
                part.start.eq(unit.start),
                part.instruction.eq(unit.instruction),
                unit.done.eq(part.done),
                part.base.eq(registers.base),
            ]
        for name in ("start", "soft_reset", "program", "timeout", "expired"):
            m.d.comb += getattr(control, name).eq(getattr(registers, name))
        for name in ("finish", "ready", "busy", "done", "error", "executing", "pending"):
            m.d.comb += getattr(registers, name).eq(getattr(control, name))
        m.d.comb += [
            self.interrupt.eq(registers.interrupt),
            registers.stall[0].eq(load.stall),
            registers.stall[3].eq(store.stall),
            registers.beats[0].eq(load.beat),
            registers.beats[1].eq(store.beat),
            control.read_error.eq(load.error),
            control.write_error.eq(store.error),
            control.i_valid.eq(load.instruction_valid),
            control.i_data.eq(load.instruction_data),
        ]
        write, read = ram.write_port(), ram.read_port()
        late = Signal(config.act_word_bits)
        m.d.sync += late.eq(read.data)
        m.d.comb += [
            write.en.eq(load.activation.en),
            write.addr.eq(load.activation.addr),
            write.data.eq(load.activation.data),
            read.en.eq(1),
            read.addr.eq(store.activation.addr),
            store.activation.data.eq(late),
        ]
        return m


def emit(config: AcceleratorConfig) -> str:
    top = CopyMachine(config=config)
    ports = {"interrupt": (top.interrupt, None)}
    for bus in ("m_axi", "s_axi"):
        interface = getattr(top, bus)
        for name in interface.signature.members:
            ports[f"{bus}_{name}"] = (Value.cast(getattr(interface, name)), None)
    return verilog.convert(top, name="accelerator", ports=ports, emit_src=False)
