"""Random training steps for `fuzz.py --kind training`: small networks, formats, patterns, machines and batches.

Two steps of each case are done in the reference and as programs, and compared bit for bit; on one machine of `--rtl`'s
share in RTL, too, whose cycles are those of the model. One in four is a network of tokens and gates, which the
reference alone trains: its steps are done with the samples in another order, too, and give the same bits, and the
machine refuses it. A case is its seed: `--first SEED --count 1` does it again.
"""

from __future__ import annotations

import argparse
import collections
import random
import time

import numpy as np

import sateen
from sateen.compiler.importer import import_model
from sateen.compiler.training import (
    Settings,
    Trainer,
    cycles,
    differences,
    fitting,
    initial,
    make_plan,
    record,
)
from sateen.errors import SateenError
from sateen.formats import parse_format
from sateen.models.random_tokens import random_tokens
from sateen.models.random_trainable import random_trainable

STEPS = 2
FORMATS = ("int8", "int8", "e4m3", "e4m3fn", "e5m2", "int4", "e2m1")
GRADIENTS = {8: ("int8", "e4m3", "e4m3fn", "e5m2"), 4: ("int4", "e2m1", "e3m0")}
"""Of as many bits."""
TINY = sateen.preset("train256").replace(
    name="train8", rows=2, cols=4, patterns=("dense", "1:2", "2:4", "2:8"), transpose_words=2, update_lanes=2,
    act_bank_depth=1024, weight_depth=1024, acc_depth=128, parameter_depth=128, vector_lanes=2, bus_bits=64,
    queue_depth=4, burst_beats=16, outstanding=4, acc_bits=40, specialize=False,
)  # fmt: skip
SIMULATED = {
    ("int8", "int8"): TINY,
    ("e4m3fn", "e5m2"): TINY.replace(acc_bits=80, multiplier="shift", act_bank_depth=2048),
}
"""Machines that are simulated, by their formats and those of gradients."""
TOKENS = 0.25
"""The part of cases that are networks of tokens and gates."""


def tokens(seed: int) -> str:
    """Of a network that has no program."""
    rng = random.Random(seed)
    graph, batch = import_model(random_tokens(rng)), rng.randint(1, 8)
    fmt, gradients = rng.choice(FORMATS), rng.choice(FORMATS)
    settings = Settings(
        rng.choice(TINY.patterns[1:]), rng.choice(["bdwp", "sr-ste", "dense"]), fmt, fmt, gradients, batch=batch,
        rate=0.0002, scratch=rng.random() < 0.5,
    )  # fmt: skip
    plan = make_plan(graph, settings)
    numbers = np.random.default_rng(seed)
    x, labels = numbers.normal(0, 1, (batch, 8, 8, 1)), numbers.integers(0, 10, batch)
    states = []
    for order in (np.arange(batch), numbers.permutation(batch)):
        begin = initial(plan, settings)
        begin.scales[plan.input] = fitting(float(np.abs(x).max()), settings.formats[1])
        trainer = Trainer(plan, settings, begin)
        for _ in range(STEPS):
            trainer.step(x[order], labels[order], settings.rate)
        states.append(trainer.state)
    layer = plan.only_reference
    if layer is None:  # no function but Relu, and no product
        return "equal in any order"
    try:
        record(trainer, x, labels, settings.rate, TINY)
        return f"{layer.kind} '{layer.name}' has a program"
    except SateenError as e:
        if "use --engine reference" not in str(e) and "a machine has one" not in str(e):
            raise
    one, other = (s.arrays() for s in states)
    different = [k for k in one if k != "about" and (one[k] != other[k]).any()]
    return (
        f"another order: {different}"
        if different or states[0].scales != states[1].scales
        else "equal in any order"
    )


def case(seed: int, rtl: float) -> str:
    """What became of it: "equal", and how it was compared, or how it differs; SateenError for a refusal."""
    if random.Random(f"kind {seed}").random() < TOKENS:
        return tokens(seed)
    rng = random.Random(seed)
    model, shape, classes = random_trainable(rng)
    simulated = rng.random() < rtl
    fmt, own = rng.choice([*SIMULATED])
    machine = SIMULATED[fmt, own]
    if not simulated:
        fmt = own = rng.choice(FORMATS)
        machine = TINY.replace(
            specialize=True, cols=rng.choice([4, 8]), transpose_words=rng.choice([1, 2]), update_lanes=1,
            act_bank_depth=rng.choice([1024, 4096]), acc_depth=rng.choice([64, 128]), weight_format=fmt,
            activation_format=fmt,
        )  # fmt: skip
        if rng.random() < 0.5:
            own = rng.choice(GRADIENTS[machine.activation.bits])
    batch = rng.randint(1, 6)
    settings = Settings(
        rng.choice(machine.patterns[1:]), rng.choice(["bdwp", "bdwp", "dense"]), fmt, fmt, own, batch=batch,
        rate=0.05 if parse_format(fmt).bits == 8 else 0.0002, weight_decay=rng.choice([0.0, 5e-4]),
        pruned_decay=rng.choice([0.0, 2e-4, 0.1]), scratch=rng.random() < 0.5,
    )  # fmt: skip
    plan = make_plan(import_model(model), settings)
    numbers = np.random.default_rng(seed)
    x, labels = numbers.normal(0, 1, (batch, *shape)), numbers.integers(0, classes, batch)
    begin = initial(plan, settings)
    begin.scales[plan.input] = fitting(float(np.abs(x).max()), parse_format(fmt))
    trainer = Trainer(plan, settings, begin)
    for k in range(STEPS):
        step = record(trainer, x, labels, settings.rate, machine)
        for engine in ("program", "rtl") if simulated else ("program",):
            if found := differences(step, engine)["differences"]:
                return f"step {k}, {engine}: {found}"
        assert cycles(step)["total"] > 0
    return "equal in RTL" if simulated else "equal"


def fuzz(args: argparse.Namespace) -> int:
    """Cases until the time is over; 1 if one differs."""
    end = time.monotonic() + 60 * args.minutes
    counts: collections.Counter[str] = collections.Counter()
    seed = args.first
    while time.monotonic() < end and (args.count is None or seed < args.first + args.count):
        try:
            found = case(seed, args.rtl)
        except SateenError as e:
            found = "refused"
            print(f"case {seed}: refused: {e}", flush=True)
        if not found.startswith(("equal", "refused")):
            print(f"case {seed}: {found}", flush=True)
            found = "different"
        counts[found] += 1
        seed += 1
    print(f"{sum(counts.values())} cases: {', '.join(f'{n} {k}' for k, n in counts.most_common())}")
    return int("different" in counts)
