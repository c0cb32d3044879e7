"""A slice of the walk over legal configurations (benchmarks/configurations.py): they are written, some run in RTL."""

import random

import pytest
from four_engines import check
from random_config import SMALL, fitted, random_config, tiny_network

from sateen.errors import ConfigError
from sateen.hw.chip.verilog import emit_verilog
from sateen.machine.config import DATAFLOWS


def test_every_random_configuration_is_legal():
    for seed in range(60):
        random_config(random.Random(seed))


@pytest.mark.parametrize("seed", range(2))
def test_verilog_of_any_configuration(seed):
    text = emit_verilog(random_config(random.Random(seed), most=4))
    assert "[-1:0]" not in text and "module accelerator" in text


LEAST = {
    "rows": 1, "cols": 1, "lanes": 1, "group": 1, "patterns": ("dense",), "act_banks": 2, "act_bank_depth": 64,
    "weight_depth": 8, "parameter_depth": 2, "bus_bits": 32, "queue_depth": 1, "burst_beats": 1, "outstanding": 1,
}  # fmt: skip
EDGES = {
    "all least": LEAST,
    "one beat at a time on the widest bus": {"burst_beats": 1, "outstanding": 1, "bus_bits": 512, "queue_depth": 1},
    "a beat holds many words": {"bus_bits": 512, "burst_beats": 64, "act_banks": 16, "act_bank_depth": 16},
    "as many passes as there are": {"rows": 1, "cols": 1, "group": 32, "weight_depth": 64, "dataflows": DATAFLOWS},
}  # fmt: skip


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize("name", EDGES)
def test_engines_agree_at_the_edges(name, tmp_path):
    config = fitted(SMALL, **EDGES[name])
    model, samples = tiny_network(random.Random(4))
    check(model, samples, config, tmp_path, latency=5, interval=2)


def test_more_passes_than_instructions_count():
    with pytest.raises(ConfigError, match=r"group = 64; it must be at most 32\*lanes = 32"):
        fitted(SMALL, rows=1, cols=2, group=64)
