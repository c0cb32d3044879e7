# ruff: noqa: E402 (what follows needs PyTorch, which is optional)
"""Sparse training: masks against NumPy, gradients against their definition, networks that obey their pattern."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from sateen.compiler.float_executor import run_float
from sateen.compiler.importer import import_model
from sateen.compiler.prune.one_shot import check_pattern, keep_largest, recognise, sparsify
from sateen.errors import DataError, ModelError
from sateen.formats import PATTERNS, SparsityPattern, parse_sparsity
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Conv, Pool
from sateen.ir.ports import Output, Port
from sateen.models import sparse
from sateen.models.digits import DigitsCnn, export

SPARSE = [p for p in PATTERNS.values() if not p.dense]
P24, P28 = parse_sparsity("2:4"), parse_sparsity("2:8")


@pytest.fixture(autouse=True)
def single_thread():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("pattern", SPARSE, ids=str)
@pytest.mark.parametrize("depth", [3, 16, 20])
def test_masks_equal_the_compilers(pattern, depth):
    weight = torch.randint(-3, 4, (4, depth, 2, 3)).float()
    last = weight.permute(0, 2, 3, 1).numpy()
    expected = keep_largest(np.abs(last), last, pattern)
    assert np.array_equal(sparse.keep_mask(weight, pattern).permute(0, 2, 3, 1).numpy(), expected)
    turned = sparse.keep_mask(weight.transpose(0, 1), pattern, dim=0).transpose(0, 1)
    assert np.array_equal(turned.permute(0, 2, 3, 1).numpy(), expected)


def test_soft_masks_harden():
    weight = torch.randn(8, 16, 3, 3)
    hard = sparse.keep_mask(weight, P24).float()
    cold, warm = (sparse.soft_mask(weight, P24, t) for t in (1e-9, 1.0))
    assert torch.equal(cold, hard)
    assert (warm >= 0).all() and ((warm > 0.01) & (warm < 0.99)).float().mean() > 0.5
    assert (warm[hard == 1] >= 0.5).all() and (warm[hard == 0] <= 0.5).all()
    weight.requires_grad_()
    (weight * sparse.soft_mask(weight, P24, 1.0)).sum().backward()
    assert torch.isfinite(weight.grad).all() and (weight.grad[hard == 0] != 0).any()


def test_straight_through_decays_pruned_weights():
    layer = nn.Linear(16, 4)
    net = nn.Sequential(nn.Linear(16, 16), layer, nn.Linear(4, 4))
    sparse.make_sparse(net, P28, "sr-ste")
    x, g = torch.randn(5, 16), torch.randn(5, 4)
    layer(x).backward(g)
    mask = sparse.keep_mask(layer.weight, P28)
    assert torch.allclose(
        layer.weight.grad, g.T @ x + sparse.DECAY * ~mask * layer.weight.detach(), atol=1e-6
    )
    assert torch.allclose(layer(x), x @ (layer.weight * mask).T + layer.bias)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_bidirectional_gradients(kind):
    """dX by the weight pruned along outputs, dW dense."""
    if kind == "conv":
        layer, x = nn.Conv2d(8, 16, 3, 2, 1), torch.randn(2, 8, 6, 6, requires_grad=True)
        apply = lambda x, w: nn.functional.conv2d(x, w, layer.bias, 2, 1)  # noqa: E731
    else:
        layer, x = nn.Linear(8, 16), torch.randn(2, 8, requires_grad=True)
        apply = lambda x, w: nn.functional.linear(x, w, layer.bias)  # noqa: E731
    net = nn.Sequential(nn.Identity(), layer)
    sparse.make_sparse(net, P24, "bdwp", keep_dense=set())
    w = layer.weight.detach()
    ahead, back = (w * sparse.keep_mask(w, P24, dim) for dim in (1, 0))
    y = layer(x)
    assert torch.allclose(y, apply(x, ahead), atol=1e-6)
    g = torch.randn_like(y)
    y.backward(g)
    z = x.detach().clone().requires_grad_()
    (dx,) = torch.autograd.grad(apply(z, back), z, g)
    assert torch.allclose(x.grad, dx, atol=1e-5)
    v = w.clone().requires_grad_()
    (dw,) = torch.autograd.grad(apply(x.detach(), v), v, g)
    decay = sparse.DECAY * ~sparse.keep_mask(w, P24) * w
    assert torch.allclose(layer.weight.grad, dw + decay, atol=1e-4)
    assert torch.allclose(layer.bias.grad, g.sum((0, 2, 3) if kind == "conv" else 0), atol=1e-4)


@pytest.mark.parametrize("method", sparse.METHODS)
def test_trained_network_is_recognised(method, tmp_path):
    """A step of training, hardened, exported with its normalization, imported: every layer but the ends is 2:8."""
    net = DigitsCnn()
    turned = sparse.make_sparse(net, P28, method, positions={"classifier.1": 4})
    assert turned == ["features.2.0", "features.5.0", "classifier.1"]
    x, y = torch.rand(32, 1, 8, 8), torch.arange(32) % 10
    sparse.fine_tune(net, x, y, epochs=2, rate=0.05, batch=16)
    before = net.eval()(x)
    sparse.harden(net)
    assert not list(sparse.sparse_layers(net)) and type(net.features[2][0]) is nn.Conv2d
    assert method == "pdp" or torch.allclose(net(x), before, atol=1e-5)
    export(net, tmp_path / "net.onnx")
    graph, report = recognise(import_model(tmp_path / "net.onnx"))
    assert [e.pattern.name for e in report] == ["dense", "2:8", "2:8", "2:8", "dense"]
    logits = run_float(graph, {"input": x.numpy()})[graph.outputs[0].tensor].reshape(32, -1)
    assert np.allclose(logits, net(x).detach().numpy(), atol=1e-4)
    again = DigitsCnn()
    sparse.load_weights(again, tmp_path / "net.onnx")
    assert torch.equal(again.eval()(x), net(x))


def test_training_is_repeatable():
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        net = DigitsCnn()
        sparse.make_sparse(net, P28, "sr-ste")
        sparse.fine_tune(net, torch.rand(20, 1, 8, 8), torch.arange(20) % 10, epochs=2, rate=0.1, batch=8)
        results.append(net.features[2][0].weight.detach())
    assert torch.equal(*results)


def test_errors(tmp_path, capsys):
    with pytest.raises(DataError, match="'lottery' is unknown; it must be sr-ste, pdp, bdwp"):
        sparse.make_sparse(DigitsCnn(), P28, "lottery")
    for options, message in [
        (["--pattern", "9:5"], "unknown sparsity '9:5'"),
        (["--model", "resnet8_cifar10"], "needs --data"),
        (["--model", "resnet8_cifar10", "--data", str(tmp_path)], "cannot be read"),
        (
            ["--model", "digits_resnet", "--start", str(files_cnn())],
            "is missing; give a file of this network",
        ),
    ]:
        assert sparse.main([*options, "--out", str(tmp_path / "x.onnx")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


def files_cnn():
    from importlib.resources import files

    return files("sateen.models").joinpath("digits_cnn.onnx")


def test_command(tmp_path, capsys):
    pytest.importorskip("sklearn")
    out = tmp_path / "sparse.onnx"
    assert sparse.main(["--model", "digits_cnn", "--pattern", "2:4", "--epochs", "1", "--out", str(out)]) == 0
    assert "2:4, test accuracy" in capsys.readouterr().out
    _, report = recognise(import_model(out))
    assert [e.pattern.name for e in report] == ["dense", "2:4", "2:4", "2:4", "dense"]


# -- networks from graphs ----------------------------------------------------------------------------------


def small_graph():
    """NHWC input 0 to 255, asymmetric padding and a strided kernel, a Gemm over the plane."""
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(16, 3, 2, 3)) / 500, rng.normal(size=(24, 3, 3, 16)) / 12
    w3 = rng.normal(size=(5, 2, 2, 24)) / 10
    nodes = (
        Conv("a", "x", "ta", w1, rng.normal(size=16), pads=(1, 0, 1, 1)),
        Activation("r", "ta", "tr", "clip", low=0.0, high=6.0),
        Conv("b", "tr", "tb", w2, rng.normal(size=24), stride=(2, 2), pads=(0, 0, 1, 1)),
        Pool("p", "tb", "tp", "max", (2, 2), (2, 2)),
        Conv("c", "tp", "tc", w3, rng.normal(size=5)),
    )
    shapes = {
        "x": (8, 8, 3),
        "ta": (8, 8, 16),
        "tr": (8, 8, 16),
        "tb": (4, 4, 24),
        "tp": (2, 2, 24),
        "tc": (1, 1, 5),
    }
    output = Output(Port("y", (5,), (1, 1, 5)), "tc")
    graph = Graph("small", (Port("x", (8, 8, 3), (8, 8, 3)),), (output,), nodes, shapes)
    graph.verify()
    return graph


def test_graph_net_computes_the_graph_and_returns_it():
    from sateen.models.graph_net import GraphNet

    graph = small_graph()
    x = np.random.default_rng(1).uniform(0, 255, (12, 8, 8, 3)).astype(np.float32)
    expected = run_float(graph, {"x": x})["tc"].reshape(12, 5)
    net = GraphNet(graph, 255.0)
    net.normalize(torch.from_numpy(x))
    assert len(net.norms) == 2
    assert np.allclose(net.eval()(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-4)
    _, plan = sparsify(graph, P28)
    names = net.names()
    turned = sparse.make_sparse(
        net, P28, "sr-ste", keep_dense={names[e.name] for e in plan if e.pattern.dense}
    )
    assert turned == [names["b"]]
    sparse.fine_tune(net, torch.from_numpy(x), torch.arange(12) % 5, epochs=3, rate=0.05, batch=4)
    sparse.harden(net)
    result = net.to_graph({e.name: e.pattern for e in plan})
    result.verify()
    assert [n.sparsity.name for n in result.nodes if isinstance(n, Conv)] == ["dense", "2:8", "dense"]
    assert check_pattern(result.nodes[2].weight, P28) is None
    assert not np.array_equal(result.nodes[0].weight, graph.nodes[0].weight)
    got = run_float(result, {"x": x})["tc"].reshape(12, 5)
    assert np.allclose(got, net(torch.from_numpy(x)).detach().numpy(), atol=1e-4)


def test_graph_net_selects_channels():
    from sateen.models.graph_net import GraphNet

    weight = np.random.default_rng(0).normal(size=(4, 1, 1, 3))
    select = Conv(
        "s", "x", "ts", np.ones((3, 1, 1, 1)), np.zeros(3), groups=3, channels=np.array([[4], [0], [0]])
    )
    shapes = {"x": (2, 2, 5), "ts": (2, 2, 3), "tc": (2, 2, 4)}
    output = Output(Port("y", (2, 2, 4), (2, 2, 4)), "tc")
    nodes = (select, Conv("c", "ts", "tc", weight, np.zeros(4)))
    graph = Graph("select", (Port("x", (2, 2, 5), (2, 2, 5)),), (output,), nodes, shapes)
    x = np.random.default_rng(1).normal(size=(3, 2, 2, 5)).astype(np.float32)
    expected = run_float(graph, {"x": x})["tc"].transpose(0, 3, 1, 2).reshape(3, -1)
    assert np.allclose(GraphNet(graph)(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-5)


def test_graph_net_refuses():
    from dataclasses import replace

    from sateen.models.graph_net import GraphNet

    graph = small_graph()
    nodes = tuple(replace(n, function="sigmoid") if isinstance(n, Activation) else n for n in graph.nodes)
    with pytest.raises(ModelError, match="sigmoid cannot be trained"):
        GraphNet(replace(graph, nodes=nodes))
    with pytest.raises(ModelError, match="one each trains"):
        GraphNet(replace(graph, outputs=graph.outputs * 2))


# -- CIFAR-10 ----------------------------------------------------------------------------------------------


def test_cifar(tmp_path):
    image = pytest.importorskip("PIL.Image")
    from sateen.models import cifar, images

    with zipfile.ZipFile(tmp_path / "c.zip", "w") as z:
        for label, color in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
            for i in range(3):
                data = io.BytesIO()
                image.new("RGB", (32, 32), color).save(data, "JPEG")
                z.writestr(f"{label}/{i}.jpg", data.getvalue())
    x, y = images.load(tmp_path / "c.zip")
    assert x.shape == (6, 3, 32, 32) and x.dtype == np.uint8 and y.tolist() == [0, 0, 0, 1, 1, 1]
    assert abs(int(x[0, 2].min()) - 250) < 5 and abs(int(x[5, 0].min()) - 250) < 5
    assert len(images.load(tmp_path / "c.zip", 4)[1]) == 4
    moved = cifar.augment(torch.from_numpy(x).float(), torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    net = cifar.Resnet8()
    turned = sparse.make_sparse(net, SparsityPattern(2, 8), "sr-ste")
    assert len(turned) == 8
    sparse.harden(net)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(78_000, rel=0.02)
    export(net, tmp_path / "resnet8.onnx", (1, 3, 32, 32))
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="cannot be read"):
        images.load(tmp_path / "bad.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(DataError, match="holds no JPEG"):
        images.load(tmp_path / "empty.zip")
