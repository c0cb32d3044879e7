"""A recipe's quantized network and its record, for tests that ask for no more."""

from typing import Any

from sateen.compiler.ptq.recipe import fit
from sateen.ir.quantized import QuantizedGraph


def run_recipe(graph, samples, recipe, **options) -> tuple[QuantizedGraph, dict[str, Any]]:
    state, record = fit(graph, samples, recipe, **options)
    assert state.quantized is not None
    return state.quantized, record
