"""schedule.json: figures that add up, bytes that the layers' shapes give, and a dense side that is a program."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from random_graph import Builder, random_graph

from sateen.compiler.schedule.backend import generate, without_indices
from sateen.compiler.schedule.summary import ABOUT, schedule
from sateen.compiler.schedule.traffic import FIRST_FETCH_BYTES, KINDS
from sateen.errors import ConfigError
from sateen.formats import parse_format, parse_sparsity
from sateen.ir.quantized import Linear
from sateen.machine.isa import UNITS, Opcode, Target
from sateen.machine.presets import preset
from sateen.sim.critical_path import critical_path
from sateen.sim.memory_timing import MemoryTiming

INT8 = parse_format("int8")
SPARSE = preset("tiny").replace(
    rows=4, cols=4, lanes=2, group=8, patterns=("dense", "2:8"), acc_bits=40, table=True
)
STREAMING = SPARSE.replace(act_bank_depth=128, weight_depth=64, acc_depth=16, parameter_depth=8)
MEMORIES = (MemoryTiming(1, 1), MemoryTiming(32, 1), MemoryTiming(300, 9))


def pruned(graph, pattern, layers=lambda index: True):
    """Random N:M zeros along the last axis, which has whole groups or is padded with zeros by the packing."""
    rng = np.random.default_rng(0)
    found = parse_sparsity(pattern)
    ops = []
    for index, op in enumerate(graph.ops):
        if isinstance(op, Linear) and layers(index):
            *rest, c = op.weight.shape
            rank = rng.random((*rest, -(-c // found.m), found.m)).argsort(-1).argsort(-1)
            keep = rank.reshape(*rest, -1)[..., :c] < found.n
            op = replace(
                op,
                weight=replace(
                    op.weight, codes=np.where(keep, op.weight.codes, 0).astype(np.uint8), sparsity=found
                ),
            )
        ops.append(op)
    return replace(graph, ops=tuple(ops))


def network(seed):
    return pruned(random_graph(seed, INT8, INT8), "2:8")


def programs():
    for config in (SPARSE, STREAMING):
        for seed in range(3):
            graph = network(seed)
            try:
                yield graph, generate(graph, config)
            except ConfigError:
                assert config is STREAMING


def test_figures_add_up():
    for graph, program in programs():
        dense = without_indices(graph, program)
        for memory in MEMORIES:
            s = schedule(program, memory, graph, dense)
            totals = s["totals"]
            assert sum(layer["cycles"] for layer in s["layers"]) == s["cycles"] == totals["cycles"]
            for side in ("", "dense"):
                whole = totals[side] if side else totals
                each = [layer[side] if side else layer for layer in s["layers"]]
                for kind in KINDS[:-2] + KINDS[-1:]:
                    assert sum(f["bytes"][kind] for f in each) == whole["bytes"][kind]
                for f in (*each, whole):
                    assert sum(f["limits"].values()) == f["cycles"]
                    assert sum(f["bytes"][k] for k in KINDS) == f["bytes"]["total"]
                    assert f["cycles"] == 0 or f["limits"][f["limited_by"]] == max(f["limits"].values())
                assert sum(f["macs"] for f in each) == whole["macs"]
            assert totals["dense_macs"] == totals["dense"]["macs"] >= totals["macs"]
            for f in (*s["layers"], totals):
                w = f["weights"]
                assert w["dense_bytes"] == w["values_bytes"] + w["zeros_bytes"]
                assert w["saved_bytes"] == w["zeros_bytes"] - w["index_bytes"]
                assert f["bytes_loaded"] + f["bytes_stored"] == f["bytes"]["total"]
            assert {"totals", "layers", "about"} <= set(s) and s["about"] == ABOUT


def test_the_first_fetch_is_counted_once_everywhere():
    """No instruction asks for it: it is in the timeline, in the load unit's cycles, and in the bytes."""
    for graph, program in programs():
        for memory in MEMORIES:
            s = schedule(program, memory, graph, without_indices(graph, program))
            first = s["timeline"][0]
            assert (first["engine"], first["layer"], first["start"]) == ("load", -1, 1)
            assert len(s["timeline"]) == 1 + sum(i.opcode != Opcode.END for i in program.instructions)
            for unit, counted in s["stalls"].items():
                mine = [e for e in s["timeline"] if e["engine"] == unit]
                assert counted["busy"] == sum(e["done"] - e["start"] + 1 for e in mine)
                assert counted["busy"] == s["totals"][f"{unit}_cycles"]
                assert sum(counted.values()) == s["cycles"]


