"""When loads and stores end: exactly what hw/memory/ does on the memory of docs/isa.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from sateen.errors import ConfigError
from sateen.hw import isa
from sateen.hw.chip import soc_memory
from sateen.hw.memory.load import ADDRESS_LATENCY, WRITE_LATENCY, word_bytes
from sateen.hw.memory.store import DATA_LATENCY, DONE_LATENCY
from sateen.machine.config import AcceleratorConfig


@dataclass(frozen=True, slots=True)
class MemoryTiming:
    """The simulated memory.

    Parameters
    ----------
    latency : int
        Cycles from an address to its first beat, or from the last write beat to its response; at least 1.
    interval : int
        Cycles per beat, at least 1.
    """

    latency: int = 16
    interval: int = 1

    def __post_init__(self) -> None:
        for name in ("latency", "interval"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
                raise ConfigError(
                    f"memory {name} = {value!r}; it must be an integer from 1 to 1000000 cycles"
                )


NOMINAL = MemoryTiming(latency=32, interval=1)
"""What programs are cut for, and what schedule.json and the manifest's cycles are predicted for."""

ON_CHIP = MemoryTiming(latency=soc_memory.LATENCY, interval=1)
"""The memory of the system on the chip."""


class LoadTiming(NamedTuple):
    """`arrivals`: cycles in which an INSTRUCTION load hands its beats to the dispatcher, else ()."""

    done: int
    arrivals: tuple[int, ...]


def load_timing(
    start: int,
    source: int,
    words: int,
    target: int,
    config: AcceleratorConfig,
    memory: MemoryTiming,
    copies: int = 1,
) -> LoadTiming:
    """Timing of a LOAD that starts in cycle `start`; see `isa.LOAD` for the fields.

    `copies` are bursts for each of it: of several arrays' own data, one for each array (hw/memory/arrays.py).
    """
    first_beat = source // config.beat_bytes % config.burst_beats
    shape = _shape(config, isa.Target(target))
    done, arrivals = _load(first_beat, words, int(target), shape, memory.latency, memory.interval, copies)
    return LoadTiming(start + done, tuple(start + t for t in arrivals))


def store_timing(
    start: int,
    destination: int,
    words: int,
    config: AcceleratorConfig,
    memory: MemoryTiming,
    copies: int = 1,
) -> int:
    """The cycle in which a STORE that starts in cycle `start` is done; `copies` as `load_timing` has it."""
    first_beat = destination // config.beat_bytes % config.burst_beats
    shape = _shape(config, isa.Target.ACTIVATION)
    return start + _store(first_beat, words, shape, memory.latency, memory.interval, copies)


class _Shape(NamedTuple):
    """What the timing depends on: bytes of a word and of a beat, beats of a burst, bursts at once."""

    word_bytes: int
    beat_bytes: int
    burst_beats: int
    outstanding: int


def _shape(config: AcceleratorConfig, target: isa.Target) -> _Shape:
    return _Shape(word_bytes(target, config), config.beat_bytes, config.burst_beats, config.outstanding)


class _Pace:
    """Cycles from beat to beat, where beat b moves `moved(b)` words, one a cycle; they repeat after `period` beats."""

    def __init__(self, moved: Callable[[int], int], period: int, interval: int) -> None:
        self.moved, self.period = moved, period
        self.sums = [0]  # up to one period
        for b in range(period):
            self.sums.append(self.sums[-1] + max(interval, self.gap(b)))

    def gap(self, b: int) -> int:
        """What the unit needs after or before beat b, however fast memory is."""
        return max(1, self.moved(b))

    def between(self, first: int, last: int) -> int:
        """Sum over beats first to last - 1, with what memory needs."""
        return self._sum(last) - self._sum(first)

    def _sum(self, b: int) -> int:
        periods, rest = divmod(b, self.period)
        return periods * self.sums[-1] + self.sums[rest]


