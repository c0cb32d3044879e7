"""Tokens between the machine's units: every conflict is in program order, and no counter is ever full.

A token from one unit to another is under way from the end of the instruction that gives it to the start of the one
that takes it. How many are, depends on timing, but for two bounds that hold whatever the timing:

- those whose taker comes later in the program than the instruction that gives the last of them. A taker that would
  add one too many waits for a later instruction instead, and its followers then need no token for that one;
- those whose taker comes earlier, but may not have started. A queue holds `queue_depth` instructions, and what an
  instruction has waited for tells more. Where that leaves too many, the giver first waits for a taker.

Both only add waiting for what is earlier in the program, so a program that ended still ends.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from sateen.compiler.schedule.emitter import Access, Step
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Unit

NEVER = -1


@dataclass(slots=True)
class Latest:
    """For each address, the number of the last instruction that used it: intervals in order, without overlap."""

    lows: list[int] = field(default_factory=list)
    highs: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def put(self, low: int, high: int, number: int) -> None:
        """[low, high) was used by `number`, the greatest so far."""
        first, last = bisect_right(self.highs, low), bisect_left(self.lows, high)
        kept = []
        if first < last:
            if self.lows[first] < low:
                kept.append((self.lows[first], low, self.numbers[first]))
            kept.append((low, high, number))
            if self.highs[last - 1] > high:
                kept.append((high, self.highs[last - 1], self.numbers[last - 1]))
        else:
            kept.append((low, high, number))
        self.lows[first:last] = [k[0] for k in kept]
        self.highs[first:last] = [k[1] for k in kept]
        self.numbers[first:last] = [k[2] for k in kept]

    def within(self, low: int, high: int) -> int:
        """The last instruction that used any of [low, high), or NEVER."""
        first, last = bisect_right(self.highs, low), bisect_left(self.lows, high)
        return max(self.numbers[first:last], default=NEVER)


@dataclass(slots=True)
class _History:
    """What a unit has been given. Instructions are numbered by their place among the unit's own."""

    positions: list[int] = field(default_factory=list)
    """Of its instructions, in the program."""
    clocks: list[list[int]] = field(default_factory=list)
    """clocks[i][u]: how many instructions of unit u are known to be done when the i-th starts."""
    reads: dict[str, Latest] = field(default_factory=dict)
    writes: dict[str, Latest] = field(default_factory=dict)
    """By space."""
    read_banks: dict[int, int] = field(default_factory=dict)
    written_banks: dict[int, int] = field(default_factory=dict)
    """The last instruction that used the port of a bank of the activation buffer, or of `BUFFERS`."""

    def conflict(self, step: Step, read: set[int], written: set[int]) -> int:
        """The last instruction that `step`, whose ports are of those banks, must come after, or NEVER."""
        found = NEVER
        for space, low, high in step.reads:
            if space in self.writes:
                found = max(found, self.writes[space].within(low, high))
        for space, low, high in step.writes:
            for users in (self.reads, self.writes):
                if space in users:
                    found = max(found, users[space].within(low, high))
        for ports, banks in ((self.read_banks, read), (self.written_banks, written)):
            found = max(found, max((ports.get(b, NEVER) for b in banks), default=NEVER))
        return found

    def add(self, step: Step, position: int, clock: list[int], read: set[int], written: set[int]) -> None:
        number = len(self.positions)
        self.positions.append(position)
        self.clocks.append(clock)
        for users, accesses in ((self.reads, step.reads), (self.writes, step.writes)):
            for space, low, high in accesses:
                users.setdefault(space, Latest()).put(low, high, number)
        self.read_banks |= dict.fromkeys(read, number)
        self.written_banks |= dict.fromkeys(written, number)


@dataclass(slots=True)
class _Pair:
    """Tokens from one unit to another, in the order in which they are given and taken."""

    takers: list[int] = field(default_factory=list)  # among the taker's instructions
    positions: list[int] = field(default_factory=list)  # of the takers, in the program

    def first(self, fewer: int, givers: list[int]) -> int:
        """The first giver, of those at positions `givers`, after which fewer than `fewer` of the takers come."""
        if len(self.positions) < fewer:
            return 0
        return bisect_right(givers, self.positions[-fewer]) if fewer else len(givers)


class _Scheduler:
    """One run over the program; `steps` get their `wait` and `signal`."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        most = (1 << config.token_bits) - 1
        self.earlier = min(config.queue_depth, most // 2)
        """Tokens under way at once whose taker is earlier in the program than their last giver; `later`: the others."""
        self.later = most - self.earlier
        self.history = {u: _History() for u in Unit}
        self.pairs = {(giver, taker): _Pair() for giver in Unit for taker in Unit}
        self.given: list[list[Step]] = [[] for _ in Unit]

    def _giver(self, giver: Unit, taker: Unit, needed: int) -> int:
        """The instruction that `taker` is to wait for: `needed`, or a later one if too many tokens would be under way.

        The last one always is possible: when the latest token was added, there was room for one more.
        """
        givers, pair = self.history[giver].positions, self.pairs[giver, taker]
        if needed >= pair.first(self.later - 1, givers):
            return needed
        return min(pair.first(self.later // 2, givers), len(givers) - 1)

    def add(self, step: Step, position: int) -> None:
        me = step.instruction.unit
        mine = self.history[me]
        read, written = _banks(step.reads, self.config), _banks(step.writes, self.config)
        clock = list(mine.clocks[-1]) if mine.clocks else [0] * len(Unit)
        waits: dict[Unit, int] = {}

        def wait(other: Unit, needed: int) -> None:
            if needed >= clock[other]:
                waits[other] = self._giver(other, me, needed)
                for u, known in enumerate(self.history[other].clocks[waits[other]]):
                    clock[u] = max(clock[u], known)
                clock[other] = waits[other] + 1

        others = [u for u in Unit if u != me]
        for other in others:
            wait(other, self.history[other].conflict(step, read, written))
        for other in others:  # as if it gave a token
            takers = self.pairs[me, other].takers
            started = max(clock[other], len(self.history[other].positions) - self.config.queue_depth)
            if len(takers) - bisect_left(takers, started) > self.earlier:
                wait(other, takers[-self.earlier - 1])
        for other, number in waits.items():
            step.instruction.wait |= 1 << other
            self.given[other][number].instruction.signal |= 1 << me
            pair = self.pairs[other, me]
            pair.takers.append(len(mine.positions))
            pair.positions.append(position)
        clock[me] = len(mine.positions)
        mine.add(step, position, clock, read, written)
        self.given[me].append(step)


def add_tokens(steps: Iterable[Step], config: AcceleratorConfig) -> None:
    """Set `wait` and `signal` so that every conflict between two units, and every shared port, is in program order.

    A vector clock for each unit says what is already known to be done, so that no token is redundant. The k-th
    token from one unit to another is thus taken by the k-th instruction that waits for one. No more than
    `config.token_bits` can count are ever under way from one unit to another.
    """
    scheduler = _Scheduler(config)
    for position, step in enumerate(steps):
        scheduler.add(step, position)


BUFFERS = {"weight": -1, "index": -2}
"""The weight and the index buffer, as banks: LOAD and MOVE write them."""


def _banks(accesses: list[Access], config: AcceleratorConfig) -> set[int]:
    """Those of the activation buffer that the accesses use, and of `BUFFERS`."""
    depth = config.act_bank_depth
    return {BUFFERS[space] for space, _, _ in accesses if space in BUFFERS} | {
        bank
        for space, low, high in accesses
        if space == "act"
        for bank in range(low // depth, (high - 1) // depth + 1)
    }
