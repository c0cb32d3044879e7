"""Statistics that say nothing: every pass on constant, equal, dead, tiny and huge data, and on layers to match."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from degenerate import CASES, COUNT, DATA, LAYERS, assert_quantized, given, network, samples_of
from recipe_runs import run_recipe

from sateen.compiler.float_executor import run_float
from sateen.compiler.prune.one_shot import sparsify
from sateen.compiler.ptq.adaround import AdaRound
from sateen.compiler.ptq.equalize import Equalize, equalize
from sateen.compiler.ptq.gptq import LEAST_DAMPING, Gptq
from sateen.compiler.ptq.hessian import damped, inverse_factor
from sateen.compiler.ptq.layerwise import moments
from sateen.compiler.ptq.merge_pool import MergePool, merge_pools
from sateen.compiler.ptq.passes import Context, run_passes
from sateen.compiler.ptq.recipe import RECIPES, Recipe
from sateen.compiler.ptq.smooth import Smooth, smooth
from sateen.compiler.ptq.state import State
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.input_terms import split_input
from sateen.compiler.quantize.options import Options
from sateen.compiler.quantize.scales import METHODS, Observed, activation_quant, most, weight_scales
from sateen.errors import DataError, ModelError, SateenError
from sateen.formats import parse_format, parse_sparsity
from sateen.ir.nodes import Conv

RECIPES_TRIED = {
    **{m: Recipe(m, scales=m) for m in METHODS},
    "power of two": Recipe("p", scales="mse", power_of_two=True),
    "three terms": Recipe("t", input_terms=3),
    "terms": Recipe("t0", input_terms=0),
    "equalize": Recipe("e", (Equalize(),)),
    "smooth": Recipe("s", (Smooth(),)),
    "all smoothed": Recipe("s1", (Equalize(), Smooth(1.0))),
    "unsmoothed": Recipe("s0", (Smooth(0.0),)),
    "gptq": Recipe("g", (Gptq(),)),
    "gptq, hardly damped": Recipe("d", (Gptq(damping=LEAST_DAMPING, order=False),)),
    "gptq, power of two": Recipe("gp", (Gptq(),), power_of_two=True),
    "adaround": Recipe("a", (Gptq(refit=False, sweeps=0), AdaRound(30))),
    "everything": Recipe("all", (MergePool(), Equalize(), Smooth(), Gptq(), AdaRound(20)), input_terms=0),
    "balanced": RECIPES["balanced"],
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", RECIPES_TRIED)
@pytest.mark.parametrize(("data", "layers"), CASES)
def test_every_recipe(name, data, layers):
    assert_quantized(RECIPES_TRIED[name], data, layers)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("layers", ["normal", "zero", "equal"])
def test_pruning(method, data, layers):
    graph = network(layers)
    convs = [n.name for n in graph.nodes if isinstance(n, Conv)]
    pattern = parse_sparsity("1:2")
    found, report = sparsify(
        graph, pattern, method=method, samples=given(graph, data), layers=dict.fromkeys(convs, pattern)
    )
    assert [entry.name for entry in report] == convs
    for node in found.nodes:
        if isinstance(node, Conv):
            assert np.isfinite(node.weight).all() and np.isfinite(node.bias).all()


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("layers", LAYERS)
def test_rescaling_and_merging_keep_the_function(data, layers):
    if (layers, data) in (("huge", "huge"), ("huge", "offset")):
        return  # beyond what calibration takes
    graph = network(layers)
    samples = given(graph, data)
    merged, names = merge_pools(graph, MergePool(4.0))
    assert names
    expected = run_float(graph, samples)
    for changed in (equalize(graph), smooth(graph, calibrate(graph, samples)), merged):
        found = run_float(changed, samples)
        for output in graph.outputs:
            y = expected[output.tensor]
            np.testing.assert_allclose(found[output.tensor], y, rtol=1e-9, atol=1e-9 * np.abs(y).max())


@pytest.mark.parametrize("data", DATA)
def test_moments_are_the_covariance(data):
    """To the precision of the inputs' spread, however large their mean; constant inputs have none at all."""
    graph = network("normal")
    conv = next(n for n in graph.nodes if isinstance(n, Conv))
    conv = replace(conv, pads=(0, 0, 0, 0))
    x = graph.inputs[0].to_hwc(samples_of(data, graph.inputs[0].shape))
    seen = moments(conv, x, x)
    rows = x.reshape(COUNT, -1)
    middle = rows - rows[:1]
    middle = middle - middle.mean(axis=0)
    expected = middle.T @ middle / COUNT
    spread = np.sqrt(np.diag(expected).max())
    np.testing.assert_allclose(seen.square, expected, rtol=1e-6, atol=1e-6 * spread**2)
    np.testing.assert_allclose(seen.cross, expected, rtol=1e-6, atol=1e-6 * spread**2)
    np.testing.assert_allclose(seen.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12 * np.abs(rows).max())
    if data in ("zero", "constant", "one sample"):
        assert not seen.square.any() and (seen.damped(0.01) == np.eye(len(seen.square))).all()
        assert seen.refit(conv.weight.reshape(3, -1), 0.01) is not None


@pytest.mark.parametrize("damping", [1e-300, 1e-12, 0.01, 1.0])
@pytest.mark.parametrize("rank", [0, 1, 3, 40])
@pytest.mark.parametrize("scale", [1e-170, 1e-12, 1.0, 1e60])
def test_every_hessian_has_a_factor(damping, rank, scale):
    rng = np.random.default_rng(rank)
    x = rng.normal(0, 1, (50, rank)) @ rng.normal(0, 1, (rank, 40)) * np.sqrt(scale)
    h = x.T @ x
    factor = inverse_factor(h, damping)
    assert np.isfinite(factor).all() and (np.diag(factor) > 0).all()
    product = factor.T @ factor @ damped(h, damping)
    if damping == 0.01:
        np.testing.assert_allclose(product, np.eye(40), atol=1e-7)


