"""Calibration: what is kept of the samples, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from networks import Builder, everything, lenet, run_slowly

from sateen.compiler.quantize.calibrate import calibrate
from sateen.errors import DataError


def test_ranges_are_exact_and_samples_come_from_the_tensors():
    graph, b = everything()
    x = b.samples(6)
    statistics = calibrate(graph, x, kept=200)
    tensors = run_slowly(graph, x)
    assert statistics.samples == 6
    assert set(statistics.tensors) == set(tensors) == set(graph.shapes)
    for name, seen in statistics.tensors.items():
        np.testing.assert_allclose([seen.minimum, seen.maximum], [tensors[name].min(), tensors[name].max()])
        assert seen.values.size <= 200 + 2
        assert seen.values.min() == seen.minimum
        assert seen.values.max() == seen.maximum
        distance = np.abs(seen.values[:, None] - tensors[name].reshape(1, -1)).min(axis=1)
        assert distance.max() < 1e-9


def test_is_reproducible_and_independent_of_batches(monkeypatch):
    graph, b = lenet()
    x = b.samples(7)
    first, second = calibrate(graph, x, kept=100), calibrate(graph, x, kept=100)
    monkeypatch.setattr(sys.modules[calibrate.__module__], "_BATCH_ELEMENTS", 1)
    done = []
    third = calibrate(graph, x, kept=100, progress=lambda i, n: done.append((i, n)))
    assert done == [(i, 7) for i in range(1, 8)]
    for name, seen in first.tensors.items():
        assert seen.values.tobytes() == second.tensors[name].values.tobytes()
        np.testing.assert_allclose(seen.values, third.tensors[name].values, atol=1e-12)


def test_more_samples_than_are_kept():
    b = Builder()
    graph = b.graph(b.gemm(b.input(1, 1, 3), 2))
    statistics = calibrate(graph, b.samples(50), kept=10)
    assert statistics.tensors["x"].values.size == 50 + 2


BAD = [
    ({}, "calibration: input 'x': missing"),
    ({"x": np.zeros((0, 1, 12, 12))}, "calibration: input 'x': no samples"),
    ({"x": np.zeros((1, 12, 12))}, "calibration: input 'x': shape"),
    ({"x": np.full((1, 1, 12, 12), np.inf)}, "calibration: input 'x': sample 0 holds NaN"),
    ({"x": np.zeros((1, 1, 12, 12)), "y": np.zeros(3)}, "calibration: input 'y': the network has no such"),
    ({"x": np.full((1, 1, 12, 12), "a")}, "calibration: input 'x': type"),
    ({"x": np.full((1, 1, 12, 12), None)}, "calibration: input 'x': type object"),
    (
        {"x": np.full((1, 1, 12, 12), 1e308)},
        "calibration: tensor '.*' becomes NaN, infinite or larger than 1e.30 on samples 0 to 0",
    ),
]


@pytest.mark.parametrize(("samples", "message"), BAD)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_samples(samples, message):
    graph, _ = lenet()
    graph.nodes[0].weight[:] = 1.0
    with pytest.raises(DataError, match=message) as e:
        calibrate(graph, samples)
    assert "\n" not in str(e.value)
