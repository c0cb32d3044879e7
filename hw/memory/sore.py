"""SORE: the n elements of greatest magnitude of every m, as they stream by; dense weights become N:M ones.

How: each lane has n slots in the order of arrival. An element that displaces another enters at the end and the
slots from the loser's on move up, so that indices ascend without sorting, and no slot needs a multiplexer.
Which slot loses is read from one bit for each pair of slots, whether the earlier holds its place against the
later; the only magnitudes compared are those of the n slots with the new element's.
"""

# Ref: Fang et al., "Efficient N:M Sparse DNN Training Using Algorithm, Architecture, and Dataflow Co-Design"
# (arXiv 2309.13015), the SORE unit: streaming top-n selection, m cycles for a group.

from collections.abc import Iterable, Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from sateen.formats import Format, SparsityPattern
from sateen.hw.formats import circuits

MAX_GROUP = 16


def keeps(held: Value, new: Value) -> Value:
    """An element in a slot keeps its place against a later one: of equal magnitudes the lower index stays."""
    return held >= new


def any_of(conditions: Iterable[Value]) -> Value:
    return Cat(conditions).any()


def entry_layout(fmt: Format, index_bits: int) -> data.StructLayout:
    """A kept element: the code, above it its index in the group; weight and index words have them apart."""
    return data.StructLayout({"code": unsigned(fmt.bits), "index": unsigned(index_bits)})


