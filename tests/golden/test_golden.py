"""Programs, weights, exported models, schedules and cycles of the builds in builds.py are what they were."""

import json

import numpy as np
import pytest
from builds import BUILDS, TABLE, kept, measured, quantized

from sateen.ir.quantized import Linear

WANTED = json.loads(TABLE.read_text())


def test_every_build_is_kept():
    assert set(WANTED) == set(BUILDS) and len(BUILDS) >= 20


@pytest.mark.parametrize("name", BUILDS)
def test_a_build_is_what_it_was(name):
    """If it is meant to change: python tests/golden/builds.py, and say in the commit what changed and why."""
    golden = BUILDS[name]
    found = measured(kept(name, golden), golden.dataflow)
    assert found == WANTED[name]


@pytest.mark.parametrize("name", BUILDS)
def test_a_network_is_quantized_as_it_was(name):
    """Codes and multipliers, but for the last bit of a float where another processor adds in another order."""
    old, new = kept(name, BUILDS[name]).graph, quantized(BUILDS[name]).graph
    assert [(type(op), op.name, op.inputs) for op in old.ops] == [
        (type(op), op.name, op.inputs) for op in new.ops
    ]
    for a, b in zip(old.ops, new.ops, strict=True):
        if isinstance(a, Linear):
            assert np.mean(a.weight.codes != b.weight.codes) < 0.01, a.name
            close = [
                np.abs(np.subtract(x, y, dtype=float))
                for x, y in ((a.multiplier, b.multiplier), (a.shift, b.shift))
            ]
            assert max(float(np.max(d)) for d in close) <= 1, a.name
    for tensor, t in old.tensors.items():
        assert t.shape == new.tensors[tensor].shape
        assert new.tensors[tensor].quant.scale == pytest.approx(t.quant.scale, rel=1e-5), tensor
