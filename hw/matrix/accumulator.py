"""The accumulators: two banks of `acc_depth` words of `cols` sums, one filled while the other is drained.

The matrix side reads, keeps, adds and writes a word each cycle in a pipeline of four, or five where a register follows
the memories; the same word may come again after `min_interval` cycles. The other side is a read port. Both may be busy
in every cycle, each in its bank.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.hw.memory.buffers import behind, memory_of
from sateen.hw.ports import ReadPort
from sateen.hw.terms import Component, Terms
from sateen.machine.config import AcceleratorConfig

BANKS = 2


def announced(config: AcceleratorConfig) -> int:
    """Cycles by which the address of sums is ahead of them: what the memory has there is kept in the cycle before."""
    return 1 + config.memory_latency


def accumulator_latency(config: AcceleratorConfig) -> int:
    """Cycles from the address of sums to the first in which a read of the word, by either side, gives the new one; and
    from one address to the next that is the same."""
    return announced(config) + 2


class Accumulator(wiring.Component):
    """Both banks.

    Members
    -------
    i_valid : In(1)
        A word of sums comes in `announced(config)` cycles, for address `i_addr`.
    i_addr : In(addr_bits)
        Counts through both banks, the bank on top.
    i_add : In(1)
        Belongs to `i_valid`: add to the word; overwrite it otherwise.
    i_shifted : In(1)
        Likewise: add to 2**weight.bits times the word. Only if `config.computed_digits`.
    i_psum : In
        `cols` sums, so long after `i_valid`.
    read : In(ReadPort)
        Latency `read_latency`.
    conflict : Out(1)
        Both sides want to read one bank; `read` then gets a wrong word. Programs never do this.
    """

    initiation_interval = 1

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        self.latency = self.min_interval = accumulator_latency(config)
        self.read_latency = config.memory_latency
        self.addr_bits = config.acc_address_bits
        self.word = data.ArrayLayout(signed(config.acc_bits), config.cols)
        super().__init__(
            {
                "i_valid": In(1),
                "i_addr": In(self.addr_bits),
                "i_add": In(1),
                "i_psum": In(self.word),
                "read": In(ReadPort(self.addr_bits, config.cols * config.acc_bits)),
                "conflict": Out(1),
            }
            | ({"i_shifted": In(1)} if config.computed_digits else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self.config.acc_depth
        offset_bits = self.addr_bits - 1
        bank, read_bank = self.i_addr[-1], self.read.addr[-1]
        fetch = self.i_valid & self.i_add
        m.d.comb += self.conflict.eq(self.read.en & fetch & (bank == read_bank))

        # stage 1, keeping: the old word comes out of its bank, too late in the cycle to be added to at once;
        # stage 2, adding: the sums are here, too; stage 3, writing: the new word is
        keeping, adding, writing = Signal(), Signal(), Signal()
        add = Signal()
        keep_addr, add_addr, write_addr = (
            Signal(self.addr_bits, name=name, reset_less=True)
            for name in ("keep_addr", "add_addr", "write_addr")
        )
        old = Signal(self.word, reset_less=True)
        sums = Signal(self.word, reset_less=True)
        answering = Signal()  # bank of `read` in the cycle before
        coming, coming_add, coming_addr = self.i_valid, self.i_add, self.i_addr
        if (
            self.config.memory_registers
        ):  # what comes waits for the memory's register, and so does what is asked
            coming = behind(m, coming, True, "fetching")
            coming_add = behind(m, coming_add, True, "fetch_add")
            coming_addr = behind(m, coming_addr, True, "fetch_addr")
        m.d.sync += [keeping.eq(coming), adding.eq(keeping), writing.eq(adding)]
        with m.If(coming):
            m.d.sync += [add.eq(coming_add), keep_addr.eq(coming_addr)]
        with m.If(self.read.en):
            m.d.sync += answering.eq(read_bank)

        words = []
        for k in range(BANKS):
            memory = memory_of(shape=unsigned(self.word.size), depth=depth)
            m.submodules[f"bank_{k}"] = memory
            read, write = memory.read_port(), memory.write_port()
            mine = fetch & (bank == k)
            m.d.comb += [
                read.en.eq(mine | (self.read.en & (read_bank == k))),
                read.addr.eq(Mux(mine, self.i_addr[:offset_bits], self.read.addr[:offset_bits])),
                write.en.eq(writing & (write_addr[-1] == k)),
                write.addr.eq(write_addr[:offset_bits]),
                write.data.eq(Value.cast(sums)),
            ]
            words.append(behind(m, read.data, self.config.memory_registers, f"word_{k}"))
        answers = behind(m, answering, self.config.memory_registers, "answers")
        m.d.comb += self.read.data.eq(Mux(answers, words[1], words[0]))

        kept: Value = Mux(keep_addr[-1], words[1], words[0])
        if self.config.computed_digits:
            shifted = Signal()
            coming_shifted = behind(m, self.i_shifted, self.config.memory_registers, "fetch_shifted")
            with m.If(coming):
                m.d.sync += shifted.eq(coming_shifted)
            # a sum of high digits: acc_bits hold what it counts as
            kept = Mux(
                shifted,
                Cat(
                    self._shifted(kept.word_select(c, self.config.acc_bits)) for c in range(self.config.cols)
                ),
                kept,
            )
        with m.If(keeping):
            m.d.sync += [add_addr.eq(keep_addr), Value.cast(old).eq(Mux(add, kept, 0))]
        with m.If(adding):
            m.d.sync += write_addr.eq(add_addr)
            # the sum fits acc_bits by the configuration's choice of acc_bits
            m.d.sync += Value.cast(sums).eq(
                Cat((old[c] + self.i_psum[c])[: self.config.acc_bits] for c in range(self.config.cols))
            )
        return m

    def _shifted(self, word: Value) -> Value:
        """A sum times 2**weight.bits."""
        bits = self.config.weight.bits
        return Cat(Const(0, bits), word)[: self.config.acc_bits]


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    width, offset = c.cols * c.acc_bits, c.acc_address_bits - 1
    for _ in range(BANKS):
        t.store(t.technology.memory(width, c.acc_depth), width)
    t.add(one=1, old=width, sums=width, answer=width, address=BANKS * offset)
    t.add(ff=2 * width + 3 * (offset + 1))
    t.ff["one"] = 1
    if c.computed_digits:
        t.add(digits=width, ff=1)
    if c.memory_registers:
        t.add(ff=BANKS * width + c.acc_address_bits + 3 + c.computed_digits)


ACCUMULATOR = Component(
    "accumulator",
    (Accumulator,),
    _terms,
    paths=lambda c, d: {"accumulator": d.register + d.lut + d.carry(c.acc_bits)},
    blocks=lambda c, technology: BANKS * technology.memory(c.cols * c.acc_bits, c.acc_depth).blocks,
)
