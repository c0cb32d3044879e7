"""Channels and pixels that change places on the array, in all four engines, on chip and through memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from four_engines import check, machine

from sateen.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))
from transposed_nets import NETS, channel_attention, mixer

TINY = machine("int8", "int8", computed_weights=True, product=True)
OTHERS = {
    "e4m3": machine(
        "e4m3", "e4m3", rows=4, lanes=1, group=1, computed_weights=True, product=True, transpose_words=4
    ),
    "through memory": TINY.replace(act_banks=2, act_bank_depth=1024),
    "wide words": TINY.replace(rows=4, cols=4, lanes=4, group=8, transpose_words=1),
    "int4": machine("int4", "int4", computed_weights=True, product=True),
}


def given(net, batch=4):
    rng = np.random.default_rng(3)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim][1:] for i in net.inputs}
    return {name: rng.normal(0, 1, (batch, *shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.rtl
@pytest.mark.parametrize("net", [mixer(), channel_attention(), channel_attention(between=0)])
def test_in_rtl(net, tmp_path):
    check(net.model(), given(net), TINY, tmp_path, batch=1)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("network", NETS)
def test_on_other_machines(network, name, tmp_path):
    small = {"hidden": 8} if (network, name) == ("mixer", "through memory") else {}  # a row of it has to fit
    net = NETS[network](**small)
    check(net.model(), given(net), OTHERS[name], tmp_path, rtl=False)


def test_a_machine_without_computed_weights_says_so(tmp_path):
    net, config = mixer(), machine("int8", "int8")
    with pytest.raises(ConfigError, match="computed_weights"):
        check(net.model(), given(net), config, tmp_path, rtl=False)
