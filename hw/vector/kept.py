"""Which weights the pattern of their old codes keeps, for UPDATE on machines with `pruned_decay`.

Words of an instruction are pixels of the reduction, so a group of m of them is a block of m words. The codes of a block
are read one block ahead, granule by granule: all words of the first granule, then those of the second. SORE, as wide
as a granule, gives the indices of those that are kept, and a table holds them for two blocks.
"""

# Ref: Zhou et al. (arXiv 2102.04010), SR-STE: the decay of weights that the forward pass leaves out.

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from sateen.hw import isa
from sateen.hw.memory.select import shift_of
from sateen.hw.memory.sore import SORE
from sateen.hw.ports import activation_latency
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode


def granule(config: AcceleratorConfig) -> int:
    """Weights whose integers are a word."""
    return config.act_word_bits // 32


def granules(config: AcceleratorConfig) -> int:
    """Of a word of codes."""
    return 32 // config.activation.bits


class KeptWeights(wiring.Component):
    """Says of a granule's weights whether they are kept.

    Members
    -------
    idle, start : In(1)
        As of `UpdateUnit`: while idle it takes what it needs of `instruction`, an isa.UPDATE.
    ahead : Out(1)
        The first block is read, before any granule: a word each cycle.
    first_read : Out(1)
        Strobe with the last of them.
    slot : In(1)
        A word of the next block may be read; once for each granule.
    en, addr : Out(1), Out(log2(act_depth))
        Read this word of codes.
    data : In(act_word_bits)
        It, `activation_latency(config)` later.
    begins, ends_word : In(1)
        The granule to which `kept` belongs is taken; it is the last of its word.
    kept : Out(granule)
        Of each weight; all ones where the instruction names no pattern.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "idle": In(1),
                "start": In(1),
                "instruction": In(isa.LAYOUT[Opcode.UPDATE]),
                "ahead": Out(1),
                "first_read": Out(1),
                "slot": In(1),
                "en": Out(1),
                "addr": Out(config.act_address_bits),
                "data": In(config.act_word_bits),
                "begins": In(1),
                "ends_word": In(1),
                "kept": Out(granule(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c, i, patterns = self.config, self.instruction, self.config.sparse_patterns
        chosen, sparse = Signal(range(max(2, len(patterns)))), Signal()
        last = Signal(range(max(p.m for p in patterns)))  # m - 1
        used = Signal(max(p.n for p in patterns))  # entries that hold an index
        with m.If(self.idle):
            m.d.sync += sparse.eq(i.index_bits.any())
            for number, p in enumerate(patterns):
                with m.If((i.index_bits == p.index_bits) & (i.index_shift == shift_of(p))):
                    m.d.sync += [chosen.eq(number), last.eq(p.m - 1), used.eq((1 << p.n) - 1)]
        m.submodules.sore = sore = SORE(fmt=c.activation, patterns=patterns, lanes=granule(c))
        if len(patterns) > 1:
            m.d.comb += sore.pattern.eq(chosen)
        self._read(m, sore, last)
        self._keep(m, sore, sparse, last, used)
        return m

    def _read(self, m: Module, sore: SORE, last: Value) -> None:
        """Codes of the block ahead, to SORE; zeros for words beyond the instruction's."""
        c, i = self.config, self.instruction
        first, address, step = (
            Signal(c.act_address_bits, name=name, reset_less=True) for name in ("first", "address", "step")
        )
        left = Signal(24, reset_less=True)  # words from the block's first on
        more, reads, inside = Signal(), Signal(), Signal()
        place, part = Signal.like(last), Signal(range(granules(c)))
        ends_part, ends_block, following = Signal(), Signal(), Signal.like(address)
        m.d.comb += [
            reads.eq(self.ahead | (self.slot & more)),
            inside.eq(place < left),
            self.en.eq(reads & inside),
            self.addr.eq(address),
            ends_part.eq(place == last),
            ends_block.eq(ends_part & (part == granules(c) - 1)),
            self.first_read.eq(self.ahead & ends_block),
            following.eq(address + step),
        ]
        with m.If(self.idle):
            m.d.sync += [first.eq(i.codes), address.eq(i.codes), step.eq(i.step), left.eq(i.words)]
            m.d.sync += [place.eq(0), part.eq(0), more.eq(i.index_bits.any())]
        with m.Elif(reads):
            m.d.sync += [address.eq(following), place.eq(place + 1)]
            with m.If(ends_part):
                m.d.sync += [address.eq(first), place.eq(0), part.eq(part + 1)]
            with m.If(ends_block):
                m.d.sync += [address.eq(following), first.eq(following), part.eq(0), self.ahead.eq(0)]
                m.d.sync += [left.eq(left - last - 1), more.eq(left > last + 1)]
        with m.If(self.start):
            m.d.sync += self.ahead.eq(i.index_bits.any())
        arrived = Cat(reads, inside, part)
        for n in range(activation_latency(c)):
            delayed = Signal(len(arrived), name=f"arrived_{n + 1}")
            m.d.sync += delayed.eq(arrived)
            arrived = delayed
        bits = granule(c) * c.activation.bits
        zeros = Const(sum(c.activation.zero_code << c.activation.bits * n for n in range(granule(c))), bits)
        codes = self.data.word_select(arrived[2:], bits)
        m.d.comb += [
            sore.i.valid.eq(arrived[0]),
            Value.cast(sore.i.payload).eq(Mux(arrived[1], codes, zeros)),
            sore.o.ready.eq(1),
        ]

    def _keep(self, m: Module, sore: SORE, sparse: Value, last: Value, used: Value) -> None:
        """What SORE gives to the table; from there to the granule that begins."""
        c, size, width = self.config, granule(self.config), ceil_log2(sore.m)
        entry = size * sore.n * width
        m.submodules.table = table = memory.Memory(shape=entry, depth=2 * granules(c), init=[])
        write, read = table.write_port(), table.read_port(domain="comb")
        place, part, turn = Signal.like(last), Signal(range(granules(c))), Signal()
        m.d.comb += [
            write.en.eq(sore.o.valid),
            write.data.eq(Cat(sore.o.payload[lane][k].index for lane in range(size) for k in range(sore.n))),
            read.addr.eq(Cat(part, turn)),
        ]
        with m.If(self.idle):
            m.d.sync += [write.addr.eq(0), place.eq(0), part.eq(0), turn.eq(0)]
        with m.Else():
            m.d.sync += write.addr.eq(write.addr + sore.o.valid)
            with m.If(self.begins):
                m.d.sync += part.eq(part + 1)
                with m.If(self.ends_word):
                    m.d.sync += [part.eq(0), place.eq(place + 1)]
                    with m.If(place == last):
                        m.d.sync += [place.eq(0), turn.eq(~turn)]
        for lane in range(size):
            indices = [read.data.word_select(lane * sore.n + k, width) for k in range(sore.n)]
            here = Cat((index == place) & used[k] for k, index in enumerate(indices))
            m.d.comb += self.kept[lane].eq(here.any() | ~sparse)
