"""The CIFAR-10 networks that are trained here, and the transformer in parts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sateen.compiler.ptq.recipe import RECIPES  # noqa: E402
from sateen.ir.nodes import Activation, Conv  # noqa: E402
from sateen.models import cifar  # noqa: E402
from sateen.models.digits import export  # noqa: E402
from sateen.models.images import centred  # noqa: E402
from sateen.sim.reference import run_reference  # noqa: E402

SHAPE = (1, 3, 32, 32)


def cut_network():
    path = Path(__file__).resolve().parents[2] / "benchmarks/cut_network.py"
    spec = importlib.util.spec_from_file_location("cut_network", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE[1:]), dtype=np.uint8)


def test_training_goes_on_where_it_was(tmp_path, monkeypatch):
    x, y = images(80), np.arange(80) % 10

    def trained(state):
        torch.manual_seed(0)
        model = cifar.VisionTransformer(width=16, depth=1, heads=2)
        cifar.train(model, x, y, 2, state)
        return model.state_dict()

    save, kept = torch.save, tmp_path / "kept.pt"

    def first_only(stored, path):
        save(stored, path)
        if stored["epoch"] == 1:
            save(stored, kept)

    monkeypatch.setattr(torch, "save", first_only)
    straight = trained(tmp_path / "straight.pt")
    resumed = trained(kept)
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_transformer_in_parts(tmp_path):
    path = tmp_path / "vit.onnx"
    torch.manual_seed(0)
    model = cifar.VisionTransformer(width=16, depth=1, heads=2).eval()
    export(model, path, SHAPE, opset=cifar.OPSET)
    network = cut_network().cut(path)
    parts = [[type(n) for n in s.network.graph.nodes] for s in network.stages if s.network]
    stem = [Conv, Activation, Conv, Activation, Conv]
    assert parts == [stem, [Conv], [Conv], [Conv, Activation, Conv], [Conv]]
    x = centred(images(20))
    with torch.no_grad():
        want = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(network.run(x)[network.output], want, atol=1e-5)
    far = []
    for fmt in ("int8", "int4"):
        run, count = network.quantize(x, RECIPES["fast"], fmt, fmt)
        assert count == sum(p.numel() for n, p in model.named_parameters() if p.ndim > 1 and n != "position")
        far.append(np.abs(run(x, run_reference) - want).max() / np.ptp(want))
    assert 0 < far[0] < 0.05 < far[1] < 0.5
