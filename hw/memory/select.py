"""MOVE on machines with `computed_patterns`: weight tiles of activations, dense or the n largest of every m.

Codes pass in the order of the reduction, those of all columns at once, so that SORE takes them as they come. What it
keeps goes to the weight and the index buffer as MATRIX reads them (see docs/isa.md, MOVE).
"""

# Ref: Fang et al. (arXiv 2309.13015), SORE; here between the activation buffer and the array, not behind the update.

from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.wiring import Out
from amaranth.utils import exact_log2

from sateen.formats import SparsityPattern
from sateen.hw.control.dispatch import is_idle
from sateen.hw.memory.move import Level, Mover, level_bits
from sateen.hw.memory.sore import SORE
from sateen.hw.ports import WritePort
from sateen.hw.terms import Component, Terms
from sateen.hw.window import NestedCounter, count_terms
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, bits_of


def shift_of(pattern: SparsityPattern) -> int:
    """`index_shift` of weights that keep it: log2(m/n)."""
    return exact_log2(pattern.m // pattern.n)


class SelectingMove(Mover):
    """Fills weight words from pixels, in the order of the reduction; of `index_bits` and `index_shift` a pattern.

    A block of `transpose_words` × cols codes takes a pixel in each cycle: straight, a slice of it, which leaves in the
    next; transposed, as a column, some elements of it, until the block is full and gives element after element.
    Elements beyond the tensor are 0 and not read; a pattern may keep them, with their index, where less is not zero.

    Members
    -------
    others :
        As `Mover`'s.
    index : Out(WritePort(log2(weight_depth), index_row_bits))
        The indices of a weight word, in all planes, written with it.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        index = WritePort(config.weight_address_bits, config.index_row_bits)
        super().__init__(config=config, more={"index": Out(index)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c, depth = self.config, self.config.transpose_words
        idle = is_idle(m, self.start, self.done)
        arrived = self._pixels(m, idle, _levels(c), depth, lambda k: Const(1))
        word, transposed = arrived.word, arrived.transposed

        bits = c.activation.bits
        block = [
            [Signal(bits, name=f"code_{n}_{col}", reset_less=True) for col in range(c.cols)]
            for n in range(depth)
        ]
        with m.If(arrived.takes & transposed):
            for codes, new in zip(block, self._run(word, arrived.element, arrived.reduction), strict=True):
                m.d.sync += [a.eq(b) for a, b in pairwise(codes)]
                m.d.sync += codes[-1].eq(new)
        with m.Elif(arrived.takes):
            part = word.word_select(arrived.slice_, c.cols * bits) if c.slices > 1 else word
            m.d.sync += [code.eq(part.word_select(col, bits)) for col, code in enumerate(block[0])]
        with m.Elif(arrived.gives):
            for a, b in pairwise(block):
                m.d.sync += Cat(a).eq(Cat(b))
        flows = Signal()
        m.d.sync += flows.eq(arrived.gives)
        self._write(m, idle, flows, Cat(block[0]))
        return m

    def _run(self, word: Value, element: Value, reduction: Value) -> list[Value]:
        """The codes (transpose_words) of a pixel's word from `element` on, 0 from `reduction` on."""
        c, bits = self.config, self.config.activation.bits
        depth = c.transpose_words
        place = element[exact_log2(depth) : exact_log2(c.elements)]
        chosen = word.word_select(place, depth * bits) if len(place) else word
        zero = Const(c.weight.zero_code, bits)
        return [Mux(element + n < reduction, chosen.word_select(n, bits), zero) for n in range(depth)]

    def _write(self, m: Module, idle: Value, flows: Value, codes: Value) -> None:
        """Codes of all columns, element after element where `flows`, to words of weights, or what SORE keeps of them.

        A group has a place in each pass; passes are `rows` words apart.
        """
        c, i = self.config, self.instruction
        patterns = c.sparse_patterns
        m.submodules.sore = sore = SORE(fmt=c.weight, patterns=patterns, lanes=c.cols)
        sparse = Signal()
        chosen = Signal(range(max(2, len(patterns))))
        # places of a run but one, and of a group
        kept, places = Signal(range(sore.n)), Signal(range(c.group))
        with m.If(idle):
            m.d.sync += [sparse.eq(i.index_bits.any()), places.eq((c.group - 1) >> i.index_shift)]
            for number, p in enumerate(patterns):
                with m.If((i.index_bits == p.index_bits) & (i.index_shift == shift_of(p))):
                    m.d.sync += [chosen.eq(number), kept.eq(p.n - 1)]
        writing, slot, place = Signal(), Signal.like(kept), Signal.like(places)
        of_run, of_group = Signal(), Signal()  # this write is its last
        row, words = Signal(range(max(2, c.rows))), Signal(c.channel_bits)
        rows_done = Signal()
        home = Signal(c.weight_address_bits, reset_less=True)  # of the next row's first place
        following = Signal(c.weight_address_bits)
        address = self.weight.addr
        entries = [[sore.o.payload[col][n] for col in range(c.cols)] for n in range(sore.n)]
        fields = Cat(Cat(map(Value.cast, entry)) for entry in entries)
        entry = fields.word_select(slot, len(fields) // sore.n) if sore.n > 1 else fields
        width = len(fields) // sore.n // c.cols
        parts = [entry.word_select(col, width) for col in range(c.cols)]
        indices = [part[c.weight.bits :] for part in parts]
        if len(patterns) > 1:
            m.d.comb += sore.pattern.eq(chosen)
        m.d.comb += [
            Value.cast(sore.i.payload).eq(codes),
            sore.i.valid.eq(flows & sparse),
            writing.eq(Mux(sparse, sore.o.valid, flows)),
            of_run.eq(slot == kept),
            sore.o.ready.eq(of_run),
            of_group.eq(place == places),
            rows_done.eq(row == c.rows - 1),
            following.eq(Mux(of_group & ~rows_done, home, address + Mux(of_group, 1, c.rows))),
            self.weight.en.eq(writing),
            self.weight.data.eq(Mux(sparse, Cat(part[: c.weight.bits] for part in parts), codes)),
            self.index.en.eq(writing & sparse),
            self.index.addr.eq(address),
            self.index.data.eq(Cat(Cat(index[b] for index in indices) for b in range(c.index_planes))),
            self.done.eq(writing & of_group & rows_done & (words == 1)),
        ]
        with m.If(idle):
            m.d.sync += [address.eq(i.destination), home.eq(i.destination + 1), words.eq(i.words)]
            m.d.sync += [slot.eq(0), place.eq(0), row.eq(0)]
        with m.Elif(writing):
            m.d.sync += [slot.eq(Mux(of_run, 0, slot + 1)), place.eq(Mux(of_group, 0, place + 1))]
            m.d.sync += address.eq(following)
            with m.If(of_group):
                m.d.sync += [row.eq(Mux(rows_done, 0, row + 1)), words.eq(words - rows_done)]
                m.d.sync += home.eq(following + 1)


def _levels(c: AcceleratorConfig) -> dict[str, Level]:
    """Blocks of a word."""
    blocks = c.elements // c.transpose_words, c.transpose_words
    return {"b": Level(blocks, blocks)}


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    depth, bits, counted = c.transpose_words, c.weight.bits, bits_of("reduction", Opcode.MOVE)
    codes, address = depth * c.cols * bits, c.act_address_bits
    count_terms(list(level_bits(c, _levels(c), depth).values()), t)
    kept = max((p.n for p in c.sparse_patterns), default=1)
    entry = bits + c.index_planes
    slots = c.cols * kept
    t.add(one=1, block=codes, straight=c.cols * bits, sums=4 * address + 4 * counted, sources=7 * address + 7 * counted,
          elements=3 * counted, read=c.act_word_bits, inside=counted, address=address,
          column=depth * (bits * t.technology.mux(c.elements // depth) + counted),
          slices=c.cols * c.activation.bits * t.technology.mux(c.slices),
          selection=slots * (entry + c.weight.fixed_bits), kept=c.cols * entry * t.technology.mux(kept),
          destination=4 * c.weight_address_bits)  # fmt: skip
    t.add(ff=codes + 5 * address + 8 * counted + 2 * (3 + counted) + c.slice_bits + 2 * c.weight_address_bits
          + c.channel_bits + slots * (2 * entry + c.weight.bits) + slots * (kept - 1) // 2 + 16)  # fmt: skip
    t.ff["one"] = 1


SELECT = Component(
    "select",
    (SelectingMove, SORE, NestedCounter),
    _terms,
    instances=lambda c: int(c.computed_patterns),
    paths=lambda c, d: (
        {"store": d.register + 4 * d.lut + d.carry(bits_of("reduction", Opcode.MOVE))}
        if c.computed_patterns
        else {}
    ),
)
