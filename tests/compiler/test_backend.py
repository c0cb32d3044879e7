"""Emitted programs against the reference: tiling, placement, streaming and tokens on many machines."""

from dataclasses import replace

import numpy as np
import pytest
from networks import selections
from random_graph import Builder, random_graph

from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.network import accumulator_bits, quantize
from sateen.compiler.schedule.backend import generate
from sateen.compiler.schedule.tiles import Packing, pack_tile, packings, tile_shape
from sateen.compiler.schedule.tokens import add_tokens
from sateen.compiler.schedule.traffic import moved, stored
from sateen.errors import ConfigError
from sateen.formats import parse_format
from sateen.ir.quantized import Linear
from sateen.machine.config import DATAFLOWS
from sateen.machine.isa import Opcode, Target, Unit
from sateen.machine.packing import index_words
from sateen.machine.presets import preset
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.program import Interpreter
from sateen.sim.reference import quantize_inputs, reference_codes

TINY = preset("tiny")
EIGHT = ("1:2", "2:4", "4:8", "1:4", "2:8", "1:8")
MACHINES = {
    "tiny": TINY,
    "mac256": preset("mac256"),
    "streaming": TINY.replace(act_bank_depth=128, weight_depth=64, acc_depth=16, parameter_depth=4),
    "two banks": TINY.replace(act_banks=2, act_bank_depth=512),
    "wide groups": TINY.replace(group=8, cols=4),
    "wide bus": TINY.replace(bus_bits=256, vector_lanes=2),
    "rows and slices": TINY.replace(rows=4, cols=2, lanes=1, group=4),
}
FORMATS = [
    ("int8", "int8"),
    ("int4", "uint4"),
    ("e3m2", "e3m2"),
    ("e2m1", "int8"),
    ("e4m3fn", "e4m3fn"),
    ("int3", "e3m0"),
]


def run_program(graph, config, samples=2, seed=0):
    program = generate(graph, config)
    rng = np.random.default_rng(seed)
    fmt = config.activation
    x = {p.name: rng.normal(0, fmt.max / 2, (samples, *p.shape)) for p in graph.inputs}
    codes = quantize_inputs(graph, x)
    data = rng.integers(0, 256, (samples, program.data_size)).astype(np.uint8)  # memory holds anything
    for r in program.inputs:
        start = r.offset - program.data_offset
        data[:, start : start + r.size] = r.pack(codes[r.tensor], config)
    Interpreter(
        config, program.constants, program.code, program.program_offset, data, program.data_offset
    ).run()
    found = {}
    for r in program.outputs:
        start = r.offset - program.data_offset
        found[r.tensor] = r.unpack(data[:, start : start + r.size], config)
    return program, found, reference_codes(graph, x)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("weight, activation", FORMATS)
def test_program_equals_reference(machine, weight, activation):
    for seed in range(6):
        graph = random_graph(seed, parse_format(weight), parse_format(activation))
        config = MACHINES[machine].replace(weight_format=weight, activation_format=activation)
        config = config.replace(acc_bits=accumulator_bits(graph), table=True)
        try:
            program, found, wanted = run_program(graph, config, seed=seed)
        except ConfigError as e:
            assert machine == "streaming", e
            continue
        for tensor, codes in found.items():
            assert np.array_equal(codes.astype(object), wanted[tensor].astype(object)), (
                f"seed {seed}: {tensor}"
            )
        assert program.predict(MemoryTiming(20, 1)).cycles > 0


@pytest.mark.parametrize("machine", ["tiny", "streaming", "wide groups", "rows and slices"])
@pytest.mark.parametrize("weight, activation", FORMATS)
def test_selections(machine, weight, activation):
    """Channels in any order, parts of the plane; an input that selections alone read may have two terms."""
    network, b = selections()
    statistics = calibrate(network, b.samples())
    for terms in (1, 2):
        graph = quantize(
            network, statistics, weight_format=weight, activation_format=activation, input_terms=terms
        )
        config = MACHINES[machine].replace(weight_format=weight, activation_format=activation)
        config = config.replace(acc_bits=accumulator_bits(graph), table=True)
        _, found, wanted = run_program(graph, config)
        for tensor, codes in found.items():
            assert np.array_equal(codes.astype(object), wanted[tensor].astype(object)), tensor


