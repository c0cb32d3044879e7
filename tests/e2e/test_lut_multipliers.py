"""Machines whose products are made in LUTs, in all columns or in every second, through all engines."""

import random

import pytest
from four_engines import check
from random_config import SMALL, fitted, tiny_network


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize(
    "where,changes",
    [
        ("mixed", {"weight_format": "int8", "activation_format": "int8"}),
        ("lut", {"weight_format": "e2m1", "activation_format": "e2m1", "multiplier": "shift"}),
    ],
)
def test_engines_agree(where, changes, tmp_path):
    config = fitted(SMALL, multipliers_in=where, cols=2, **changes)
    assert config.lut_columns == (1 if where == "mixed" else 2)
    model, samples = tiny_network(random.Random(4))
    check(model, samples, config, tmp_path)
