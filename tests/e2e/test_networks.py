"""Random networks through the whole tool: ONNX file, compiler, every engine."""

import dataclasses
from collections.abc import Iterable

import pytest
from four_engines import SPARSE, machine
from fuzz_case import Case, draw
from fuzz_check import EQUAL, REFUSED, check

from sateen.machine.config import DATAFLOWS
from sateen.models.random_network import random_network

FORMATS = (
    ("int8", "int8"),
    ("int8", "uint8"),
    ("int4", "int4"),
    ("e3m2", "e3m2"),
    ("e4m3fn", "e4m3fn"),
    ("int4", "e2m3"),
    ("e2m1", "int8"),
    ("int3", "e3m0"),
)


def all_equal(cases: Iterable[Case]) -> None:
    """Every case is equal on its engines or, few, refused in one line."""
    kinds = []
    for case in cases:
        outcome = check(case, random_network(case.seed))
        assert not outcome.bad, f"{case}: {outcome.kind}: {outcome.message}"
        assert outcome.kind == EQUAL or "\n" not in outcome.message
        kinds.append(outcome.kind)
    assert kinds.count(REFUSED) <= len(kinds) // 4, kinds


@pytest.mark.parametrize("formats", FORMATS)
def test_program_equals_reference(formats):
    all_equal(Case(seed, machine(*formats), samples=8) for seed in range(10, 13))


def test_program_equals_reference_on_a_large_machine():
    all_equal(Case(seed, machine("int8", "int8", "mac256"), samples=8) for seed in range(20, 25))


@pytest.mark.parametrize("first", [0, 24])
def test_on_random_machines(first):
    """Cases of the fuzzer: small buffers, so that planes are cut and spilled, narrow counters, any formats."""
    for seed in range(first, first + 4):
        outcome = check(*draw(seed, machines=8, rtl=0))
        assert not outcome.bad, f"fuzz.py case {seed}: {outcome.kind}: {outcome.message}"


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize(
    "formats", [("int8", "uint8"), ("e3m2", "e3m2"), ("int4", "e2m3"), ("e4m3fn", "e4m3fn")]
)
def test_rtl_equals_reference(formats):
    """One machine for each pair of formats; memory timing varies with the network."""
    all_equal(
        Case(seed, machine(*formats), samples=8, latency=latency, interval=1 + seed % 4, rtl=True)
        for seed, latency in enumerate((1, 2, 7, 16, 33, 50, 77, 100), 40)
    )


@pytest.mark.rtl
@pytest.mark.slow
def test_sparse_rtl_equals_reference():
    """One machine with indices, layers of every density on it, in either dataflow."""
    case = Case(0, SPARSE, method="sparsegpt", samples=8, rtl=True)
    choices = zip(range(60, 72), SPARSE.patterns * 2, ("auto", *DATAFLOWS) * 4, strict=False)
    all_equal(dataclasses.replace(case, seed=s, sparsity=p, dataflow=d) for s, p, d in choices)
