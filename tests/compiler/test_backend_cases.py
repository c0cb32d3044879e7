"""Some of the ONNX package's own tests of operators; `benchmarks/backend_tests.py` runs all of them, in two formats."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import backend_tests

from sateen.compiler.importer.handlers import HANDLERS

OPERATORS = [
    "Conv",
    "ConvTranspose",
    "LpPool",
    "AveragePool",
    "Tile",
    "Expand",
    "Compress",
    "CenterCropPad",
    "CumSum",
    "SpaceToDepth",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceSumSquare",
    "ReduceMax",
    "ReduceMin",
    "Mean",
    "QLinearConv",
    "ConvInteger",
]
"""Those of which every case in scope has to agree, but for `OTHERS`."""
OTHERS = {"tile": "refused", "lppool_2d_default": "coarse", "lppool_2d_same_lower": "coarse"}
"""All four dimensions of a sample repeated; sums of fourth powers in eight bits."""


@pytest.fixture(scope="module")
def cases():
    found = {}
    for case in backend_tests.cases():
        found.setdefault(case.operator, []).append(case)
    return found


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_supported_agrees(cases, operator):
    assert cases[operator]
    for case in cases[operator]:
        found = backend_tests.verdict(case, "int8")
        assert found.state == OTHERS.get(case.name, "agrees"), (case.name, found)


def test_a_wrong_handler_is_called_so(cases, monkeypatch):
    monkeypatch.setitem(HANDLERS, "Neg", HANDLERS["Abs"])
    assert {backend_tests.verdict(c, "int8").state for c in cases["Neg"]} == {"wrong"}