@lru_cache(maxsize=256)
def _pace(word_bytes: int, beat_bytes: int, interval: int, store: bool) -> _Pace:
    unit = math.gcd(word_bytes, beat_bytes)
    word, beat = word_bytes // unit, beat_bytes // unit
    if store:  # words that have to be there for beats 0 to b, rounded up
        return _Pace(lambda b: -(-(b + 1) * beat // word) - -(-b * beat // word), word, interval)
    return _Pace(lambda b: (b + 1) * beat // word - b * beat // word, word, interval)


@lru_cache(maxsize=65536)
def _load(
    first_beat: int, words: int, target: int, shape: _Shape, latency: int, interval: int, copies: int
) -> tuple[int, tuple[int, ...]]:
    """`LoadTiming` for start = 0, burst by burst.

    A burst's copies follow one another; the unit takes the last one's beats, and those before never wait for it.
    """
    keep = target == isa.Target.INSTRUCTION
    beats = -(-words * shape.word_bytes // shape.beat_bytes)
    # an instruction is passed on beat by beat
    pace = _pace(shape.beat_bytes if keep else shape.word_bytes, shape.beat_bytes, interval, store=False)
    arrivals: list[int] = []
    outstanding, burst_beats = shape.outstanding, shape.burst_beats
    lasts = [0] * outstanding  # transfer of the last beat, of the last `outstanding` bursts
    slot = 0
    done, burst = 0, burst_beats - first_beat  # beats
    address = ADDRESS_LATENCY - copies
    last = -1
    while done < beats:
        burst = min(burst, beats - done)
        # One address a cycle, and the burst that held the slot is closed the cycle before.
        address = max(address + copies, lasts[slot] + 1)
        first = address + latency
        # A memory that has no burst open when the address comes has forgotten its last beat.
        if last >= address:
            first = max(first, last + interval)
        first += (copies - 1) * burst * interval
        if last >= 0:
            first = max(first, last + pace.gap(done - 1))
        last = first + pace.between(done, done + burst - 1)
        if keep:
            arrivals.extend(range(first + WRITE_LATENCY, last + WRITE_LATENCY + 1, interval))
        lasts[slot] = last
        slot = slot + 1 if slot + 1 < outstanding else 0
        done += burst
        burst = burst_beats
    if keep:
        return last + WRITE_LATENCY, tuple(arrivals)
    words_before = (beats - 1) * shape.beat_bytes // shape.word_bytes
    return last + WRITE_LATENCY + words - words_before - 1, ()


@lru_cache(maxsize=65536)
def _store(first_beat: int, words: int, shape: _Shape, latency: int, interval: int, copies: int) -> int:
    """Cycles from start to done, burst by burst.

    A burst's copies go to memory behind its own beats, which set out as the unit makes them.
    """
    beats = -(-words * shape.word_bytes // shape.beat_bytes)
    pace = _pace(shape.word_bytes, shape.beat_bytes, interval, store=True)
    outstanding, burst_beats = shape.outstanding, shape.burst_beats
    responses = [0] * outstanding
    slot = 0
    done, burst = 0, burst_beats - first_beat  # beats
    address = ADDRESS_LATENCY - copies
    last = end = response = -1  # the unit's last beat, and that of all copies
    while done < beats:
        burst = min(burst, beats - done)
        address = max(address + copies, responses[slot] + 1)
        # A beat is on the bus when its words are there, one a cycle from the beat before on, and after its address.
        first = max((last if done else DATA_LATENCY) + pace.gap(done), address + 1)
        if done:
            first = max(first, min(end + interval, response + 1))
        last = first + pace.between(done + 1, done + burst)
        # A copy's first beat need not wait where what went before is answered.
        end = last + (copies - 1) * (min(interval, latency + 1) + (burst - 1) * interval)
        response = end + latency
        responses[slot] = response
        slot = slot + 1 if slot + 1 < outstanding else 0
        done += burst
        burst = burst_beats
    return response + DONE_LATENCY
