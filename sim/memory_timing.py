"""When loads and stores end: the exact model of hw/load.py and hw/store.py on the memory of docs/isa.md."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from sateen.config import AcceleratorConfig
from sateen.errors import ConfigError
from sateen.hw import isa
from sateen.hw.load import ADDRESS_LATENCY, WRITE_LATENCY, word_bytes
from sateen.hw.store import DATA_LATENCY, DONE_LATENCY


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


class LoadTiming(NamedTuple):
    """`arrivals`: cycles in which an INSTRUCTION load hands its beats to the dispatcher, else ()."""

    done: int
    arrivals: tuple[int, ...]


def load_timing(
    start: int, source: int, words: int, target: int, config: AcceleratorConfig, memory: MemoryTiming
) -> LoadTiming:
    """Timing of a LOAD that starts in cycle `start`; see `isa.LOAD` for the fields."""
    first_beat = source // config.beat_bytes % config.burst_beats
    done, arrivals = _load(
        first_beat, words, int(target), _shape(config, isa.Target(target)), memory.latency, memory.interval
    )
    return LoadTiming(start + done, tuple(start + t for t in arrivals))


def store_timing(
    start: int, destination: int, words: int, config: AcceleratorConfig, memory: MemoryTiming
) -> int:
    """The cycle in which a STORE that starts in cycle `start` is done."""
    first_beat = destination // config.beat_bytes % config.burst_beats
    shape = _shape(config, isa.Target.ACTIVATION)
    return start + _store(first_beat, words, shape, memory.latency, memory.interval)


class _Shape(NamedTuple):
    """What the timing depends on: bytes of a word and of a beat, beats of a burst, bursts at once."""

    word_bytes: int
    beat_bytes: int
    burst_beats: int
    outstanding: int


def _shape(config: AcceleratorConfig, target: isa.Target) -> _Shape:
    return _Shape(word_bytes(target, config), config.beat_bytes, config.burst_beats, config.outstanding)


@lru_cache(maxsize=65536)
def _load(
    first_beat: int, words: int, target: int, shape: _Shape, latency: int, interval: int
) -> tuple[int, tuple[int, ...]]:
    """`LoadTiming` for start = 0, burst by burst."""
    split = max(1, shape.beat_bytes // shape.word_bytes)
    beats = -(-words * shape.word_bytes // shape.beat_bytes)
    step = max(interval, split)  # cycles from beat to beat within a burst
    keep = target == isa.Target.INSTRUCTION
    arrivals: list[int] = []
    outstanding, burst_beats = shape.outstanding, shape.burst_beats
    lasts = [0] * outstanding  # transfer of the last beat, of the last `outstanding` bursts
    slot = 0
    left, burst = beats, burst_beats - first_beat
    address = ADDRESS_LATENCY - 1
    last = -1
    while left:
        if burst > left:
            burst = left
        # One address a cycle, and the burst that held the slot is closed the cycle before.
        address += 1
        if lasts[slot] + 1 > address:
            address = lasts[slot] + 1
        first = address + latency
        if last >= 0:
            # A memory that has no burst open when the address comes has forgotten its last beat.
            if last >= address and last + interval > first:
                first = last + interval
            if last + split > first:
                first = last + split
        last = first + (burst - 1) * step
        if keep:
            arrivals.extend(range(first + WRITE_LATENCY, last + WRITE_LATENCY + 1, step))
        lasts[slot] = last
        slot = slot + 1 if slot + 1 < outstanding else 0
        left -= burst
        burst = burst_beats
    words_of_last_beat = (words - 1) % split + 1
    return last + WRITE_LATENCY + words_of_last_beat - 1, tuple(arrivals)


@lru_cache(maxsize=65536)
def _store(first_beat: int, words: int, shape: _Shape, latency: int, interval: int) -> int:
    """Cycles from start to done, burst by burst."""
    pack = max(1, shape.beat_bytes // shape.word_bytes)  # words of a beat, put into it one a cycle
    beats = -(-words * shape.word_bytes // shape.beat_bytes)
    words_of_last_beat = (words - 1) % pack + 1
    step = max(interval, pack)
    outstanding, burst_beats = shape.outstanding, shape.burst_beats
    responses = [0] * outstanding
    slot = 0
    left, burst = beats, burst_beats - first_beat
    address = ADDRESS_LATENCY - 1
    last = response = -1
    while left:
        if burst > left:
            burst = left
        final = burst == left
        address += 1
        if responses[slot] + 1 > address:
            address = responses[slot] + 1
        fill = words_of_last_beat if final and burst == 1 else pack
        # The first word enters the beat when data is there, the address is out and the beat before has left.
        first = max(DATA_LATENCY, address, last) + fill
        if last >= 0:
            first = max(first, min(last + interval, response + 1))
        last = first
        if burst > 1:
            last += (burst - 2) * step
            last += max(interval, words_of_last_beat) if final else step
        response = last + latency
        responses[slot] = response
        slot = slot + 1 if slot + 1 < outstanding else 0
        left -= burst
        burst = burst_beats
    return response + DONE_LATENCY