def test_constant_inputs_are_rounded_to_nearest():
    """What is stated of them: no weight counts more than another."""
    graph = network("normal")
    samples = given(graph, "zero")
    fmt = parse_format("int4")
    steps = Recipe("r", (Gptq(), AdaRound(10))).steps()[:-1]
    context = Context(samples, Options(fmt, parse_format("int8")))
    state = run_passes(State(fuse(graph)), steps, context)
    conv = next(n for n in graph.nodes if isinstance(n, Conv))
    new = state.fitted[conv.name]
    scale = new.scale[:, None, None, None]
    # the padding is constant too
    np.testing.assert_array_equal(new.weight, fmt.decode(fmt.encode(conv.weight / scale)) * scale)


FORMATS = (
    "int1", "uint1", "int2", "int2n", "uint2", "int8", "uint8", "e1m1", "e2m0", "e3m0", "e5m0", "e5m2", "e3m2b0",
    "e3m2b20",
)  # fmt: skip


SHAPELESS = ("constant", "nearly one sample", "one value", "negative", "subnormal", "huge")


def _observed() -> list[Observed]:
    found = [np.sort(samples_of(data, (2, 1, 2)).ravel()) for data in SHAPELESS]
    found += [found[1][:1], np.zeros(0), np.full(5000, 0.3), np.linspace(1, 1 + 1e-14, 5000)]
    return [Observed("t", float(x.min(initial=0)), float(x.max(initial=0)), x) for x in found]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("power", [False, True])
def test_scales_of_any_tensor(fmt, method, power):
    """Finite, above zero, and real zero is a code."""
    for seen in _observed():
        quant = activation_quant(seen, parse_format(fmt), method=method, power_of_two=power)
        assert 0 < quant.scale < np.inf, seen
        assert quant.dequantize(quant.quantize(np.zeros(1)))[0] == 0, seen


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("fmt", ["int1", "uint1", "int2n", "e1m1", "e5m0", "e3m2b20"])
@pytest.mark.parametrize("power", [False, True])
def test_terms_of_any_tensor(fmt, power):
    for seen in _observed()[:7]:
        quant, terms = split_input(seen, parse_format(fmt), 0 if power else 2, power_of_two=power)
        assert 0 < quant.scale < np.inf and 1 <= terms <= 4, seen


@pytest.mark.parametrize("name", ["uint1", "int1"])
@pytest.mark.parametrize("sign", [1, -1, 0])
def test_terms_of_one_bit(name, sign):
    """One bit has room for one sign: the larger one's; several terms then count."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.normal(0, 1, 500)) if sign == 0 else sign * np.sort(rng.uniform(0, 1, 500))
    seen = Observed("t", float(x.min()), float(x.max()), x)
    errors = []
    for terms in (1, 2, 4):
        quant, count = split_input(seen, parse_format(name), terms)
        codes = quant.quantize_terms(x[:, None], count)
        errors.append(float(np.mean((quant.dequantize(codes).sum(axis=-1) - x) ** 2)))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("fmt", [f for f in FORMATS if not f.startswith("uint")])
def test_scales_of_any_weights(fmt):
    for row in (0.0, 1e-300, 1e-40, 1.0, most(parse_format(fmt))):
        for sign in (1, -1):
            for power in (False, True):
                weight = sign * row * np.array([[1.0, 1.0], [0.0, 1.0], [1e-9, 1.0]])
                scales = weight_scales(weight, parse_format(fmt), power_of_two=power)
                assert (scales > 0).all() and np.isfinite(scales).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("name", ["mse", "smooth", "gptq", "adaround", "everything"])
def test_samples_that_are_no_numbers(name, bad):
    graph = network("normal")
    samples = given(graph, "rank one")
    samples["x"][4, 0, 1, 1] = bad
    with pytest.raises(
        DataError, match=r"calibration: .*(sample 4 holds NaN|becomes NaN, infinite or larger)"
    ):
        run_recipe(graph, samples, RECIPES_TRIED[name], weight_format="int4", activation_format="int8")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", RECIPES_TRIED)
def test_weights_that_are_no_numbers(name, bad):
    graph = network("normal")
    conv = next(n for n in graph.nodes if isinstance(n, Conv))
    conv.weight[0, 0, 0, 0] = bad
    with pytest.raises(SateenError, match=r"NaN"):
        run_recipe(
            graph,
            given(graph, "rank one"),
            RECIPES_TRIED[name],
            weight_format="int4",
            activation_format="int8",
        )


def test_more_than_any_scale_can_hold():
    graph = network("normal")
    samples = given(graph, "rank one")
    formats = {"weight_format": "e1m1b63", "activation_format": "int8"}
    run_recipe(graph, samples, RECIPES["fast"], **formats)
    conv = next(n for n in graph.nodes if isinstance(n, Conv))
    conv.weight[0, 0, 0, 0] = 1e20
    with pytest.raises(
        ModelError, match=r"Conv 'conv0': its largest weight is 1e\+20, and e1m1b63 holds at most"
    ):
        run_recipe(graph, samples, RECIPES["fast"], **formats)
    seen = Observed("t", 0.0, 1e20, np.linspace(0, 1e20, 9))
    with pytest.raises(DataError, match=r"calibration: 't' reaches 1e\+20, and e1m1b63 holds at most"):
        activation_quant(seen, parse_format("e1m1b63"))
