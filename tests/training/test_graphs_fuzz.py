"""Random small networks, formats, patterns, machines and batches: steps on the machine are those of the reference."""

import random

import pytest
from test_graphs import MACHINES, SMALL, check_steps, some

from sateen.models.random_trainable import random_trainable

VARIANTS = (
    SMALL,
    SMALL.replace(weight_depth=256, acc_depth=64),
    SMALL.replace(rows=4, cols=8, group=8, bus_bits=128, act_bank_depth=512),
    MACHINES["e4m3"],
    SMALL.replace(weight_format="int4", activation_format="int4", act_bank_depth=2048),
)


def steps(seed, config=None, rtl=False):
    rng = random.Random(seed)
    model, shape, classes = random_trainable(rng)
    config = config or rng.choice(VARIANTS)
    pattern = rng.choice([p for p in config.patterns if p != "dense"])
    method = rng.choice(["bdwp", "bdwp", "dense"])
    x, labels = some(rng.randint(1, 5), shape, classes, seed)
    # Sums of coarse gradients count large units, and factors end at 2**16.
    rate = 0.05 if config.activation.bits > 4 else 0.0002
    check_steps(
        model,
        config,
        x,
        labels,
        steps=2,
        rate=rate,
        rtl=rtl,
        sparsity=pattern,
        method=method,
    )


@pytest.mark.parametrize("seed", range(10))
def test_random_networks(seed):
    steps(seed)


@pytest.mark.rtl
def test_random_networks_in_rtl():
    for seed in (100, 101):
        steps(seed, SMALL, rtl=True)
