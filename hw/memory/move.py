"""MOVE: activation words to weight tiles, straight or transposed, by the unit that STOREs (see docs/isa.md, MOVE).

Where weights are narrower than activations, a code is two digits, and a MOVE writes one of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Member, Out
from amaranth.utils import ceil_log2, exact_log2

from sateen.formats.digits import Digits
from sateen.hw import isa
from sateen.hw.control.dispatch import is_idle
from sateen.hw.ports import STORE_READ_LATENCY, ReadPort, WritePort
from sateen.hw.terms import Component, Terms
from sateen.hw.window import NestedCounter, Sum, count_terms
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, bits_of

LATENCY = STORE_READ_LATENCY + 1
"""Cycles from the last address to the last write, and to `done`."""


def block_cycles(config: AcceleratorConfig) -> int:
    """Cycles in which a transposing MOVE makes `transpose_words` weight words: a column each, then a word each, the
    last of which goes while the next column comes."""
    return config.cols + config.transpose_words - 1


def digit_of(code: Value, high: Value, digits: Digits) -> Value:
    """The high digit of a code, or its low one: `Digits.split` as a circuit."""
    bits = digits.bits
    rounds = code[bits - 1]  # what the low digit lacks as a signed number
    low = code[: bits - 1]
    if digits.saturates:
        over = ~code[-1] & code[bits - 1 : -1].all()
        rounds, low = rounds & ~over, low | over.replicate(bits - 1)
    top = code[bits:].as_signed() + rounds
    # top: to `bits`, which hold it, as `most` is all that two digits do
    return Mux(high, Cat(top, top[-1].replicate(bits))[:bits], Cat(low, rounds))


def move_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of a MOVE instruction: cycles from start to done.

    Parameters
    ----------
    fields : mapping or object
        The fields of isa.MOVE as integers.
    """

    def get(name: str) -> int:
        return int(fields.get(name, 0) if isinstance(fields, Mapping) else getattr(fields, name))

    words, kept = get("words"), 0
    if index_bits := get("index_bits"):
        kept = 1 + (1 << index_bits - get("index_shift"))  # SORE's latency, and the places of the last run
    if get("transposed"):
        blocks = words * config.dense_passes * config.rows // config.transpose_words
        return blocks * block_cycles(config) + LATENCY + kept
    return words * config.elements + LATENCY + kept


@dataclass(frozen=True, slots=True)
class Level:
    """A loop of a MOVE between those of words and of pixels."""

    straight: tuple[int, int]
    """Iterations, and pixels from one to the next."""
    transposed: tuple[int, int]
    """Iterations, and elements of the reduction from one to the next."""

    def iterations(self, transposed: Value) -> ValueLike:
        (straight, _), (across, _) = self.straight, self.transposed
        return straight if straight == across else Mux(transposed, across, straight)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A pixel's word in the cycle in which it comes, zeros beyond the tensor, and what is to become of it."""

    word: Value
    takes: Value
    gives: Value
    last: Value
    element: Value
    transposed: Value
    slice_: Value
    reduction: Value
    high: Value
    """It is the high digits that are wanted."""


