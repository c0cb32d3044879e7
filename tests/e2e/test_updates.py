"""Updates of weights as programs: function, interpreter and RTL agree bit for bit, model and RTL to the cycle."""

import numpy as np
import pytest
from four_engines import machine

from sateen.compiler.schedule.update import UpdateProgram, Weights, generate_updates
from sateen.errors import ConfigError
from sateen.formats.sparsity import DENSE
from sateen.hw.chip.verilog import emit_verilog
from sateen.ir.gradients import Update
from sateen.sim import verilator
from sateen.sim.gradients import update
from sateen.sim.memory_timing import NOMINAL

TINY = machine("int8", "int8", rows=2, cols=2, lanes=1, group=4, update=True, act_bank_depth=128)
MACHINES = {
    "tiny": TINY,
    "lanes": TINY.replace(rows=4, group=8, cols=4, update_lanes=4, act_bank_depth=256, bus_bits=128),
    "one bank at a time": TINY.replace(act_banks=2, bus_bits=32),
    "int4": machine("int4", "int4", rows=4, cols=2, lanes=1, group=4, update=True, act_bank_depth=256),
    "e4m3": machine("e4m3", "e4m3", rows=2, cols=2, lanes=1, group=4, update=True).replace(acc_bits=57),
}
RULE = Update((58982, 16), (51000, 22), (41000, 26), (0, 0), -8)


def layers(scale: int) -> tuple[Weights, ...]:
    rule = Update(RULE.momentum, RULE.rate, RULE.decay, RULE.pruned_decay, scale)
    return (
        Weights("conv", (9, 5, 11), rule),
        Weights("dense", (1, 17, 10), Update((1, 1), (1, 9), (0, 0), (0, 0), scale)),
    )


def state(found: UpdateProgram, seed: int) -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(seed)
    acc = found.config.acc_bits - 2
    return [
        (
            rng.integers(-(1 << 23), 1 << 23, layer.shape).astype(np.int32),
            rng.integers(-(1 << 26), 1 << 26, layer.shape).astype(np.int32),
            rng.integers(-(1 << acc), 1 << acc, layer.shape) >> rng.integers(0, acc, layer.shape),
        )
        for layer in found.layers
    ]


def check(found: UpdateProgram, values: list[tuple[np.ndarray, ...]], results: list[np.ndarray]) -> None:
    for layer, (w, v, g), got in zip(found.layers, values, found.unpack(results), strict=True):
        wanted = update(layer.rule, w, v, g, found.config.activation, DENSE)
        for have, want in zip(got, wanted, strict=True):
            assert (have == want).all(), layer.name


def scale_of(name: str) -> int:
    return {"int4": -4, "e4m3": -9}.get(name, -8)


@pytest.mark.parametrize("name", MACHINES)
def test_the_program_does_what_the_function_says(name):
    found = generate_updates(layers(scale_of(name)), MACHINES[name])
    values = state(found, 3)
    check(found, values, found.image.interpret(found.pack(values), found.results))


@pytest.mark.rtl
def test_in_rtl():
    found = generate_updates(layers(-8), TINY)
    values = state(found, 4)
    result = found.image.simulate(verilator.build(emit_verilog(TINY)), found.pack(values), found.results)
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
        ({}, {"pruned_decay": (1, 20)}, "does not decay pruned weights"),
        ({}, {"scale": -60}, r"a scale of 2\*\*-60 is out of the requantizer's reach"),
    ],
)
def test_what_a_machine_cannot_do(changes, rule, message):
    values = {name: getattr(RULE, name) for name in ("momentum", "rate", "decay", "pruned_decay", "scale")}
    with pytest.raises(ConfigError, match=message):
        generate_updates([Weights("conv", (1, 4, 4), Update(**values | rule))], TINY.replace(**changes))