def test_bytes_are_those_of_the_program():
    for graph, program in programs():
        s = schedule(program, MEMORIES[1], graph, without_indices(graph, program))
        loads = [i for i in program.instructions if i.opcode == Opcode.LOAD]
        words = {t: sum(i.words for i in loads if i.target == t) for t in Target}
        config, found = program.config, s["totals"]["bytes"]
        assert found["weights"] == words[Target.WEIGHT] * config.weight_word_bytes
        assert found["indices"] == words[Target.INDEX] * config.index_word_bytes
        assert found["parameters"] == words[Target.PARAMETER] * config.parameter_word_bytes
        assert found["tables"] == words[Target.TABLE]
        assert found["activations_read"] == words[Target.ACTIVATION] * config.act_word_bytes
        assert found["instructions"] == len(program.code) - len(program.code) % FIRST_FETCH_BYTES
        stores = (i.words for i in program.instructions if i.opcode == Opcode.STORE)
        assert found["activations_written"] == sum(stores) * config.act_word_bytes


@pytest.mark.parametrize("pattern, index_bits", [("2:8", 3), ("1:4", 2), ("2:4", 2), ("4:8", 3), ("1:2", 1)])
def test_weights_take_what_their_shapes_say(pattern, index_bits):
    """A layer of 3×3, 32 to 8 channels: all of it, or n of m values with indices of log2(m) bits."""
    nonzero = int(2304 * parse_sparsity(pattern).density)
    index_bytes = nonzero * index_bits // 8
    b = Builder(np.random.default_rng(1), INT8, INT8, (8, 8, 32))
    y = b.conv("x", 8, (3, 3), pads=(1, 1, 1, 1))
    full = np.random.default_rng(2).integers(1, 128, (8, 3, 3, 32)).astype(np.uint8)
    b.ops[0] = replace(b.ops[0], weight=replace(b.ops[0].weight, codes=full))
    graph = pruned(b.graph(y), pattern)
    program = generate(graph, SPARSE)
    s = schedule(program, MEMORIES[1], graph, without_indices(graph, program))
    (layer,) = s["layers"]
    assert s["indexed"] and layer["sparsity"] == pattern
    assert layer["weights"] == {
        "count": 2304,
        "nonzero": nonzero,
        "packed_bytes": 2304,
        "values_bytes": nonzero,
        "index_bytes": index_bytes,
        "dense_bytes": 2304,
        "zeros_bytes": 2304 - nonzero,
        "saved_bytes": 2304 - nonzero - index_bytes,
        "compression": 2304 / (nonzero + index_bytes),
    }
    assert (layer["macs"], layer["dense_macs"]) == (64 * nonzero, 64 * 2304)
    assert (layer["bytes"]["weights"], layer["dense"]["bytes"]["weights"]) == (nonzero, 2304)
    assert layer["dense"]["cycles"] > layer["cycles"]


def test_a_program_without_indices_is_its_own_dense_side():
    graph = random_graph(1, INT8, INT8)
    program = generate(graph, preset("tiny").replace(acc_bits=40, table=True))
    assert without_indices(graph, program) is program
    s = schedule(program, MEMORIES[1], graph, program)
    assert not s["indexed"] and s["totals"]["saved"] == {"bytes": 0, "weight_bytes": 0, "cycles": 0}
    assert all(layer["dense"]["cycles"] == layer["cycles"] for layer in s["layers"])


def test_the_path_is_without_gaps_and_every_unit_on_it_is_busy():
    for _, program in programs():
        for memory in MEMORIES:
            timeline = program.predict(memory)
            path = critical_path(timeline)
            assert path[0].start == 0 and path[-1].end == timeline.cycles
            assert all(a.end == b.start for a, b in pairwise(path))
            runs = {
                (e.instruction.unit.label, e.start): e.done + 1
                for e in timeline.events
                if e.instruction.opcode != Opcode.LOAD or e.instruction.target != Target.INSTRUCTION
            }
            for span in path:
                if span.what != "program":
                    assert runs[span.what, span.start] >= span.end
            assert {s.what for s in path} <= set(UNITS) | {"program"}


def test_slow_memory_is_what_limits():
    graph = network(0)
    program = generate(graph, SPARSE)
    dense = without_indices(graph, program)
    slow = schedule(program, MemoryTiming(300, 9), graph, dense)["totals"]["limits"]
    fast = schedule(program, MemoryTiming(1, 1), graph, dense)["totals"]["limits"]
    assert slow["load"] + slow["program"] + slow["store"] > slow["matrix"] + slow["vector"]
    assert slow["load"] > fast["load"] and slow["matrix"] <= fast["matrix"]