class SORE(wiring.Component):
    """Streaming top-n-of-m selection by magnitude, `lanes` groups at a time; the model is `sateen.sim.sore`.

    A group is m transfers of `i`, its elements in the order of their index. Selected are the n first in
    descending magnitude, ties to the lower index; zero is the least magnitude and nothing special, so it is
    selected, lowest index first, just where fewer than n elements are nonzero. A group gives one transfer of
    `o`: exactly n entries in each lane, indices ascending, codes unchanged (-0 and NaN too).

    Groups follow one another without a gap; input stalls only while two finished groups wait for `o`.

    Parameters
    ----------
    fmt : Format
        Of the codes.
    patterns : sequence of SparsityPattern
        Those that `pattern` selects from, in order; any n <= m <= 16.
    lanes : int
        Elements per cycle, each of another group; the lanes go in step.

    Members
    -------
    i : In(stream of lanes codes)
    pattern : In(range(len(patterns)))
        The pattern of a group, sampled with its first element. Only if there are several.
    o : Out(stream of lanes × n entries, see `entry_layout`)
        n is the greatest of the patterns, and so is m for the width of an index. With a smaller n the entries
        from n on are 0.

    Raises
    ------
    ValueError
        No pattern, m above 16, or lanes below 1.
    """

    latency = 2
    """Cycles from the transfer of a group's last element to `o.valid`."""

    def __init__(self, *, fmt: Format, patterns: Sequence[SparsityPattern], lanes: int = 1):
        if not patterns:
            raise ValueError("patterns must have at least one SparsityPattern, not none")
        for p in patterns:
            if p.m > MAX_GROUP:
                raise ValueError(f"patterns must have m of at most {MAX_GROUP}, not {p.n}:{p.m}")
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes!r}")
        self.fmt = fmt
        self.patterns = tuple(patterns)
        self.lanes = lanes
        self.n = max(p.n for p in patterns)
        self.m = max(p.m for p in patterns)
        self.initiation_interval = self.m
        """Cycles from group to group of the longest pattern; any other takes its own m."""
        entry = entry_layout(fmt, ceil_log2(self.m))
        members = {
            "i": In(stream.Signature(data.ArrayLayout(unsigned(fmt.bits), lanes))),
            "o": Out(stream.Signature(data.ArrayLayout(data.ArrayLayout(entry, self.n), lanes))),
        }
        if len(self.patterns) > 1:
            members["pattern"] = In(range(len(self.patterns)))
        super().__init__(members)

        # The state is made here so that proofs can speak about it.
        key = circuits(fmt).magnitude_key(Signal(fmt.bits)).shape()
        slot = data.StructLayout({"entry": entry, "key": key})
        self.index = Signal(range(self.m))  # of the element that comes next
        self.held = Signal(range(len(self.patterns)))  # the pattern of the last element taken
        self.finished = Signal()  # the slots hold a whole group, and `o` does not yet
        self.slots = [
            [Signal(slot, name=f"slot_{lane}_{k}", reset_less=True) for k in range(self.n)]
            for lane in range(lanes)
        ]
        self.stays = [  # [lane][i, j]: slot i keeps its place against slot j, i < j
            {
                (i, j): Signal(name=f"stays_{lane}_{i}_{j}", reset_less=True)
                for j in range(self.n)
                for i in range(j)
            }
            for lane in range(lanes)
        ]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        index, last, full, move, take = self.index, Signal(), Signal(), Signal(), Signal()
        pattern = Signal.like(self.held)  # of the element that comes next
        if len(self.patterns) > 1:
            m.d.comb += pattern.eq(Mux(index.any(), self.held, self.pattern))
        with m.If(take):
            m.d.sync += self.held.eq(pattern)
        lengths = sorted({p.m for p in self.patterns})
        sizes = sorted({p.n for p in self.patterns if p.n < p.m})  # with n = m nothing is displaced
        m.d.comb += [
            last.eq(
                any_of(
                    (index == x - 1) & self._has(pattern, (p.m == x for p in self.patterns)) for x in lengths
                )
            ),
            full.eq(
                any_of(
                    (index >= x) & self._has(pattern, (p.n == x < p.m for p in self.patterns)) for x in sizes
                )
            ),
            move.eq(self.finished & (~self.o.valid | self.o.ready)),
            self.i.ready.eq(~self.finished | move),
            take.eq(self.i.valid & self.i.ready),
        ]
        with m.If(take):
            m.d.sync += index.eq(Mux(last, 0, index + 1))
        with m.If(take | move):
            m.d.sync += self.finished.eq(take & last)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(move):
            m.d.sync += self.o.valid.eq(1)
        used = [self._has(pattern, (k >= self.n - p.n for p in self.patterns)) for k in range(self.n)]
        for lane in range(self.lanes):
            self._select(m, lane, used, take, full)
            self._give(m, lane, move)
        return m

    def _has(self, pattern: Signal, condition: Iterable[bool]) -> Value:
        """The pattern, given by its number, fulfils a condition, which is given for each."""
        matching = [k for k, holds in enumerate(condition) if holds]
        if len(matching) in (0, len(self.patterns)):
            return Const(len(matching) > 0)
        return pattern.matches(*matching)

    def _select(self, m: Module, lane: int, used: list[Value], take: Signal, full: Signal) -> None:
        """The slots of one lane: the last n are used, and filled from the end on until `full`."""
        slots, stays = self.slots[lane], self.stays[lane]
        new = Signal.like(slots[0], name=f"new_{lane}", reset_less=True)
        code = Value.cast(self.i.payload[lane])
        m.d.comb += [
            new.entry.code.eq(code),
            new.entry.index.eq(self.index),
            new.key.eq(circuits(self.fmt).magnitude_key(code)),
        ]
        against_new = Signal(self.n, name=f"against_new_{lane}")
        m.d.comb += against_new.eq(Cat(keeps(slot.key, new.key) for slot in slots))
        moves = Signal(self.n, name=f"moves_{lane}")  # slot k takes what comes after it
        displaced = Const(0)  # at this slot or before
        for k, slot in enumerate(slots):
            loses = [stays[i, k] | ~used[i] for i in range(k)]
            loses += [~stays[k, j] for j in range(k + 1, self.n)]
            displaced |= ~against_new[k] & used[k] & Cat(loses).all()
            m.d.comb += moves[k].eq(take & (~full | displaced))
            with m.If(moves[k]):
                m.d.sync += slot.eq(slots[k + 1] if k + 1 < self.n else new)
        for (i, j), bit in stays.items():
            follower = [stays[r, j + 1] if j + 1 < self.n else against_new[r] for r in (i, i + 1)]
            with m.If(moves[j]):
                m.d.sync += bit.eq(Mux(moves[i], follower[1], follower[0]))

    def _give(self, m: Module, lane: int, move: Signal) -> None:
        """The slots in use to the lowest entries."""
        for k in range(self.n):
            output = Value.cast(self.o.payload[lane][k])
            entry = Signal(len(output), name=f"entry_{lane}_{k}", reset_less=True)
            m.d.comb += output.eq(entry)
            with m.If(move):
                for n in sorted({p.n for p in self.patterns if p.n > k}):
                    with m.If(self._has(self.held, (p.n >= n for p in self.patterns))):
                        m.d.sync += entry.eq(Value.cast(self.slots[lane][k + self.n - n].entry))
                # Last, and without a reset beside it: so it is the flip-flops' reset, not a LUT for each bit.
                with m.If(self._has(self.held, (p.n <= k for p in self.patterns))):
                    m.d.sync += entry.eq(0)
