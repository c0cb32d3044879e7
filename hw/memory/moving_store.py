"""The store unit of machines with `computed_weights`: STORE, or either kind of MOVE."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring

from sateen.hw import isa
from sateen.hw.memory.move import Move
from sateen.hw.memory.select import SelectingMove
from sateen.hw.memory.store import StoreUnit
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode


class MovingStoreUnit(wiring.Component):
    """The store unit of a machine with `computed_weights`: STORE and MOVE, one at a time, on one read port.

    Members
    -------
    weight : Out(WritePort(log2(weight_depth), weight_word_bits))
        What MOVE writes.
    index : Out(WritePort(log2(weight_depth), index_row_bits))
        Likewise, with `computed_patterns`.
    others :
        As `StoreUnit`'s.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        move = SelectingMove if config.computed_patterns else Move
        self.store, self.move = StoreUnit(config=config), move(config=config)
        self.writes = ["weight", *(["index"] if config.computed_patterns else [])]
        members = self.move.signature.members
        super().__init__(dict(self.store.signature.members) | {name: members[name] for name in self.writes})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.store, m.submodules.move = store, move = self.store, self.move
        moves = data.View(isa.HEADER, self.instruction[: isa.HEADER.size]).opcode == Opcode.MOVE
        moving = Signal()  # settled before any access
        with m.If(self.start):
            m.d.sync += moving.eq(moves)
        for name in ("axi", "error", "stall", "beat"):
            if name == "axi":
                wiring.connect(m, wiring.flipped(self.axi), store.axi)
            else:
                m.d.comb += getattr(self, name).eq(getattr(store, name))
        for name in self.writes:
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(move, name))
        m.d.comb += [
            store.base.eq(self.base),
            store.instruction.eq(self.instruction),
            move.instruction.eq(self.instruction[: Value.cast(move.instruction).shape().width]),
            store.start.eq(self.start & ~moves),
            move.start.eq(self.start & moves),
            self.done.eq(store.done | move.done),
            self.activation.en.eq(store.activation.en | move.activation.en),
            self.activation.addr.eq(Mux(moving, move.activation.addr, store.activation.addr)),
            store.activation.data.eq(self.activation.data),
            move.activation.data.eq(self.activation.data),
        ]
        return m
