"""Operators written in others: thresholds and channels-last ones beside the `qonnx` package, old operator sets beside
newer ones, and shapes that the user gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx_nets import Net
from test_import_quantized import QONNX, Brevitas, in_qonnx

from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.importer import check_model, import_model
from sateen.compiler.importer.nouns import Unsupported
from sateen.compiler.importer.thresholds import steps_of
from sateen.errors import ModelError

CHANNELS_LAST = "qonnx.custom_op.channels_last"


def ours(model, feeds):
    graph = import_model(model)
    return float_outputs(graph, run_float(graph, feeds))


# -- thresholds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", QONNX)
@pytest.mark.parametrize(
    ("count", "scale", "bias"), [(1, 2.0, -1.0), (1, 1.0, 0.0), (3, 0.5, -0.5), (15, 0.25, 0.1)]
)
def test_thresholds_of_integers(count, scale, bias, domain, monkeypatch):
    """Each of some channels has even thresholds, rounded up to integers as FINN does: every integer counts the same."""
    rng = np.random.default_rng(count)
    first, step = rng.uniform(-20, 5, (4, 1)), rng.uniform(0.3, 6, (4, 1))
    thresholds = np.ceil(first + step * np.arange(count)).astype(np.float32)
    net = Net(11)
    x = net.input(1, 4, 5, 40)
    y = net("MultiThreshold", x, net.constant(thresholds), domain=domain, out_scale=scale, out_bias=bias)
    model = net.output(net("Conv", y, net.random(3, 4, 1, 1))).model()
    feeds = {"x": rng.integers(-40, 120, (1, 4, 5, 40)).astype(np.float32)}
    (want,) = in_qonnx(model, feeds, monkeypatch).values()
    assert np.ptp(want) > 0
    (got,) = ours(model, feeds).values()
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_thresholds_of_any_rank(rank, shared, monkeypatch):
    shape = (1, 3, 8, 9)[:rank] if rank > 2 else (1, 3)
    net = Net(11)
    x = net.input(*shape)
    scaled = net("Mul", x, net.constant(0.37, np.float32))  # no tie
    channels = 8 if rank == 3 else 3  # qonnx takes three dimensions without a layout as channels last
    factors = np.linspace(0.5, 2, channels, dtype=np.float32)[:, None]
    table = np.linspace(-1.1, 1.3, 7, dtype=np.float32)[None] * (1 if shared else factors)
    y = net("MultiThreshold", scaled, net.constant(table), domain=QONNX[0], out_bias=-3.0)
    model = net.output(net("Mul", y, net.constant(0.5, np.float32))).model()
    feeds = {"x": np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)}
    (want,) = in_qonnx(model, feeds, monkeypatch).values()
    (got,) = ours(model, feeds).values()
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5)


def test_steps_pass_between_each_threshold_and_the_integer_below():
    rng = np.random.default_rng(0)
    for _ in range(200):
        row = np.ceil(rng.uniform(-50, 50) + rng.uniform(0.2, 9) * np.arange(rng.integers(2, 16)))
        first, step = (v[0] for v in steps_of(row[None]))
        edges = first + step * np.arange(len(row))
        assert (row - 1 < edges).all() and (edges < row).all()


@pytest.mark.parametrize("row", [[0.0, 1.0, 5.0], [0.1, 0.2, 0.5], [3.0, 2.0]])
def test_uneven_thresholds_are_refused(row):
    with pytest.raises(Unsupported, match=r"evenly spaced|ascend"):
        steps_of(np.array([row]))
    net = Net(11)
    table = net.constant(np.array([row], np.float32))
    y = net("MultiThreshold", net.input(1, 3, 4, 4), table, domain=QONNX[0])
    with pytest.raises(ModelError, match=r"MultiThreshold 'MultiThreshold0'.*(evenly spaced|ascend)"):
        import_model(net.output(y).model())


# -- channels last ------------------------------------------------------------------------------------------


def channels_last_net():
    net = Brevitas(seed=3)
    x = net.quant(net.input(1, 8, 9, 3), 2**-4, 6)
    y = net("Conv", x, net.random(4, 3, 3, 3), domain=CHANNELS_LAST, kernel_shape=[3, 3],
            strides=[1, 2], pads=[1, 1, 1, 1], dilations=[1, 1], group=1)  # fmt: skip
    statistics = [net.random(4, low=0.5) for _ in range(4)]
    y = net("BatchNormalization", y, *statistics, domain=CHANNELS_LAST, epsilon=1e-3)
    y = net(
        "MaxPool",
        net("Relu", y),
        domain=CHANNELS_LAST,
        kernel_shape=[2, 2],
        strides=[2, 1],
        pads=[0, 0, 0, 0],
    )
    return net.output(y)


def test_channels_last_is_transposed_standard():
    """As qonnx runs these operators: on transposed inputs, and weights, with the standard one in ONNX Runtime."""
    model = channels_last_net().model()
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    conv, norm, *_ = (n for n in model.graph.node if n.op_type != "Quant")
    first = next(n for n in model.graph.node if n.op_type == "Quant")
    x = np.random.default_rng(2).normal(0, 1, (1, 8, 9, 3)).astype(np.float32)
    scale, zero, bits = (weights[i] for i in first.input[1:])
    rounded = np.clip(np.rint(x / scale + zero), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
    twin = Net(17)
    w = twin.constant(weights[conv.input[1]].transpose(0, 3, 1, 2))
    names = {"x": twin.input(1, 3, 8, 9)}
    y = twin("Conv", names["x"], w, **{a.name: helper.get_attribute_value(a) for a in conv.attribute})
    y = twin("BatchNormalization", y, *(twin.constant(weights[i]) for i in norm.input[1:]), epsilon=1e-3)
    y = twin("MaxPool", twin("Relu", y), kernel_shape=[2, 2], strides=[2, 1])
    session = onnxruntime.InferenceSession(twin.output(y).model().SerializeToString())
    (want,) = session.run(None, {"x": np.ascontiguousarray(rounded.transpose(0, 3, 1, 2), np.float32)})
    (got,) = ours(model, {"x": x}).values()
    assert np.ptp(want) > 0
    np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


def test_findings_are_those_of_the_file():
    """Nodes that the importer adds show only in what is wrong with the file's."""
    model = channels_last_net().model()
    findings = check_model(model)
    assert [(f.node, f.op_type) for f in findings] == [(n.name, n.op_type) for n in model.graph.node]
    assert all(f.supported for f in findings)
    assert [f.reason.split()[0] for f in findings if f.op_type in ("Conv", "MaxPool")] == [
        "convolution",
        "pooling",
    ]


