"""Networks of tokens and gates: a step as a whole, their files, and what cannot be trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from token_nets import NETS, digits, gated, token_trainer

import sateen
from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.functions import has_gradient, slope
from sateen.compiler.importer import import_model
from sateen.compiler.training import Settings, make_plan, with_masters, write_onnx
from sateen.compiler.training.step import cross_entropy
from sateen.errors import SateenError
from sateen.ir.functions import FUNCTIONS
from sateen.ir.nodes import Activation, Conv, Normalize, Stored


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("fmt", ["int8", "e4m3fn"])
def test_a_step_is_the_same_for_any_order_of_its_samples(net, fmt):
    states = []
    for order in (slice(None), slice(None, None, -1)):
        made, x, labels = token_trainer(net, fmt, fmt)
        for _ in range(3):
            made.step(x[order], labels[order], 0.05)
        states.append(made.state)
    assert states[0].scales == states[1].scales
    for name, weights in states[0].layers.items():
        for part in weights.__slots__:
            assert (getattr(weights, part) == getattr(states[1].layers[name], part)).all(), (name, part)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", ["dense", "bdwp"])
def test_training_lowers_the_loss(net, method):
    made, x, labels = token_trainer(net, method=method, scratch=True)
    losses = [made.step(x, labels, 0.03).loss for _ in range(40)]
    assert losses[-1] < {"vit": 0.6, "gated": 0.92}[net] * losses[0]


@pytest.mark.parametrize("net", NETS)
def test_gradients_of_the_whole_network_by_finite_differences(net):
    """Of the imported network in float64, along each gradient, as near as 8 bits are: int8 loses the small ones of
    attention."""
    fmt = "e4m3fn" if net == "vit" else "int8"
    made, x, labels = token_trainer(net, fmt, fmt, method="dense")
    for _ in range(3):  # scales of a run
        made.step(x, labels, 0.001)
    graph, port = made.plan.graph, made.plan.graph.inputs[0]
    numbers = with_masters(made.plan, made.settings, made.state)

    def loss(numbers):
        nodes = tuple(
            replace(n, weight=numbers[n.name][0], bias=numbers[n.name][1]) if isinstance(n, Conv) and n.name in numbers
            else replace(n, scale=numbers[n.name][0], offset=numbers[n.name][1]) if isinstance(n, Normalize)
            else replace(n, values=numbers[n.name][1]) if isinstance(n, Stored) else n
            for n in graph.nodes
        )  # fmt: skip
        changed = replace(graph, nodes=nodes)
        (y,) = float_outputs(changed, run_float(changed, {port.name: digits()[0]})).values()
        return cross_entropy(y.reshape(len(y), -1), labels)[0] * len(y)

    result, ratios = made.step(x, labels, 0.0), {}
    for layer in made.plan.trainable:
        own = result.gradients[layer.name]
        weight = own.weight.astype(np.float64) * 2.0**own.exponent
        if layer.kind == "conv":
            weight = weight.reshape(*layer.window.kernel, *layer.shape[1:]).transpose(3, 0, 1, 2)
        gradient = weight.reshape(numbers[layer.name][0].shape), own.bias * 2.0**own.bias_exponent
        size = np.sqrt(sum((g**2).sum() for g in gradient))
        ends = []
        for e in (1e-5, -1e-5):
            moved = tuple(t + e * g / size for t, g in zip(numbers[layer.name], gradient, strict=True))
            ends.append(loss(numbers | {layer.name: moved}))
        ratios[layer.name] = (ends[0] - ends[1]) / 2e-5 / size
    assert all(0.7 < r < 1.3 for r in ratios.values()), ratios


@pytest.mark.parametrize("net", NETS)
def test_a_file_is_the_network_that_it_was_made_of(net, tmp_path):
    before = import_model(NETS[net]())
    write_onnx(tmp_path / "same.onnx", before, {})
    onnx.checker.check_model(onnx.load(tmp_path / "same.onnx"), full_check=True)
    x = {before.inputs[0].name: digits()[0]}
    pairs = [float_outputs(g, run_float(g, x)) for g in (before, import_model(tmp_path / "same.onnx"))]
    a, b = (next(iter(p.values())) for p in pairs)
    assert np.allclose(a, b, atol=1e-5)


def activation_of(function):
    return Activation("f", "x", "y", function, tuple(FUNCTIONS[function].defaults.items()))


SLOPED = [name for name in sorted(FUNCTIONS) if name != "clip" and has_gradient(activation_of(name))]
"""Those whose slope is a table's: a clip's is a gate."""


@pytest.mark.parametrize("function", SLOPED)
def test_a_function_with_a_slope_is_written_as_it_is(function, tmp_path):
    """In a trained file, read again; its slope is that of its values."""
    model = gated()
    graph = import_model(model)
    node = next(n for n in graph.nodes if isinstance(n, Activation) and n.function == "leaky_relu")
    new = replace(activation_of(function), name=node.name, input=node.input, output=node.output)
    x = np.array([0.3, 0.7]) + (function == "acosh")  # which begins at 1
    h = 1e-4
    ends = [FUNCTIONS[function](x + s) for s in (h, -h)]
    assert np.allclose(slope(new, x), (ends[0] - ends[1]) / (2 * h), atol=1e-4)
    changed = replace(graph, nodes=tuple(new if n is node else n for n in graph.nodes))
    write_onnx(tmp_path / "net.onnx", changed, {})
    again = import_model(tmp_path / "net.onnx")
    values = {graph.inputs[0].name: digits()[0]}
    a, b = (next(iter(float_outputs(g, run_float(g, values)).values())) for g in (changed, again))
    assert np.allclose(a, b, rtol=1e-4, atol=1e-3)


def test_a_vision_transformer_is_trained_from_file_to_build(tmp_path):
    onnx.save(NETS["vit"](), tmp_path / "net.onnx")
    x, labels = digits(24)
    options = {"sparsity": "2:4", "epochs": 2, "batch": 8, "scratch": True}
    result = sateen.train(tmp_path / "net.onnx", tmp_path / "run", {"input": x}, labels, **options)
    assert result["steps"] == 6
    assert result["cycles"] is None
    assert "has no program in training" in result["cycles_note"]
    after = import_model(tmp_path / "run" / "trained.onnx")
    assert any(isinstance(n, Normalize) and not np.allclose(n.scale, 1) for n in after.nodes)
    found = sateen.run(tmp_path / "run" / "build", {"input": x})
    assert next(iter(found.outputs.values())).shape == (24, 10)
    again = sateen.train(
        tmp_path / "net.onnx", tmp_path / "run", {"input": x}, labels, build=False, **options
    )
    assert again["history"] == result["history"]
    with pytest.raises(SateenError, match=r"stored '.*': has no program in training.*use --engine reference"):
        sateen.train(
            tmp_path / "net.onnx",
            tmp_path / "run",
            {"input": x},
            labels,
            build=False,
            engine="program",
            **options,
        )


def refused(model, match):
    with pytest.raises(SateenError, match=match) as raised:
        make_plan(import_model(model), Settings())
    assert "\n" not in str(raised.value)


def test_what_has_no_gradient_is_told():
    model = gated()
    (node,) = [n for n in model.graph.node if n.op_type == "LeakyRelu"]
    at = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    model.graph.node.insert(at, helper.make_node("Floor", ["q"], ["l"], "steps"))
    refused(model, "floor 'steps': has no gradient here; use Relu, Clip, Gelu")
    model = NETS["vit"]()
    (positions,) = [t for t in model.graph.initializer if t.name == "positions"]
    masked = numpy_helper.to_array(positions).copy()
    masked[0, 0, 0] = -1e4
    positions.CopyFrom(numpy_helper.from_array(masked, "positions"))
    refused(model, "values of magnitude 10000, training takes less than 128; leave masks out")


def test_a_function_with_a_pole_stops_the_run():
    from sateen.compiler.training import Trainer, fitting, initial

    model = gated()
    (node,) = [n for n in model.graph.node if n.op_type == "LeakyRelu"]
    at = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    model.graph.node.insert(at, helper.make_node("Reciprocal", ["q"], ["l"], "pole"))
    settings = Settings()
    plan = make_plan(import_model(model), settings)
    state = initial(plan, settings)
    x, labels = digits()
    state.scales[plan.input] = fitting(float(np.abs(x).max()), settings.formats[1])
    with pytest.raises(
        SateenError, match=r"reciprocal 'pole': its slope reaches .*; use a function without a pole"
    ):
        Trainer(plan, settings, state).step(plan.graph.inputs[0].to_hwc(x), labels, 0.01)