class Mover(wiring.Component):
    """What reads the pixels of a MOVE, one in a cycle.

    Members
    -------
    start, instruction, done :
        Unit protocol; `instruction` is a `isa.MOVE` and valid with `start`. `done` comes with the last write.
    activation : Out(ReadPort(log2(act_depth), act_word_bits))
        The activation buffer, read latency 2.
    weight : Out(WritePort(log2(weight_depth), weight_word_bits))
    """

    def __init__(
        self, *, config: AcceleratorConfig, more: Mapping[str, Member] = MappingProxyType({})
    ) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "instruction": In(isa.layout_of(Opcode.MOVE, config)),
                "done": Out(1),
                "activation": Out(ReadPort(config.act_address_bits, config.act_word_bits)),
                "weight": Out(WritePort(config.weight_address_bits, config.weight_word_bits)),
                **more,
            }
        )

    def _pixels(
        self,
        m: Module,
        idle: Value,
        levels: Mapping[str, Level],
        pixels: int,
        gives: Callable[[Value], Value],
    ) -> Arrived:
        """Read them, `pixels` in the innermost loop of a straight MOVE; `gives` says of that loop's counter whether a
        straight MOVE's word is complete."""
        c, i = self.config, self.instruction
        address = unsigned(c.act_address_bits)
        counted = unsigned(bits_of("reduction", Opcode.MOVE))
        names = ("w", *levels, "k")
        m.submodules.nest = nest = NestedCounter(
            levels=level_bits(c, levels, pixels),
            sums={
                "addr": Sum(address, dict.fromkeys(names, address)),
                # straight, of the reduction; transposed, of the columns
                "at": Sum(counted, dict.fromkeys(names, counted), limit=counted),
                "element": Sum(
                    counted, {"w": c.elements} | {n: level.transposed[1] for n, level in levels.items()}
                ),
                "k": Sum(unsigned(ceil_log2(most_pixels(c, pixels))), {"k": 1}),
            },
        )
        transposed, slice_, reduction = Signal(), Signal(c.slice_bits), Signal(counted, reset_less=True)
        active, high = Signal(), Signal(len(i.high) if c.digits else 0)
        given = nest.parameters

        def straight(step: Value, factor: int) -> Value:
            """What a level steps by, which a transposing MOVE does not."""
            return Mux(i.transposed, 0, step << exact_log2(factor))

        m.d.comb += [
            nest.load.eq(idle),
            nest.step.eq(active),
            given.count.w.eq(i.words),
            *(getattr(given.count, n).eq(level.iterations(i.transposed)) for n, level in levels.items()),
            given.count.k.eq(Mux(i.transposed, block_cycles(c), pixels)),
            given.start.addr.eq(i.base),
            given.step.addr.w.eq(Mux(i.transposed, 1, i.step << exact_log2(c.elements))),
            *(
                getattr(given.step.addr, n).eq(straight(i.step, level.straight[1]))
                for n, level in levels.items()
            ),
            given.step.addr.k.eq(i.step),
            given.step.at.w.eq(straight(Const(1), c.elements)),
            *(
                getattr(given.step.at, n).eq(straight(Const(1), level.straight[1]))
                for n, level in levels.items()
            ),
            given.step.at.k.eq(1),
            given.limit.at.eq(Mux(i.transposed, i.columns, i.reduction)),
            self.activation.en.eq(active & nest.below.at),
            self.activation.addr.eq(nest.value.addr),
        ]
        with m.If(idle):
            m.d.sync += [transposed.eq(i.transposed), slice_.eq(i.slice), reduction.eq(i.reduction)]
            if c.digits:
                m.d.sync += high.eq(i.high)
        with m.If(self.start):
            m.d.sync += active.eq(1)
        with m.Elif(nest.last.w):
            m.d.sync += active.eq(0)

        # from the address to the data
        layout = data.StructLayout({"takes": 1, "gives": 1, "inside": 1, "last": 1, "element": counted})
        arrived = Signal(layout)
        k = nest.value.k
        m.d.comb += [
            arrived.takes.eq(active & (~transposed | (k < c.cols))),
            arrived.gives.eq(active & Mux(transposed, k >= c.cols - 1, gives(k))),
            arrived.inside.eq(nest.below.at),
            arrived.last.eq(nest.last.w),
            arrived.element.eq(nest.value.element),
        ]
        for n in range(STORE_READ_LATENCY):
            delayed = Signal(layout, name=f"arrived_{n + 1}")
            m.d.sync += delayed.eq(arrived)
            arrived = delayed
        word = Mux(arrived.inside, self.activation.data, zero_word(c))
        return Arrived(
            word,
            arrived.takes,
            arrived.gives,
            arrived.last,
            arrived.element,
            transposed,
            slice_,
            reduction,
            high,
        )