@pytest.mark.parametrize("domain", [CHANNELS_LAST, *QONNX])
def test_a_domain_without_a_version(domain):
    model = channels_last_net().model()
    kept = [o for o in model.opset_import if o.domain != domain]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    assert all(f.supported for f in check_model(model))


# -- old operators ------------------------------------------------------------------------------------------


def aged(opset: int) -> onnx.ModelProto:
    """One network in the words of each operator set: broadcasts by axis, shapes and scales as attributes, flags."""
    old = opset < 7
    net = Net(opset, seed=5)
    broadcast = {"broadcast": 1, "axis": 1} if old else {}
    consumed = {"consumed_inputs": [0, 0]} if opset < 6 else {}

    def channels(values):
        return net.constant(values.astype(np.float32) if old else values.astype(np.float32).reshape(-1, 1, 1))

    r = np.random.default_rng(0)
    y = net("Conv", net.input("N", 3, 6, 6), net.random(4, 3, 3, 3), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    y = net("Add", y, channels(r.normal(size=4)), **broadcast, **consumed)
    flags = {"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]} if opset < 6 else {"is_test": 1} if old else {}
    flags |= {"spatial": 1} if opset < 9 else {}
    y = net(
        "BatchNormalization",
        y,
        *(net.constant(r.uniform(0.5, 1.5, 4).astype(np.float32)) for _ in range(4)),
        **flags,
    )
    y = net("PRelu", y, channels(r.normal(size=4)))
    y = net("Dropout", y, **({"is_test": 1} if old else {}))
    row = r.normal(size=6).astype(np.float32)
    y = net("Mul", y, channels(r.normal(size=4)), **broadcast)
    y = net("Sub", y, net.constant(np.float32(row[0])), **({"broadcast": 1} if old else {}))
    y = (
        net("Reshape", y, shape=[-1, 144])
        if opset < 5
        else net("Reshape", y, net.constant([-1, 144], np.int64))
    )
    y = net("Gemm", y, net.random(144, 5), net.random(5), **({"broadcast": 1} if old else {}))
    cast = {"to": "FLOAT"} if opset < 6 else {"to": 1}
    return net.output(
        net("Relu", net("Cast", y, **cast), **({"consumed_inputs": [0]} if opset < 6 else {}))
    ).model()


@pytest.mark.parametrize("opset", [1, 2, 4, 5, 6, 7, 8])
def test_old_operators_are_read_as_new_ones(opset):
    feeds = {"x": np.random.default_rng(9).normal(size=(2, 3, 6, 6)).astype(np.float32)}
    (want,) = ours(aged(9), feeds).values()
    assert np.ptp(want) > 0
    (got,) = ours(aged(opset), feeds).values()
    np.testing.assert_array_equal(got, want)


def test_the_file_is_not_changed():
    model = aged(6)
    before = model.SerializeToString(deterministic=True)
    import_model(model)
    assert model.SerializeToString(deterministic=True) == before


# -- shapes -------------------------------------------------------------------------------------------------


def dynamic():
    net = Net()
    return net.output(net("Relu", net.conv(net.input("N", 3, "h", "w"), 3, 4, 3, 3))).model()


def test_a_shape_that_is_given():
    graph = import_model(dynamic(), {"x": (1, 3, 7, 9)})
    assert graph.inputs[0].hwc == (7, 9, 3) and next(iter(graph.outputs)).port.shape == (4, 5, 7)
    with pytest.raises(ModelError, match=r"dimension 2 is dynamic \('h'\).*--shape x=1,3,\?,\?"):
        import_model(dynamic())


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"y": (1, 3, 7, 9)}, "no such input; it has x"),
        ({"x": (3, 7, 9)}, r"3 sizes; in the file it has 4: \(N, 3, h, w\)"),
        ({"x": (1, 4, 7, 9)}, "dimension 1 is 3 in the file, not 4"),
        ({"x": (1, 3, 0, 9)}, "at least 1"),
    ],
)
def test_shapes_that_do_not_fit(shapes, words):
    with pytest.raises(ModelError, match=words):
        import_model(dynamic(), shapes)
