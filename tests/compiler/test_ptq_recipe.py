"""Recipes: read, refused, run; what the manifest's record says."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from networks import Builder, residual, run_slowly
from recipe_runs import run_recipe

from sateen.compiler.export.model import export_onnx
from sateen.compiler.importer import import_model
from sateen.compiler.ptq.adaround import AdaRound
from sateen.compiler.ptq.equalize import Equalize
from sateen.compiler.ptq.gptq import Gptq
from sateen.compiler.ptq.recipe import RECIPES, Recipe, chosen, load_recipe
from sateen.compiler.ptq.reconstruct import Reconstruct
from sateen.compiler.ptq.smooth import Smooth
from sateen.compiler.quantize.activations import plan_activations
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.given import activation_format, weight_format
from sateen.compiler.quantize.options import Options
from sateen.compiler.quantize.scales import METHODS, Observed, activation_quant
from sateen.errors import ConfigError, DataError
from sateen.formats import parse_format
from sateen.ir.quantized import Linear
from sateen.sim.reference import run_reference


def test_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'scales = "entropy"\ninput_terms = 2\n'
        '[[pass]]\nname = "smooth"\nalpha = 1\n[[pass]]\nname = "gptq"\norder = false\n'
    )
    assert load_recipe(path) == Recipe("mine.toml", (Smooth(1.0), Gptq(order=False)), "entropy", 2)
    assert load_recipe("balanced") is RECIPES["balanced"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scales = 3", r"scales = 3; it must be a str"),
        ('scales = "best"', r"scales = 'best'; it must be mse, minmax, percentile, entropy"),
        ("input_terms = 9", r"input_terms = 9; it must be 0 to 4"),
        ("speed = 1", r"unknown key 'speed'; known are scales"),
        (
            '[[pass]]\nname = "magic"',
            r"'magic' is unknown; known are mergepool, equalize, smooth, gptq, adaround, reconstruct",
        ),
        ('[[pass]]\nname = "gptq"\nblocks = 1', r"pass gptq has no option 'blocks'; it has damping, block"),
        ('[[pass]]\nname = "gptq"\nblock = "a"', r"gptq.block = 'a'; it must be a int"),
        (
            '[[pass]]\nname = "gptq"\n[[pass]]\nname = "smooth"',
            r"passes gptq, smooth; each may come once, in the order",
        ),
        ('[[pass]]\nname = "gptq"\n[[pass]]\nname = "gptq"', r"each may come once"),
        ('[[pass]]\nname = "adaround"', r"adaround starts from gptq; put gptq before it"),
        ("pass = 1\n[", r"is not TOML"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_names_that_are_refused(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"recipe 'slow' is unknown; it must be fast, balanced, best, learned, auto, or a .toml",
    ):
        load_recipe("slow")
    with pytest.raises(ConfigError, match=r"cannot be read"):
        load_recipe(tmp_path / "none.toml")


def shortened(recipe):
    """The recipe with less learning."""
    return replace(
        recipe,
        passes=tuple(replace(p, iterations=30) if isinstance(p, Reconstruct) else p for p in recipe.passes),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_is_better_than_the_first(name, monkeypatch, tmp_path):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path))
    if name == "learned":
        pytest.importorskip("torch", reason="needs the learn extra")
    graph, b = residual()
    x = b.samples(96)
    done = []
    qgraph, record = run_recipe(
        graph,
        x,
        shortened(RECIPES[name]),
        weight_format="int3",
        activation_format="int6",
        progress=lambda i, n: done.append(i / n),
    )
    assert done == sorted(done) and done[-1] == 1
    assert record["recipe"] == name and record["samples"] == 96 and record["seed"] == 0
    assert record["seconds"]["all"] > 0
    assert [p["name"] for p in record["passes"]] == [type(p).__name__.lower() for p in RECIPES[name].passes]
    fast, _ = run_recipe(graph, x, RECIPES["fast"], weight_format="int3", activation_format="int6")
    out = graph.outputs[0]
    real = out.present(run_slowly(graph, x)[out.tensor])
    error, plain = (np.mean((run_reference(q, x)["out"] - real) ** 2) for q in (qgraph, fast))
    assert error <= plain * (1.0 if name == "fast" else 0.8)


def test_is_deterministic():
    graph, b = residual()
    one, two = (
        run_recipe(graph, b.samples(16), RECIPES["best"], weight_format="e2m1", activation_format="e3m2")[0]
        for _ in range(2)
    )
    for p, q in zip(one.ops, two.ops, strict=True):
        assert p.weight.codes.tobytes() == q.weight.codes.tobytes() and (p.bias == q.bias).all()


def test_all_passes_together():
    graph, b = residual()
    recipe = Recipe("all", (Equalize(), Smooth(), Gptq(), AdaRound(50)), "percentile", power_of_two=True)
    qgraph, _ = run_recipe(graph, b.samples(32), recipe, weight_format="e3m2", activation_format="e3m2")
    assert all(np.log2(t.quant.scale) % 1 == 0 for t in qgraph.tensors.values())


def test_too_few_samples_to_fit_weights_to():
    graph, b = residual()
    with pytest.raises(
        DataError, match=r"7 samples, but recipe 'balanced' fits weights to them and needs at least 8"
    ):
        run_recipe(graph, b.samples(7), RECIPES["balanced"], weight_format="int4", activation_format="int4")
    run_recipe(graph, b.samples(1), RECIPES["fast"], weight_format="int4", activation_format="int4")


@pytest.mark.parametrize("terms", [1, 0])
def test_a_model_that_is_quantized_keeps_its_scales(terms):
    float_graph, b = residual()
    assert weight_format(float_graph) is None and activation_format(float_graph) is None
    formats = {"weight_format": "int4", "activation_format": "int4"}
    first, record = run_recipe(float_graph, b.samples(16), RECIPES["fast"], **formats)
    assert "given" not in record
    graph = import_model(export_onnx(first))
    second, record = run_recipe(graph, None, RECIPES["fast"], **formats)
    assert record["recipe"] == "fast" and record["samples"] == 0 and "calibrate" not in record["seconds"]
    assert record["given"]["tensors"] == len(graph.quantizers) and record["given"]["weights"] > 0
    third, record = run_recipe(graph, b.samples(4, seed=3), RECIPES["fast"], **formats)
    assert record["samples"] == 4
    int4 = parse_format("int4")
    plan = plan_activations(fuse(graph), None, Options(int4, int4, input_terms=terms))
    assert not plan.terms
    for op, again, calibrated in zip(first.ops, second.ops, third.ops, strict=True):
        if isinstance(op, Linear):
            codes = op.weight.codes
            assert (codes == again.weight.codes).all() and (codes == calibrated.weight.codes).all()
            quant = replace(second.tensors[again.output].quant, precision="float64")
            assert op.raw or first.tensors[op.output].quant == quant
            assert op.raw or second.tensors[again.output].quant == plan.quants[again.output]
        assert second.tensors[again.output] == third.tensors[again.output]


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        (RECIPES["balanced"], "gptq, input_terms = 0"),
        (Recipe("mine", (Equalize(), Smooth())), "equalize, smooth"),
        (Recipe("mine", input_terms=2), "input_terms = 2"),
    ],
)
def test_a_model_that_is_quantized_refuses_what_changes_it(recipe, what):
    graph, b = residual()
    formats = {"weight_format": "int4", "activation_format": "int4"}
    given = import_model(export_onnx(run_recipe(graph, b.samples(16), RECIPES["fast"], **formats)[0]))
    with pytest.raises(ConfigError, match=rf"{what} would change weights or scales.*use --ptq fast"):
        run_recipe(given, b.samples(16), recipe, **formats)
    with pytest.raises(DataError, match="no samples, and the model does not say how"):
        run_recipe(graph, None, recipe, **formats)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(value):
    b = Builder()
    graph = b.graph(b.conv(b.input(3, 3, 2), 4))
    x = b.samples(16)
    x["x"][3, 0, 0, 0] = value
    for name in RECIPES:
        if name == "learned" and importlib.util.find_spec("torch") is None:
            continue
        with pytest.raises(DataError, match="sample 3 holds NaN or infinity"):
            run_recipe(graph, x, RECIPES[name], weight_format="int4", activation_format="int4")


@pytest.mark.parametrize("name", ["int8", "int4", "e3m2", "e2m1", "uint4"])
def test_entropy_clips_outliers_and_stays_near_the_range(name):
    fmt = parse_format(name)
    x = np.random.default_rng(0).normal(0, 1, 20000)
    x = np.abs(x) if fmt.min_fixed == 0 else x
    spiked = np.append(x, 1000.0)
    seen = Observed("t", float(spiked.min()), 1000.0, spiked)
    assert "entropy" in METHODS
    quant = activation_quant(seen, fmt, method="entropy")
    reach = quant.scale * (fmt.max - quant.offset)
    assert 1 < reach < 500
    constant = np.full(50, 3.0)
    quant = activation_quant(Observed("t", 3.0, 3.0, constant), fmt, method="entropy")
    assert abs(quant.dequantize(quant.quantize(constant)) - 3).max() < 0.1


@pytest.mark.parametrize(
    ("formats", "samples", "given", "name"),
    [
        (("int8", "uint8"), 64, False, "fast"),
        (("int8", "int7"), 64, False, "balanced"),
        (("e4m3", "int8"), 64, False, "balanced"),
        (("int4", "int4"), 8, False, "balanced"),
        (("int4", "int4"), 7, False, "fast"),
        (("int4", "int4"), 64, True, "fast"),
    ],
)
def test_auto_follows_the_formats(formats, samples, given, name):
    found = chosen(replace(load_recipe("auto"), power_of_two=True), samples, given, *formats)
    assert found == replace(RECIPES[name], power_of_two=True)
    assert chosen(RECIPES["best"], samples, given, *formats) is RECIPES["best"]