class Move(Mover):
    """Fills weight words from pixels: each is a row of the tile, or, transposed, a column.

    A block of `transpose_words` × cols × lanes codes takes columns from one side, in each cycle some elements of a
    pixel's word, and gives words at another. Straight, its first word takes a slice of a pixel in each cycle: lane
    by lane. What lies beyond the tensor is 0 and is not read.
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c, i, depth = self.config, self.instruction, self.config.transpose_words
        idle = is_idle(m, self.start, self.done)
        arrived = self._pixels(m, idle, _levels(c), c.lanes, lambda k: k == c.lanes - 1)
        word, transposed = arrived.word, arrived.transposed

        block = [
            [[Signal(c.weight.bits, name=f"code_{n}_{col}_{lane}", reset_less=True) for lane in range(c.lanes)]
             for col in range(c.cols)]
            for n in range(depth)
        ]  # fmt: skip
        column = self._column(arrived)
        with m.If(arrived.takes & transposed):
            for n, codes in enumerate(block):
                for lane in range(c.lanes):
                    m.d.sync += [a[lane].eq(b[lane]) for a, b in pairwise(codes)]
                    m.d.sync += codes[-1][lane].eq(column[n][lane])
        with m.Elif(arrived.takes):
            part = word.word_select(arrived.slice_, c.cols * c.activation.bits) if c.slices > 1 else word
            for col, lanes in enumerate(block[0]):
                m.d.sync += [a.eq(b) for a, b in pairwise(lanes)]
                m.d.sync += lanes[-1].eq(self._weight(part.word_select(col, c.activation.bits), arrived))
        with m.Elif(arrived.gives):
            for a, b in pairwise(block):
                m.d.sync += Cat(map(Cat, a)).eq(Cat(map(Cat, b)))

        end = Signal()
        m.d.sync += [self.weight.en.eq(arrived.gives), end.eq(arrived.last & arrived.gives)]
        with m.If(idle):
            m.d.sync += self.weight.addr.eq(i.destination)
        with m.Elif(self.weight.en):
            m.d.sync += self.weight.addr.eq(self.weight.addr + 1)
        m.d.comb += [self.weight.data.eq(Cat(map(Cat, block[0]))), self.done.eq(self.weight.en & end)]
        return m

    def _weight(self, code: Value, arrived: Arrived) -> Value:
        """What an activation becomes."""
        return digit_of(code, arrived.high, self.config.digits) if self.config.digits else code

    def _column(self, arrived: Arrived) -> list[list[Value]]:
        """The weights (transpose_words, lanes) of a pixel's word from its element on, 0 beyond the reduction."""
        c, bits = self.config, self.config.activation.bits
        depth, word, element, reduction = c.transpose_words, arrived.word, arrived.element, arrived.reduction
        runs = [
            word[bits * ((r * depth + n) * c.group + p * c.lanes) :][: bits * c.lanes]
            for r in range(c.rows // depth)
            for p in range(c.dense_passes)
            for n in range(depth)
        ]
        passes, lanes, run = (exact_log2(v) for v in (c.dense_passes, c.lanes, depth * c.group))
        place = Cat(element[lanes : lanes + passes], element[run : exact_log2(c.elements)])
        chosen = Cat(runs).word_select(place, depth * c.lanes * bits) if len(place) else Cat(runs)
        zero = Const(c.weight.zero_code, c.weight.bits)
        return [
            [
                Mux(
                    element + (n * c.group + lane) < reduction,
                    self._weight(chosen.word_select(n * c.lanes + lane, bits), arrived),
                    zero,
                )
                for lane in range(c.lanes)
            ]
            for n in range(depth)
        ]


def most_pixels(c: AcceleratorConfig, pixels: int) -> int:
    """Most iterations of the innermost level, which takes `pixels` if straight."""
    return max(block_cycles(c), pixels) + 1


def level_bits(c: AcceleratorConfig, levels: Mapping[str, Level], pixels: int) -> dict[str, int]:
    """Widths of the counts: words of the reduction, `levels`, and pixels."""
    most = {name: max(level.straight[0], level.transposed[0]) for name, level in levels.items()}
    most["k"] = most_pixels(c, pixels)
    return {"w": c.channel_bits} | {name: n.bit_length() for name, n in most.items()}


def _levels(c: AcceleratorConfig) -> dict[str, Level]:
    """Passes and rows."""
    depth = c.transpose_words
    return {
        "p": Level((c.dense_passes, c.lanes), (c.dense_passes, c.lanes)),
        "r": Level((c.rows, c.group), (c.rows // depth, depth * c.group)),
    }


def zero_word(c: AcceleratorConfig) -> Const:
    """An activation word of zeros."""
    code = c.activation.zero_code
    return Const(sum(code << c.activation.bits * e for e in range(c.elements)), c.act_word_bits)


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    codes, counted = c.transpose_words * c.cols * c.lanes * c.weight.bits, bits_of("reduction", Opcode.MOVE)
    address = c.act_address_bits
    count_terms(list(level_bits(c, _levels(c), c.lanes).values()), t)
    blocks = c.elements // (c.transpose_words * c.lanes)
    t.add(one=1, block=codes, straight=c.cols * c.lanes * c.weight.bits, sums=4 * address + 4 * counted,
          sources=7 * address + 7 * counted, elements=3 * counted, read=c.act_word_bits,
          column=c.transpose_words * c.lanes * (c.weight.bits * t.technology.mux(blocks) + counted),
          slices=c.cols * c.activation.bits * t.technology.mux(c.slices), address=address,
          destination=c.weight_address_bits, inside=counted)  # fmt: skip
    t.add(ff=codes + 5 * address + 8 * counted + 2 * (4 + counted) + c.slice_bits + c.weight_address_bits + 6)
    t.ff["one"] = 1
    if c.digits:
        t.add(digits=(c.transpose_words + 1) * c.cols * c.lanes * c.weight.bits, ff=1)


MOVE = Component(
    "move",
    (Move, NestedCounter),
    _terms,
    instances=lambda c: int(c.computed_weights and not c.computed_patterns),
    paths=lambda c, d: (
        {"store": d.register + 3 * d.lut + d.carry(bits_of("reduction", Opcode.MOVE))}
        if c.computed_weights
        else {}
    ),
)
