"""The accelerator: four units, their buffers, control and registers, between memory and host.

With several arrays it has the units and buffers several times, and control and registers once.
"""

from dataclasses import replace

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.hw import isa
from sateen.hw.control.registers import REGISTERS, Registers
from sateen.hw.control.unit import CONTROL, Control
from sateen.hw.matrix.unit import MATRIX, MatrixUnit
from sateen.hw.memory.arrays import SHARING, SharedReads, SharedWrites
from sateen.hw.memory.axi import AXI4, AXI4Lite, attach
from sateen.hw.memory.buffers import (
    ACTIVATIONS,
    INDICES,
    PARAMETERS,
    WEIGHTS,
    ActivationBuffer,
    Buffer,
    IndexBuffer,
)
from sateen.hw.memory.load import LOAD, LoadUnit
from sateen.hw.memory.move import MOVE
from sateen.hw.memory.moving_store import MovingStoreUnit
from sateen.hw.memory.select import SELECT
from sateen.hw.memory.store import STORE, StoreUnit
from sateen.hw.shared import Shared
from sateen.hw.terms import Component
from sateen.hw.vector.unit import VECTOR, VectorUnit
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import BUS, Unit
from sateen.machine.registers import ADDRESS_BITS


class Accelerator(wiring.Component):
    """The machine of docs/isa.md.

    Members
    -------
    bus : Out(AXI4(bus_bits))
        To memory.
    control : In(AXI4Lite)
        The registers.
    interrupt : Out(1)
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "bus": Out(AXI4(config.bus_bits)),
                "control": In(AXI4Lite(addr_bits=ADDRESS_BITS)),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        kinds: dict[Unit, type[wiring.Component]] = {
            Unit.LOAD: LoadUnit,
            Unit.MATRIX: MatrixUnit,
            Unit.VECTOR: VectorUnit,
            Unit.STORE: MovingStoreUnit if config.computed_weights else StoreUnit,
        }
        arrays = [{unit: kind(config=config) for unit, kind in kinds.items()} for _ in range(config.arrays)]
        m.submodules.registers = registers = Registers(config=config)
        m.submodules.control = control = Control(config=config)
        if isinstance(platform, Shared):
            platform.clear = control.clear
        conflicts = [self._array(m, n, units, control) for n, units in enumerate(arrays)]

        units = arrays[0]  # the others do the same in the same cycles, and have no control of their own
        load, store = units[Unit.LOAD], units[Unit.STORE]
        if config.arrays > 1:
            read, written = self._share(m, arrays, control, registers)
        else:
            attach(m, self.bus, load.axi)
            attach(m, self.bus, store.axi)
            read, written = load.beat, store.beat
        wiring.connect(m, wiring.flipped(self.control), registers.bus)
        m.d.comb += [
            self.interrupt.eq(registers.interrupt),
            *(
                unit.base.eq(registers.base)
                for array in arrays
                for unit in (array[Unit.LOAD], array[Unit.STORE])
            ),
            control.i_valid.eq(load.instruction_valid),
            control.i_data.eq(load.instruction_data),
            control.read_error.eq(load.error),
            control.write_error.eq(store.error),
            *(registers.stall[u].eq(units[u].stall) for u in BUS),
            registers.beats.eq(Cat(read, written)),
        ]
        # A cycle late, for speed; what does the conflicting access is not done before.
        m.d.sync += control.bank_conflict.eq(conflicts[0])
        for name in ("start", "soft_reset", "program", "timeout", "expired"):
            m.d.comb += getattr(control, name).eq(getattr(registers, name))
        for name in ("ready", "busy", "done", "error", "finish", "executing", "pending"):
            m.d.comb += getattr(registers, name).eq(getattr(control, name))
        return m

    def _array(self, m: Module, n: int, units: dict[Unit, wiring.Component], control: Control) -> Value:
        """An array: its units and their buffers. Returns whether two units are at one port."""
        config = self.config
        suffix = f"_{n}" if n else ""
        load, matrix = units[Unit.LOAD], units[Unit.MATRIX]
        vector, store = units[Unit.VECTOR], units[Unit.STORE]
        activations = ActivationBuffer(config=config)
        weights = Buffer(
            depth=config.weight_depth, width=config.weight_word_bits, registered=config.memory_registers
        )
        m.submodules[f"activations{suffix}"], m.submodules[f"weights{suffix}"] = activations, weights
        if config.indexed:
            m.submodules[f"indices{suffix}"] = indices = IndexBuffer(config=config)
            wiring.connect(m, load.index, indices.write)
            wiring.connect(m, matrix.index_read, indices.read)
        parameters = Buffer(
            depth=config.parameter_depth,
            width=config.vector_lanes * config.parameter_bits,
            registered=config.memory_registers,
        )
        m.submodules[f"parameters{suffix}"] = parameters

        for kind in Unit:
            unit, name = units[kind], kind.label
            # What an error left half done must not reach the next run.
            m.submodules[f"{name}{suffix}"] = ResetInserter(control.clear)(unit)
            port = getattr(control, name)
            m.d.comb += [
                unit.start.eq(port.start),
                unit.instruction.eq(port.instruction),
                *([] if n else [port.done.eq(unit.done)]),
            ]

        shared = isinstance(store, MovingStoreUnit)  # the write port of the weights
        for requester, buffer in (
            (load.activation, activations.load_write),
            *([] if shared else [(load.weight, weights.write)]),
            (load.parameter, parameters.write),
            (matrix.act_read, activations.matrix_read),
            (matrix.weight_read, weights.read),
            (vector.read, activations.vector_read),
            (vector.write, activations.vector_write),
            (vector.parameter, parameters.read),
            (vector.acc, matrix.acc_read),
            (store.activation, activations.store_read),
        ):
            wiring.connect(m, requester, buffer)
        if config.table:
            wiring.connect(m, load.table, vector.table)
        if config.softmax:
            wiring.connect(m, load.exponential, vector.exponential)
        conflict = activations.conflict | matrix.acc_conflict
        if shared:
            moved = store.weight.en
            m.d.comb += [
                weights.write.en.eq(load.weight.en | moved),
                weights.write.addr.eq(Mux(moved, store.weight.addr, load.weight.addr)),
                weights.write.data.eq(Mux(moved, store.weight.data, load.weight.data)),
            ]
            conflict |= load.weight.en & moved
        if config.computed_patterns:
            wiring.connect(m, store.index, indices.moved)
            conflict |= load.index.en & store.index.en
        return conflict

    def _share(
        self, m: Module, arrays: list[dict[Unit, wiring.Component]], control: Control, registers: Registers
    ) -> tuple[Value, Value]:
        """All arrays on the one bus. Returns whether a beat is read, written."""
        reads, writes = SharedReads(config=self.config), SharedWrites(config=self.config)
        m.submodules.reads = ResetInserter(control.clear)(reads)
        m.submodules.writes = ResetInserter(control.clear)(writes)
        for n, units in enumerate(arrays):
            wiring.connect(m, units[Unit.LOAD].axi, reads.parts[n])
            wiring.connect(m, units[Unit.STORE].axi, writes.parts[n])
        attach(m, self.bus, reads.axi)
        attach(m, self.bus, writes.axi)
        port = control.load
        load = data.View(isa.LOAD, port.instruction[: isa.LOAD.size])
        m.d.comb += [
            reads.start.eq(port.start),
            reads.source.eq(load.source),
            reads.data.eq(registers.data),
            reads.stride.eq(registers.stride),
            writes.stride.eq(registers.stride),
        ]
        return self.bus.rvalid & self.bus.rready, self.bus.wvalid & self.bus.wready


def _each(child: Component) -> Component:
    """Of every array."""
    return replace(child, instances=lambda c: c.arrays * child.instances(c))


MACHINE = Component(
    "machine",
    (Accelerator, MovingStoreUnit),
    children=(
        REGISTERS,
        CONTROL,
        SHARING,
        *map(_each, (ACTIVATIONS, WEIGHTS, INDICES, PARAMETERS, LOAD, STORE, MOVE, SELECT, MATRIX, VECTOR)),
    ),
)
"""What estimates walk."""
