"""Random networks through the whole tool: ONNX file, compiler, every engine."""

import tempfile
from pathlib import Path

import pytest
from four_engines import SPARSE, check, machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_network import FORMATS, networks

from sateen.config import DATAFLOWS

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@settings(max_examples=40, **COMMON)
@given(networks(), st.sampled_from(FORMATS), st.sampled_from(["tiny", "mac256"]))
def test_program_equals_reference(network, formats, base):
    with tempfile.TemporaryDirectory() as folder:
        check(network.model, network.samples(8), machine(*formats, base), Path(folder), rtl=False)


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize(
    "formats", [("int8", "uint8"), ("e3m2", "e3m2"), ("int4", "e2m3"), ("e4m3fn", "e4m3fn")]
)
def test_rtl_equals_reference(formats):
    """One machine for each pair of formats; memory timing varies with the network."""

    @settings(max_examples=8, **COMMON)
    @given(networks(), st.integers(1, 100), st.integers(1, 4))
    def run(network, latency, interval):
        with tempfile.TemporaryDirectory() as folder:
            check(
                network.model,
                network.samples(8),
                machine(*formats),
                Path(folder),
                latency=latency,
                interval=interval,
            )

    run()


@pytest.mark.rtl
@pytest.mark.slow
def test_rtl_with_counters_of_one_token():
    """Engines that may run far ahead of one another, kept in step by tokens alone."""
    config = machine("int8", "int8", token_bits=1, queue_depth=16)

    @settings(max_examples=6, **COMMON)
    @given(networks(), st.integers(1, 100))
    def run(network, latency):
        with tempfile.TemporaryDirectory() as folder:
            check(network.model, network.samples(8), config, Path(folder), latency=latency)

    run()


@pytest.mark.rtl
@pytest.mark.slow
def test_sparse_rtl_equals_reference():
    """One machine with indices, layers of every density on it, in either dataflow."""

    @settings(max_examples=12, **COMMON)
    @given(networks(), st.sampled_from(SPARSE.patterns), st.sampled_from(("auto", *DATAFLOWS)))
    def run(network, sparsity, dataflow):
        with tempfile.TemporaryDirectory() as folder:
            check(
                network.model,
                network.samples(8),
                SPARSE,
                Path(folder),
                sparsity=sparsity,
                dataflow=dataflow,
            )

    run()
