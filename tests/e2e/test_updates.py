"""Updates of weights as programs: function, interpreter and RTL agree bit for bit, model and RTL to the cycle."""

import numpy as np
import pytest
from four_engines import machine

from sateen.compiler.schedule.update import UpdateProgram, Weights, generate_updates
from sateen.errors import ConfigError
from sateen.formats import parse_sparsity
from sateen.hw.chip.verilog import emit_verilog
from sateen.ir.gradients import Update
from sateen.sim import verilator
from sateen.sim.gradients import encoded, update
from sateen.sim.memory_timing import NOMINAL

TINY = machine("int8", "int8", rows=2, cols=2, lanes=1, group=4, update=True, act_bank_depth=128)
PRUNING = TINY.replace(pruned_decay=True, patterns=("dense", "2:4"), act_bank_depth=256)
MACHINES = {
    "tiny": TINY,
    "lanes": TINY.replace(rows=4, group=8, cols=4, update_lanes=4, act_bank_depth=256, bus_bits=128),
    "one bank at a time": TINY.replace(act_banks=2, bus_bits=32),
    "int4": machine("int4", "int4", rows=4, cols=2, lanes=1, group=4, update=True, act_bank_depth=256),
    "patterns": PRUNING,
    "patterns, lanes": PRUNING.replace(
        rows=4,
        group=8,
        cols=4,
        update_lanes=4,
        act_bank_depth=1024,
        bus_bits=256,
        patterns=("dense", "1:2", "2:8", "4:8"),
    ),
    "patterns, int4": machine(
        "int4",
        "int4",
        rows=4,
        cols=2,
        lanes=1,
        group=4,
        update=True,
        pruned_decay=True,
        patterns=("dense", "2:4"),
        act_bank_depth=1024,
    ),
    "e4m3": machine("e4m3", "e4m3", rows=2, cols=2, lanes=1, group=4, update=True).replace(acc_bits=57),
}
RULE = Update((58982, 16), (51000, 22), (41000, 26), 41000, -8)


def layers(scale: int, config=TINY) -> tuple[Weights, ...]:
    """The first with each of the machine's patterns in turn, whose groups its pixels do not fill."""
    rule = Update(RULE.momentum, RULE.rate, RULE.decay, RULE.decay[0], scale)
    pruned = Update(RULE.momentum, RULE.rate, RULE.decay, 65000, scale)
    found = [Weights("conv", (9, 5, 11), rule)]
    if config.pruned_decay:
        found += [Weights(f"conv {p}", (9, 13, 11), pruned, p) for p in config.sparse_patterns]
        found.append(Weights("wide", (1, 21, 20), pruned, config.sparse_patterns[0]))
    return (*found, Weights("dense", (1, 17, 10), Update((1, 1), (1, 9), (0, 0), 0, scale)))


def state(found: UpdateProgram, seed: int) -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(seed)
    acc = found.config.acc_bits - 2
    values = []
    for layer in found.layers:
        master = rng.integers(-(1 << 23), 1 << 23, layer.shape).astype(np.int32)
        values.append(
            (
                master,
                rng.integers(-(1 << 26), 1 << 26, layer.shape).astype(np.int32),
                rng.integers(-(1 << acc), 1 << acc, layer.shape) >> rng.integers(0, acc, layer.shape),
                encoded(master, layer.rule.scale, found.config.activation),
            )
        )
    return values


def check(found: UpdateProgram, values: list[tuple[np.ndarray, ...]], results: list[np.ndarray]) -> None:
    for layer, (w, v, g, _), got in zip(found.layers, values, found.unpack(results), strict=True):
        wanted = update(layer.rule, w, v, g, found.config.activation, layer.pattern)
        for have, want in zip(got, wanted, strict=True):
            assert (have == want).all(), layer.name


def scale_of(name: str) -> int:
    return {"int4": -4, "e4m3": -9}.get(name, -8)


@pytest.mark.parametrize("name", MACHINES)
def test_the_program_does_what_the_function_says(name):
    found = generate_updates(layers(scale_of(name), MACHINES[name]), MACHINES[name])
    values = state(found, 3)
    check(found, values, found.image.interpret(found.pack(values), found.results))


@pytest.mark.rtl
def test_in_rtl():
    """With and without patterns in one program."""
    found = generate_updates(layers(-8, PRUNING), PRUNING)
    values = state(found, 4)
    result = found.image.simulate(verilator.build(emit_verilog(PRUNING)), found.pack(values), found.results)
    assert [(s.done, s.error, s.cycles) for s in result.samples] == [(True, 0, found.predict(NOMINAL).cycles)]
    check(found, values, list(result.outputs))


@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        ({"update": False}, {}, "update = false, and weights are to be updated"),
        (
            {"act_bank_depth": 8},
            {},
            "words of a bank of the activation buffer, which has 8; raise act_bank_depth",
        ),
        ({}, {"rate": (1, 62)}, r"update of 'conv': rate = 1 \* 2\*\*-62; it must be 0 to 65535"),
        ({}, {"pruned": 1}, "pruned_decay = false, and the update of 'conv' decays pruned weights"),
        (
            {"pruned_decay": True, "patterns": ("dense", "1:2")},
            {"pruned": 1},
            "update of 'conv': decays what 2:4 leaves out; patterns",
        ),
        (
            {"pruned_decay": True, "patterns": ("dense", "2:4"), "act_bank_depth": 16},
            {"pruned": 1},
            "update of 'conv': 4 pixels of 4 channels are more than the 1 words",
        ),
        ({}, {"scale": -60}, r"a scale of 2\*\*-60 is out of the requantizer's reach"),
    ],
)
def test_what_a_machine_cannot_do(changes, rule, message):
    values = {name: getattr(RULE, name) for name in ("momentum", "rate", "decay", "pruned", "scale")}
    with pytest.raises(ConfigError, match=message):
        generate_updates(
            [Weights("conv", (1, 4, 4), Update(**values | rule), parse_sparsity("2:4"))],
            TINY.replace(**changes),
        )
