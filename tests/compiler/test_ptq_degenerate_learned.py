"""Statistics that say nothing, learned from by gradients: every kind of reconstruction on them."""

from __future__ import annotations

import importlib.util

import pytest
from degenerate import CASES, DATA, LAYERS, assert_quantized, given, network
from recipe_runs import run_recipe

from sateen.compiler.ptq.adaround import AdaRound
from sateen.compiler.ptq.gptq import Gptq
from sateen.compiler.ptq.merge_pool import MergePool
from sateen.compiler.ptq.recipe import RECIPES, Recipe
from sateen.compiler.ptq.reconstruct import Reconstruct
from sateen.errors import DataError

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra learn"),
    pytest.mark.filterwarnings("error::RuntimeWarning"),
]

SHORT = {"iterations": 12, "batch": 4}
NETWORK = Reconstruct(unit="network", loss="prediction", drop=0.0, **SHORT)
TRIED = {
    "blocks": Recipe("r", (Reconstruct(**SHORT),)),
    "layers, up or down": Recipe("a", (Reconstruct(unit="layer", rounding="adaround", **SHORT),)),
    "network": Recipe("n", (NETWORK,)),
    "power of two": Recipe("p", (Reconstruct(**SHORT),), power_of_two=True),
    "fast and far": Recipe("f", (Reconstruct(rate=1.0, scale_rate=1.0, **SHORT),)),
    "learned": Recipe(
        "l", (MergePool(), Gptq(sweeps=4), AdaRound(20), Reconstruct(**SHORT), NETWORK), input_terms=0
    ),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize(("data", "layers"), CASES)
def test_every_reconstruction(name, data, layers):
    assert_quantized(TRIED[name], data, layers)


@pytest.mark.parametrize(
    "formats", [("e2m1", "e3m2"), ("int2", "uint1"), ("int2n", "e5m2"), ("e1m1", "int8")]
)
@pytest.mark.parametrize("data", DATA)
def test_narrow_formats(formats, data):
    for name in ("blocks", "learned"):
        assert_quantized(TRIED[name], data, "normal", *formats)


@pytest.mark.parametrize("layers", LAYERS)
def test_one_sample_is_too_few(layers):
    graph = network(layers)
    samples = {name: x[:1] for name, x in given(graph, "constant").items()}
    with pytest.raises(
        DataError, match="1 samples, but recipe 'learned' fits weights to them and needs at least"
    ):
        run_recipe(graph, samples, RECIPES["learned"], weight_format="int4", activation_format="int8")