def test_streaming_spills():
    spilled = 0
    for seed in range(12):
        graph = random_graph(seed, parse_format("int8"), parse_format("int8"))
        config = MACHINES["streaming"].replace(acc_bits=accumulator_bits(graph), table=True)
        try:
            program, found, wanted = run_program(graph, config)
        except ConfigError:
            continue
        assert all(np.array_equal(found[t].astype(object), wanted[t].astype(object)) for t in found)
        spilled += len(program.placement.spilled)
    assert spilled >= 5


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("group, pattern", [(8, p) for p in EIGHT] + [(16, p) for p in (*EIGHT, "2:16")])
def test_sparse_weights_take_fewer_passes_and_change_no_bit(group, pattern, lanes):
    """n * group/m nonzeros of a group in passes of `lanes`, and log2(m) bits for each index.

    Where a pass has room for more, the next pattern of smaller m that it holds: 1:8 on two lanes is stored as 1:4.
    """
    n, m = map(int, pattern.split(":"))
    patterns = ("dense", *EIGHT, *(["2:16"] if group == 16 else []))
    config = TINY.replace(
        rows=2, cols=8, lanes=lanes, group=group, patterns=patterns, acc_bits=40, table=True
    )
    graph = random_graph(8, parse_format("int8"), parse_format("int8"))
    ops = []
    rng = np.random.default_rng(0)
    for op in graph.ops:
        if isinstance(op, Linear):
            o, kh, kw, c = op.weight.shape
            rank = rng.random((o, kh, kw, -(-c // m), m)).argsort(-1).argsort(-1)
            keep = rank.reshape(o, kh, kw, -1)[..., :c] < n
            op = replace(
                op, weight=replace(op.weight, codes=np.where(keep, op.weight.codes, 0).astype(np.uint8))
            )
        ops.append(op)
    program, found, wanted = run_program(replace(graph, ops=tuple(ops)), config)
    assert all(np.array_equal(found[t].astype(object), wanted[t].astype(object)) for t in found)
    passes = {i.passes for i in program.instructions if i.opcode == Opcode.MATRIX}
    assert max(passes) == max(1, group // m * n // lanes)
    spare = max(1, lanes * m // (n * group))
    loads = [i for i in program.instructions if i.opcode == Opcode.LOAD and i.target == Target.INDEX]
    planes = {i.last_plane + 1 for i in loads}
    matrix = [i for i in program.instructions if i.opcode == Opcode.MATRIX]
    assert planes == {i.index_bits for i in matrix} - {0}
    assert max(planes) == (m // spare).bit_length() - 1
    assert {i.index_shift for i in matrix if i.index_bits == max(planes)} == {
        (m // n // spare).bit_length() - 1
    }


def test_fewer_nonzeros_than_the_pattern_take_fewer_passes():
    """And the upper bits of an index are stored only where its place does not tell them."""
    config = TINY.replace(rows=1, cols=1, lanes=2, group=8, patterns=("dense", "2:4", "2:8"), vector_lanes=1)
    for used, packing in (
        ((0, 1, 2, 3, 4, 5, 6, 7), (4, 0, 0)),
        ((0, 1, 2, 3), (2, 0, 0)),  # in order, what comes after is left out
        ((0, 1, 4, 5), (2, 2, 1)),  # 2:4
        ((1, 2, 4, 7), (2, 1, 0)),  # 1:2, whose indices are smaller
        ((0, 4), (1, 2, 0)),  # 1:4
        ((5, 7), (1, 3, 1)),  # 2:8
        ((7,), (1, 2, 0)),  # 1:4 too, the other lane is free
        ((4, 5, 6, 7), (2, 3, 2)),  # 4:8
        ((), (1, 0, 0)),
    ):
        nonzero = np.zeros((1, 1, 1, 1, 8, 1), bool)
        nonzero[0, 0, 0, 0, used, 0] = True
        assert min(packings(nonzero, config)) == Packing(*packing), used


def test_a_pattern_takes_the_bytes_of_its_values_and_indices():
    """8 bits and log2(m) more for each kept element, in memory, wherever the lanes are all used."""
    base = TINY.replace(rows=2, cols=8, lanes=1, group=8, patterns=("dense", *EIGHT))
    rng = np.random.default_rng(0)
    for pattern in EIGHT:
        n, m = map(int, pattern.split(":"))
        keep = rng.random((3, 3, 64 // m, m, 8)).argsort(3) < n
        codes = np.where(keep, rng.integers(1, 128, keep.shape), 0).reshape(3, 3, 64, 8).astype(np.uint8)
        shape = tile_shape(codes, base)
        for dataflow in DATAFLOWS:
            words, indices = pack_tile(codes, shape, base, dataflow)
            planes = index_words(indices, shape.packing.index_bits, base)
            assert 8 * (words.size + planes.size) == keep.sum() * (8 + m.bit_length() - 1)


def test_too_small_buffer_names_layer_and_remedy():
    graph = random_graph(3, parse_format("int8"), parse_format("int8"))
    config = TINY.replace(act_banks=2, act_bank_depth=4, acc_bits=40)
    with pytest.raises(
        ConfigError, match=r"'t\d+'.*words of the activation buffer, which has 8; raise act_bank_depth"
    ):
        generate(graph, config)


def happens_before(instructions):
    """For each instruction, the set of instructions known to be done when it starts: its unit's, and by tokens."""
    known, order, tokens = [], {u: [] for u in Unit}, {}
    for i, instruction in enumerate(instructions):
        unit = instruction.unit
        before = set()
        if order[unit]:
            before |= known[order[unit][-1]] | {order[unit][-1]}
        for giver in Unit:
            if instruction.wait >> giver & 1:
                j = tokens[giver, unit].pop(0)
                before |= known[j] | {j}
        known.append(before)
        order[unit].append(i)
        for taker in Unit:
            if instruction.signal >> taker & 1:
                tokens.setdefault((unit, taker), []).append(i)
    assert not any(tokens.values()), "a token is given and never taken"
    return known


@pytest.mark.parametrize("machine", ["tiny", "streaming", "two banks"])
def test_every_conflict_is_ordered_by_tokens(machine, monkeypatch):
    """An independent check: touched addresses and bank ports, instruction against instruction."""
    import sateen.compiler.schedule.backend as backend

    captured = {}

    def spy(steps, config):
        add_tokens(steps, config)
        captured["steps"] = steps

    monkeypatch.setattr(backend, "add_tokens", spy)
    config = MACHINES[machine].replace(acc_bits=40, table=True)
    graph = random_graph(8, parse_format("int8"), parse_format("int8"))
    generate(graph, config)
    steps = captured["steps"]
    known = happens_before([s.instruction for s in steps])

    def touched(accesses):
        return {(space, a) for space, low, high in accesses for a in range(low, high)}

    def banks(accesses):
        return {
            a // config.act_bank_depth
            for space, low, high in accesses
            if space == "act"
            for a in range(low, high)
        }

    sets = [(touched(s.reads), touched(s.writes), banks(s.reads), banks(s.writes)) for s in steps]
    for i, (reads, writes, read_banks, write_banks) in enumerate(sets):
        for j in range(max(0, i - 80), i):
            if steps[j].instruction.unit == steps[i].instruction.unit or j in known[i]:
                continue
            r, w, rb, wb = sets[j]
            assert not (w & reads or w & writes or r & writes), (j, i)
            assert not (rb & read_banks or wb & write_banks), (j, i)


def test_weights_that_do_not_stay_are_read_once_for_a_plane_that_fits():
    """A tile's weights take more than half of the buffer: one cut of the plane more reads all of them again."""
    int8 = parse_format("int8")
    builder = Builder(np.random.default_rng(0), int8, int8, (6, 6, 64))
    out = builder.conv("x", 32, (3, 3), pads=(1, 1, 1, 1))
    graph = builder.graph(out)
    config = TINY.replace(acc_bits=accumulator_bits(graph), weight_depth=256)
    for bus_bits in (32, 512):
        program = generate(graph, config.replace(bus_bits=bus_bits))
        weights = moved(program.instructions, program.config)["weights"]
        assert weights == stored(program.instructions, program.config)["weights"] > 256 * 4
    # where accumulators hold half a plane, each half reads them
    program = generate(graph, config.replace(acc_depth=16, bus_bits=32))
    assert moved(program.instructions, program.config)["weights"] == 3 * weights
