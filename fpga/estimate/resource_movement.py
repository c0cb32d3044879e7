"""Terms of what moves data and tells it where to go: registers, control, the memories, LOAD and STORE."""

from __future__ import annotations

import math

from sateen.fpga.estimate.instruction_use import instruction_mask
from sateen.fpga.estimate.memory_map import memory
from sateen.fpga.estimate.resource_terms import Terms, log2, mux
from sateen.hw import isa
from sateen.hw.control.dispatch import instruction_beats, instruction_bits
from sateen.hw.memory.load import targets, word_bytes
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Unit


def registers(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    t.add(one=1, counters=c.counters, address=c.bus_address_bits, program=c.memory_bits)
    written = 32 if c.counters else max(min(32, c.bus_address_bits), c.memory_bits)
    events = 18 * c.counters
    t.add(ff=c.bus_address_bits + c.memory_bits + written + -(-written // 8) + 32 + 33 * events)
    t.add(ff=(32 + 3 * 32 + 3) * c.counters)  # the rest of CYCLES and its copy, the watchdog
    t.ff["one"] = 1
    return t


def control(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    beats = instruction_beats(c)
    depth = 2 * isa.CHUNK * beats
    t.store(family, memory(family, c.bus_bits, depth), c.bus_bits)
    t.store(family, memory(family, len(Unit) + 1, 2 * isa.CHUNK), len(Unit) + 1)
    pairs = c.token_pairs.bit_count()
    t.add(one=1, tokens=3 * pairs * c.token_bits, pairs=pairs, pointers=2 * log2(2 * depth), lanes=beats)
    # a token that no unit takes needs no bit in the queues
    t.add(ff=pairs * (c.token_bits + 3) + 2 * log2(2 * depth) + (beats if beats > 1 else 0))
    t.ff["one"] = 1
    for unit in Unit:
        kept = min(beats, -(-instruction_bits(unit) // c.bus_bits))
        beat = min(c.bus_bits, instruction_bits(unit))
        used = instruction_mask(unit, c) | 0xFF0  # with the masks of tokens
        found = memory(family, kept * beat, c.queue_depth, slices=kept, synchronous=False)
        if found.kind == "lut":  # a cell is left out if nothing uses its bits
            cells = sum(
                bool(used >> n * beat + low & (1 << min(found.unit, beat - low)) - 1)
                for n in range(kept)
                for low in range(0, beat, found.unit)
            )
            t.add(memory=found.ways * cells * (found.units // found.cells), instruction=used.bit_count())
        else:
            t.add(instruction=used.bit_count(), ff=c.queue_depth * used.bit_count())
        t.add(enables=kept, queue_pointers=2 * log2(c.queue_depth), levels=log2(c.queue_depth + 1))
        t.add(ff=2 * log2(c.queue_depth) + log2(c.queue_depth + 1))
        if unit is Unit.LOAD:
            t.add(words=c.word_bits)
    t.ff["one"] = 1
    return t


def activations(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    width, banks = c.act_word_bits, c.act_banks
    found = memory(family, width, c.act_bank_depth, slices=c.slices)
    offset = log2(c.act_bank_depth)
    for _ in range(banks):
        t.store(family, found, width)
    t.add(one=1, write_data=banks * width, write_mask=banks * c.slices, read_address=2 * banks * offset,
          write_address=banks * offset, banks=banks)  # fmt: skip
    t.add(
        read_data=3 * width * mux(family, banks),
        read_tree=3 * width * (banks - 1),
        ff=3 * (width + log2(banks) + 1),
    )
    return t


def buffer(width: int, depth: int, family: str, rows: int = 1) -> Terms:
    t = Terms()
    t.store(family, memory(family, width, depth, rows=rows), width)
    return t


def indices(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    width = c.cols * c.lanes
    found = memory(family, width, c.weight_depth, rows=c.index_rows)
    for _ in range(c.index_planes):
        t.store(family, found, width)
    t.add(planes=c.index_planes, blocks=c.index_planes * c.index_rows * (found.ways > 1))
    return t


_LEAST_CHAIN = 3
"""Ref: Yosys, synth_xilinx: `xilinx_srl -minlen 3`."""


def load(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    size = {target: word_bytes(target, c) for target in targets(c)}
    size[isa.Target.INSTRUCTION] = c.beat_bytes
    unit = {target: math.gcd(n, c.beat_bytes) for target, n in size.items()}
    grain = min(unit.values())
    stream = 8 * max(size[k] + c.beat_bytes - unit[k] for k in size)
    level = 1 + (max(*size.values(), c.beat_bytes) // grain).bit_length()
    # the bits of a word, as a mask that begins with the newest: words may have bits that go nowhere
    wanted: dict[int, int] = {}
    for target, n in size.items():
        wanted[n] = wanted.get(n, 0) | _reversed(_bits_used(target, c), 8 * n)
    live = selected = 0
    for n, bits in wanted.items():
        least = math.gcd(n, c.beat_bytes)
        found, muxes = _below(bits, stream, log2(c.beat_bytes // least), 8 * least)
        live |= found
        selected += muxes
    tapped = live
    for distance in range(stream // c.bus_bits + 1):  # a bit comes through those that are newer
        live |= live >> c.bus_bits * distance
    live &= (1 << stream) - 1
    if family == "xcup":
        chains = [n for b in range(c.bus_bits) for n in _chains(live >> b, tapped >> b, c.bus_bits)]
        t.add(chains=len(chains), ff=-sum(chains))
    lengths = [size[k] // grain for k in size]
    beats = {(size[k] // unit[k], c.beat_bytes // unit[k]) for k in size}
    t.add(one=1, selected=selected, level=4 * level, targets=len(size), beats=(len(beats) - 1) * c.word_bits)
    t.add(units=sum(_times(n) + (m > 1) for n, m in beats) * c.word_bits)
    t.add(sizes=len(set(size.values())) * level)
    address = max(
        log2(c.act_depth), log2(c.weight_depth), log2(c.parameter_depth), c.activation.bits * c.table
    )
    writes = 24 + log2(isa.INSTRUCTION_BYTES // c.beat_bytes)
    t.add(address=2 * address, writes=3 * writes)
    t.add(ff=live.bit_count() + level + _columns(lengths) + address + writes)
    _requests(t, c)
    if c.index_planes > 1:
        t.add(planes=c.index_planes, ff=2 * c.index_planes)
    t.ff["one"] = 1
    return t


def _chains(live: int, tapped: int, step: int) -> list[int]:
    """Lengths of the rows of flip-flops, every `step`-th bit, that UltraScale+'s LUTs take as shift registers."""
    found, length = [], 0
    while live & 1:
        length += 1
        live >>= step
        if tapped & 1 or not live & 1:
            found.append(length)
            length = 0
        tapped >>= step
    return [n for n in found if n >= _LEAST_CHAIN]


def _columns(values: list[int]) -> int:
    """Flip-flops of a register that takes one of some constants: bits that are always equal share one."""
    bits = max(values).bit_length()
    return len({tuple(v >> b & 1 for v in values) for b in range(bits)} - {(0,) * len(values)})


def _bits_used(target: isa.Target, c: AcceleratorConfig) -> int:
    """Bits of a word of a target in memory that the machine keeps, as a mask."""
    if target is isa.Target.PARAMETER:
        channel = (1 << c.parameter_bits) - 1
        return sum(channel << 8 * c.parameter_bytes * i for i in range(c.vector_lanes))
    width = {
        isa.Target.ACTIVATION: c.act_word_bits,
        isa.Target.WEIGHT: c.weight_word_bits,
        isa.Target.TABLE: c.activation.bits,
        isa.Target.INSTRUCTION: c.bus_bits,
        isa.Target.INDEX: c.index_word_bits,
    }[target]
    return (1 << width) - 1


def _reversed(mask: int, bits: int) -> int:
    return int(f"{mask:0{bits}b}"[::-1], 2)


def _requests(t: Terms, c: AcceleratorConfig) -> None:
    beats = c.memory_bits - log2(c.beat_bytes)
    base = c.bus_address_bits - log2(c.beat_bytes * c.burst_beats)
    t.add(burst=4 * log2(c.burst_beats), request=3 * beats, base=base, opened=log2(c.outstanding + 1))
    t.add(
        ff=2 * beats + c.bus_address_bits - log2(c.beat_bytes) + log2(c.burst_beats) + log2(c.outstanding + 1)
    )


def _times(factor: int) -> int:
    """Adders of a multiplication by a constant."""
    odd = factor // (factor & -factor)
    return 1 if odd > 1 and odd & (odd + 1) == 0 else max(0, odd.bit_count() - 1)


def _below(wanted: int, stream: int, places: int, unit: int) -> tuple[int, int]:
    """The bits of the stream that hw.gearbox.below takes for the bits `wanted` of its result, and how many it selects.

    Masks begin with the newest bit.
    """
    inside = (1 << stream) - 1
    selected = 0
    for i in range(places):
        selected += (wanted & inside).bit_count()
        wanted |= wanted << (unit << i)
        wanted &= inside
    return wanted, selected


def store(c: AcceleratorConfig, family: str) -> Terms:
    t = Terms()
    unit = math.gcd(c.act_word_bytes, c.beat_bytes)
    word, beat = c.act_word_bytes // unit, c.beat_bytes // unit
    depth = 4 if word <= 2 * beat else 2
    units = word + beat - 1
    level = 1 + max(word, beat).bit_length()
    places = log2(word)
    _, selected = _below((1 << c.bus_bits) - 1, 8 * unit * units, places, 8 * unit)
    _, strobes = _below((1 << beat) - 1, units, places, 1)
    t.add(one=1, queue=c.act_word_bits * mux(family, depth), stream=selected,
          strobes=strobes, shifted=units, level=4 * level, reads=3 * c.word_bits + 2 * log2(c.act_depth),
          places=depth)  # fmt: skip
    t.add(units=(_times(word) + (beat > 1)) * c.word_bits, beats=3 * (c.memory_bits - log2(c.beat_bytes)))
    t.add(
        ff=depth * c.act_word_bits
        + 8 * unit * units
        + -(-units // word)
        + level
        + c.word_bits
        + log2(c.act_depth)
    )
    t.add(ff=c.memory_bits - log2(c.beat_bytes) + 2 * log2(depth) + 2 * log2(depth + 1) + log2(c.burst_beats)
          + log2(c.outstanding + 1))  # fmt: skip
    _requests(t, c)
    t.ff["one"] = 1
    return t
