"""N:M sparsification: masks against plain loops, second-order updates against least squares, and what stays zero."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import numpy as np
import onnx
import pytest
from networks import Builder
from onnx import TensorProto, helper, numpy_helper

from sateen.compiler.float_executor import run_float
from sateen.compiler.importer import import_model
from sateen.compiler.prune.one_shot import (
    METHODS,
    check_pattern,
    detect_pattern,
    keep_largest,
    recognise,
    sparsify,
    violation,
)
from sateen.compiler.ptq.hessian import ROWS, column_norms, columns, compensate, hessian, inverse_factor
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.network import quantize
from sateen.errors import DataError, ModelError
from sateen.formats import PATTERNS, SparsityPattern, parse_sparsity
from sateen.formats.sparsity import DENSE
from sateen.ir.nodes import Conv
from sateen.ir.quantized import Linear
from sateen.ir.serialize import from_bytes, to_bytes

SPARSE = [p for p in PATTERNS.values() if not p.dense]
P24, P28 = parse_sparsity("2:4"), parse_sparsity("2:8")


def convs(graph):
    return [n for n in graph.nodes if isinstance(n, Conv)]


def chain():
    """First layer, a tail group (20 inputs), a residual, depthwise, last layer."""
    b = Builder(seed=3)
    x = b.clip(b.conv(b.input(8, 8, 3), 20))
    y = b.clip(b.conv(x, 16))
    z = b.clip(b.add(b.conv(y, 16), y))
    z = b.clip(b.conv(z, 16, groups=16))
    z = b.clip(b.conv(z, 24, k=1, pad=0))
    return b, b.graph(b.gemm(b.pool(z, "average", 8), 10))


def slow_mask(score, weight, pattern):
    """By the definition, one group after another."""
    kept = np.zeros(weight.shape, bool)
    for at in np.ndindex(weight.shape[:-1]):
        for start in range(0, weight.shape[-1], pattern.m):
            members = range(start, min(start + pattern.m, weight.shape[-1]))
            ranked = sorted(members, key=lambda i: (-score[(*at, i)], -abs(weight[(*at, i)]), i))
            for i in ranked[: pattern.n]:
                kept[(*at, i)] = True
    return kept


@pytest.mark.parametrize("pattern", [*SPARSE, SparsityPattern(3, 7)], ids=str)
@pytest.mark.parametrize("depth", [1, 3, 8, 16, 20])
def test_mask_is_the_definition(pattern, depth):
    rng = np.random.default_rng(depth)
    weight = rng.integers(-3, 4, (3, 2, 2, depth)).astype(float)  # many ties
    score = rng.integers(0, 3, weight.shape).astype(float)
    assert np.array_equal(keep_largest(score, weight, pattern), slow_mask(score, weight, pattern))


@pytest.mark.parametrize("pattern", SPARSE, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_every_layer_obeys(method, pattern):
    b, graph = chain()
    result, report = sparsify(graph, pattern, method=method, samples=b.samples(4))
    result.verify()
    assert [e.reason for e in report] == ["first layer", "", "", "depthwise", "", "last layer"]
    for before, after, entry in zip(convs(graph), convs(result), report, strict=True):
        assert entry.name == after.name and entry.pattern == after.sparsity
        assert entry.nonzeros == np.count_nonzero(after.weight) and entry.weights == after.weight.size
        if entry.reason:
            assert after.sparsity == DENSE and after.weight is before.weight and entry.error == 0
        else:
            assert after.sparsity == pattern and check_pattern(after.weight, pattern) is None
            assert 0 < entry.error < 1 or method == "sparsegpt"
    assert len(convs(graph)[1].weight[convs(graph)[1].weight == 0]) == 0  # the input is not changed


def test_magnitude_keeps_values():
    _, graph = chain()
    result, _ = sparsify(graph, P24)
    before, after = convs(graph)[1].weight, convs(result)[1].weight
    assert np.array_equal(after, np.where(slow_mask(np.abs(before), before, P24), before, 0))


def test_wanda_weighs_inputs():
    b, graph = chain()
    samples = b.samples(3)
    result, _ = sparsify(graph, P24, method="wanda", samples=samples)
    conv = convs(graph)[1]
    padded = np.pad(run_float(graph, samples)[conv.input], ((0, 0), (1, 1), (1, 1), (0, 0)))
    norms = np.array(
        [[np.sqrt((padded[:, y : y + 8, x : x + 8] ** 2).sum((0, 1, 2))) for x in range(3)] for y in range(3)]
    )
    score = np.abs(conv.weight) * norms
    assert np.array_equal(
        convs(result)[1].weight, np.where(slow_mask(score, conv.weight, P24), conv.weight, 0)
    )


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_biases_take_the_mean_error(method):
    b, graph = chain()
    samples = b.samples(8)
    result, _ = sparsify(graph, P28, method=method, samples=samples)
    conv = convs(graph)[1]  # its input is the same before and after
    dense, sparse = (run_float(g, samples)[conv.output] for g in (graph, result))
    assert np.allclose(sparse.mean((0, 1, 2)), dense.mean((0, 1, 2)), atol=1e-9)
    plain, _ = sparsify(graph, P28, method=method, samples=samples, correct_bias=False)
    assert all(np.array_equal(p.bias, q.bias) for p, q in zip(convs(plain), convs(graph), strict=True))
    assert np.mean((sparse - dense) ** 2) < np.mean((run_float(plain, samples)[conv.output] - dense) ** 2)


def test_second_order_beats_magnitude_at_the_output():
    b, graph = chain()
    samples = b.samples(32)
    dense = run_float(graph, samples)["out" if "out" in graph.shapes else graph.outputs[0].tensor]
    error = {}
    for method in METHODS:
        result, _ = sparsify(graph, P28, method=method, samples=samples)
        error[method] = np.mean((run_float(result, samples)[graph.outputs[0].tensor] - dense) ** 2)
    assert error["sparsegpt"] < 0.5 * error["magnitude"]


# -- hessian -----------------------------------------------------------------------------------------------


def problem(k=12, rows=60):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, k)) @ rng.normal(size=(k, k))
    return x, rng.normal(size=(5, k))


@pytest.mark.parametrize("size", [12, 600])
def test_inverse_factor(size):
    x, _ = problem(size, 2 * size)
    h = x.T @ x
    u = inverse_factor(h, 0.01)
    assert np.array_equal(u, np.triu(u)) and (np.diag(u) > 0).all()
    damped = h + 0.01 * np.mean(np.diag(h)) * np.eye(len(h))
    assert np.allclose(u.T @ u @ damped, np.eye(len(h)), atol=1e-8)
    assert np.array_equal(inverse_factor(np.zeros((3, 3))), np.eye(3))


def test_compensation_is_least_squares():
    """With the first columns pruned, the others become what regression on them gives."""
    x, w = problem()
    kept = np.arange(12) >= 3
    factor = inverse_factor(x.T @ x, 1e-13)

    def choose(values, pivots):
        return np.tile(kept[:4], (5, 1)) if values.shape[1] == 4 else np.ones(values.shape, bool)

    new = compensate(w, factor, groups=[(0, 4), (4, 12)], choose=choose)
    best = np.linalg.lstsq(x[:, kept], x @ w.T, rcond=None)[0].T
    assert (new[:, :3] == 0).all() and np.allclose(new[:, 3:], best, rtol=1e-6)


@pytest.mark.parametrize("block", [1, 4, 5, 100])
def test_blocks_change_nothing(block):
    x, w = problem()
    factor = inverse_factor(x.T @ x)
    groups = [(0, 4), (4, 6), (6, 10), (10, 12)]

    def choose(values, pivots):
        return keep_largest((values / pivots) ** 2, values, SparsityPattern(2, 4))

    def half(values, column):
        return np.rint(values * 2) / 2

    whole = compensate(w, factor, half, groups=groups, choose=choose, block=12)
    parts = compensate(w, factor, half, groups=groups, choose=choose, block=block)
    assert np.allclose(whole, parts, atol=1e-12) and np.array_equal(whole * 2, np.rint(whole * 2))
    assert (np.count_nonzero(whole[:, :4], axis=1) <= 2).all()
    assert np.array_equal(compensate(w, factor), w)


def test_compensated_rounding_beats_rounding():
    _, w = problem(k=24)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 24)) + 0.1 * rng.normal(size=(200, 24))

    def project(values, column):
        return np.rint(values * 2) / 2

    new = compensate(w, inverse_factor(x.T @ x), project)
    assert np.sum((x @ (new - w).T) ** 2) < 0.5 * np.sum((x @ (project(w, 0) - w).T) ** 2)


def test_columns_are_the_reduction():
    b = Builder(seed=1)
    b.conv(b.input(7, 6, 4), 6, k=(3, 2), stride=2, groups=2, pad=(1, 0, 2, 1))
    conv = b.nodes[0]
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 4))
    tensors = run_float(b.graph(conv.output), {"x": x.transpose(0, 3, 1, 2)})
    for group in range(2):
        matrix = np.concatenate(list(columns(conv, x, group)))
        part = slice(3 * group, 3 * group + 3)
        got = matrix @ conv.weight[part].reshape(3, -1).T + conv.bias[part]
        assert np.allclose(got, tensors[conv.output][..., part].reshape(-1, 3))
        assert np.allclose(hessian(conv, x, group), matrix.T @ matrix)


def test_rows_are_bounded():
    b = Builder()
    b.conv(b.input(80, 80, 1), 1, k=2, pad=0)
    x = np.random.default_rng(0).normal(size=(12, 80, 80, 1))
    parts = list(columns(b.nodes[0], x))
    assert sum(map(len, parts)) == ROWS
    total = 12 * 79 * 79
    assert np.allclose(column_norms(b.nodes[0], x) ** 2 * total / ROWS, total, rtol=0.05)


# -- options and errors ------------------------------------------------------------------------------------


def test_layers_by_name():
    _, graph = chain()
    names = [c.name for c in convs(graph)]
    result, report = sparsify(graph, P28, layers={names[0]: P24, names[2]: DENSE}, keep_dense=[names[1]])
    assert [e.pattern.name for e in report] == ["2:4", "dense", "dense", "dense", "2:8", "2:8"]
    assert [e.reason for e in report] == ["", "kept dense", "kept dense", "depthwise", "", ""]
    assert detect_pattern(convs(result)[5].weight) == P28
    _, report = sparsify(graph, P28, keep_dense=())
    assert [e.pattern.name for e in report] == ["2:8"] * 3 + ["dense"] + ["2:8"] * 2
    result, report = sparsify(graph, DENSE, method="wanda")
    assert {e.reason for e in report} == {"dense"} and convs(result)[0].weight is convs(graph)[0].weight


def test_two_ends():
    """With two branches from the input and two outputs, each has a first and a last layer."""
    b = Builder()
    x = b.input(4, 4, 3)
    left, right = b.conv(x, 8), b.conv(x, 8)
    both = b.conv(b.concat(left, right), 8)
    graph = b.graph(b.conv(both, 4), b.conv(both, 5))
    _, report = sparsify(graph, P24)
    assert [e.reason for e in report] == ["first layer", "first layer", "", "last layer", "last layer"]


def test_kept_as_given():
    """Weights that obey the pattern are left alone, whatever the method."""
    b, graph = chain()
    once, _ = sparsify(graph, P28)
    again, report = sparsify(once, P24, method="sparsegpt", samples=b.samples(2))
    assert [e.reason for e in report if not e.pattern.dense] == ["already 2:4"] * 3
    assert all(np.array_equal(p.weight, q.weight) for p, q in zip(convs(once), convs(again), strict=True))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "best"}, DataError, "'best' is unknown; it must be magnitude, wanda, sparsegpt"),
        ({"method": "wanda"}, DataError, "needs calibration samples"),
        ({"method": "wanda", "samples": {"y": np.zeros((1, 3, 8, 8))}}, DataError, "no such input"),
        ({"layers": {"nowhere": P24}}, ModelError, "'nowhere' is no convolution"),
        ({"keep_dense": ["nowhere"]}, ModelError, "'nowhere' is no convolution"),
        ({"layers": {"conv7": P24}}, ModelError, "16 groups; only a Conv with groups = 1"),
    ],
)
def test_errors(options, error, message):
    _, graph = chain()
    assert convs(graph)[3].name == "conv7"
    with pytest.raises(error, match=message):
        sparsify(graph, P28, **options)


def test_bad_numbers():
    _, graph = chain()
    with pytest.raises(DataError, match="becomes NaN, infinite or larger"):
        sparsify(graph, P24, method="sparsegpt", samples={"x": np.full((2, 3, 8, 8), 1e300)})
    weight = convs(graph)[1].weight.copy()
    weight[0, 0, 0, 0] = np.nan
    nodes = tuple(replace(n, weight=weight) if n.name == convs(graph)[1].name else n for n in graph.nodes)
    with pytest.raises(ModelError, match="weights hold NaN"):
        sparsify(replace(graph, nodes=nodes), P24)


# -- recognition -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", SPARSE, ids=str)
def test_detect(pattern):
    rng = np.random.default_rng(1)
    dense = rng.normal(size=(8, 3, 3, 32))
    assert detect_pattern(dense) is None
    weight = np.where(keep_largest(np.abs(dense), dense, pattern), dense, 0)
    found = detect_pattern(weight)
    assert found == pattern and check_pattern(weight, found) is None
    assert detect_pattern(weight, [pattern, DENSE]) == pattern


def test_detect_prefers_low_density_and_ignores_what_cannot_fail():
    weight = np.zeros((2, 1, 1, 16))
    weight[..., 0] = 1
    assert detect_pattern(weight).name == "1:8"
    assert detect_pattern(weight, [P24, P28]) == P28
    assert detect_pattern(np.ones((4, 3, 3, 1))) is None
    assert detect_pattern(np.ones((4, 3, 3, 2))) is None
    assert detect_pattern(np.array([[[[1.0, 0, 0]]]])).name == "1:4"  # 2:16, too, but that allows two


def test_check_names_the_group():
    weight = np.zeros((3, 2, 2, 20))
    assert check_pattern(weight, P28) is None
    weight[2, 1, 0, 16:20] = 1  # the tail group
    weight[2, 1, 1, :8] = 1
    assert check_pattern(weight, P28) == (2, 1, 0, 2, 4)
    assert check_pattern(weight, parse_sparsity("4:8")) == (2, 1, 1, 0, 8)
    conv = Conv("c3", "x", "y", weight, np.zeros(3))
    assert violation(conv, P28) == (
        "Conv 'c3': output 2, kernel tap (1, 0), channels 16 to 19 hold 4 nonzero weights, 2:8 allows 2; "
        "2 of 36 groups break it"
    )
    assert violation(conv, parse_sparsity("dense")) is None


def sparse_onnx():
    """Conv (2:8) and BatchNormalization, twice; the scales may be negative."""
    rng = np.random.default_rng(5)
    nodes, constants, x = [], [], "input"
    for i, (depth, out) in enumerate([(8, 24), (24, 16)]):
        weight = rng.normal(size=(out, depth, 3, 3))
        last = weight.transpose(0, 2, 3, 1)
        weight = np.where(keep_largest(np.abs(last), last, P28), last, 0).transpose(0, 3, 1, 2)
        values = {
            "w": weight,
            "s": rng.normal(size=out),
            "b": rng.normal(size=out),
            "m": rng.normal(size=out),
        }
        values["v"] = rng.uniform(0.5, 2, out)
        constants += [numpy_helper.from_array(v.astype(np.float32), f"{k}{i}") for k, v in values.items()]
        nodes.append(helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4))
        names = [f"{k}{i}" for k in "csbmv"]
        nodes.append(helper.make_node("BatchNormalization", names, [f"n{i}"], f"norm{i}"))
        nodes.append(helper.make_node("Relu", [f"n{i}"], [f"r{i}"], f"relu{i}"))
        x = f"r{i}"
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 6, 6]) for n, c in (("input", 8), (x, 16))
    ]
    graph = helper.make_graph(nodes, "sparse", ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_import_keeps_zeros():
    """Folding batch normalization keeps the pattern, which is then recognised."""
    model = sparse_onnx()
    onnx.checker.check_model(model)
    graph, report = recognise(import_model(model))
    assert [e.pattern.name for e in report] == ["2:8", "2:8"]
    assert [c.sparsity.name for c in convs(graph)] == ["2:8", "2:8"]
    assert report[0].nonzeros == 24 * 9 * 2
    _, report = recognise(graph, [DENSE, P24])
    assert [e.pattern.name for e in report] == ["2:4", "2:4"]


# -- quantization ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["int8", "int4", "e3m2", "e2m1", "e4m3fn", "int2"])
def test_zeros_stay_zero(fmt):
    b, graph = chain()
    samples = b.samples(4)
    graph, _ = sparsify(graph, P28, method="sparsegpt", samples=samples)
    qgraph = quantize(graph, calibrate(graph, samples), weight_format=fmt, activation_format="int8")
    linears = {op.name: op for op in qgraph.ops if isinstance(op, Linear)}
    for conv in convs(graph):
        op = linears[conv.name]
        assert op.weight.sparsity == conv.sparsity
        fixed = op.weight.fixed
        assert (fixed[conv.weight == 0] == 0).all()
        assert check_pattern(fixed, op.weight.sparsity) is None
    again = from_bytes(to_bytes(qgraph))
    assert [op.weight.sparsity for op in again.ops if isinstance(op, Linear)] == [
        op.weight.sparsity for op in linears.values()
    ]


def test_digits_survive_half_the_weights():
    graph = import_model(
        onnx.load_from_string(files("sateen.models").joinpath("digits_cnn.onnx").read_bytes())
    )
    pytest.importorskip("sklearn")
    from sateen.models.data import digits_split

    digits = digits_split()
    result, report = sparsify(graph, P24, method="sparsegpt", samples={"input": digits.x_train[:100]})
    assert [e.pattern.name for e in report] == ["dense", "2:4", "2:4", "2:4", "dense"]
    logits = run_float(result, {"input": digits.x_test[:200]})[result.outputs[0].tensor]
    assert np.mean(logits.reshape(200, -1).argmax(1) == digits.y_test[:200]) > 0.95
