"""`sateen train`: its files, that a run goes on to the same bits, and what it says when something is wrong."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
from onnx import helper
from training_nets import network, samples

import sateen
from sateen.cli.main import main
from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.importer import import_model
from sateen.compiler.prune.one_shot import violation
from sateen.compiler.training.loop import STATE
from sateen.errors import SateenError
from sateen.formats import parse_sparsity


def train(files, run="run", **more):
    x, labels = samples()
    options = {"sparsity": "2:4", "epochs": 3, "batch": 8, "build": False} | more
    return sateen.train(files / "net.onnx", files / run, {"x": x}, labels, **options)


def test_the_command_writes_a_run(files, capsys):
    arguments = ["train", str(files / "net.onnx"), "-o", str(files / "run"), "--data", str(files / "x.npz")]
    arguments += ["--labels", str(files / "labels.npz"), "--sparsity", "2:4", "--epochs", "2", "--batch", "8"]
    arguments += ["--test-data", str(files / "x.npz"), "--test-labels", str(files / "labels.npz"), "--json"]
    assert main([*arguments, "--preset", "sat256"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 6
    assert len(found["history"]) == 2
    assert 0 <= found["accuracy"] <= 1
    assert found["loss"] > 0
    assert found["test"] == found["history"][-1]["test"]
    page = (files / "run" / "report.html").read_text()
    assert "<polyline" in page and "conv3" in page
    counted = found["cycles"]
    for kind in ("ff", "bp", "wu", "update"):
        assert f"<td>{counted[kind]:,}</td>" in page
        assert all(f"<td>{n:,}</td>" in page for n in counted["layers"][kind].values() if n)
    result = sateen.run(files / "run" / "build", {"x": samples()[0]})
    assert result.outputs["y"].shape == (24, 3)


def test_a_trained_file_keeps_the_pattern_and_the_network(files):
    train(files)
    before, after = import_model(files / "net.onnx"), import_model(files / "run" / "trained.onnx")
    onnx.checker.check_model(onnx.load(files / "run" / "trained.onnx"), full_check=True)
    convs = {n.name: n for n in after.nodes if hasattr(n, "weight")}
    assert all(violation(convs[name], parse_sparsity("2:4")) is None for name in ("conv2", "conv3", "conv4"))
    assert violation(convs["conv1"], parse_sparsity("1:2")) is not None
    # untrained weights, written and read, are the network that was given
    from sateen.compiler.training.save import write_onnx

    write_onnx(files / "same.onnx", before, {})
    x = {"x": samples()[0]}
    outputs = [float_outputs(g, run_float(g, x))["y"] for g in (before, import_model(files / "same.onnx"))]
    assert np.allclose(*outputs, atol=1e-5)


def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(files):
    whole = train(files)

    def stop(row):
        if row["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(files, "again", report=stop)
    again = train(files, "again")
    assert again["history"] == whole["history"]
    for name in ("trained.onnx", STATE):
        assert (files / "run" / name).read_bytes() == (files / "again" / name).read_bytes()


def test_a_finished_run_is_only_written_again(files):
    first = train(files)
    assert train(files, report=lambda row: pytest.fail("a step")) == first


def test_a_full_disk_loses_nothing(files, monkeypatch):
    from sateen.compiler.training import loop

    def stop(row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(files, report=stop)
    before = (files / "run" / STATE).read_bytes()

    def full(file, arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(loop, "write_npz", full)
        with pytest.raises(OSError, match="No space left"):
            train(files)
    assert (files / "run" / STATE).read_bytes() == before
    assert sorted(p.name for p in (files / "run").iterdir()) == [STATE]
    assert train(files)["history"] == train(files, "whole")["history"]


def refused(files, match, model=None, labels=None, **more):
    if model is not None:
        onnx.save(model, files / "net.onnx")
    x, own = samples()
    options = {"epochs": 1, "batch": 8, "build": False} | more
    with pytest.raises(SateenError, match=match) as raised:
        sateen.train(
            files / "net.onnx", files / "run", {"x": x}, own if labels is None else labels, **options
        )
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"labels": np.arange(24)}, "class 23, the network has 3 logits, classes 0 to 2"),
        ({"labels": np.arange(24) - 1}, "class -1"),
        ({"labels": np.zeros(7, int)}, r"int64 \(7,\); they must be integers of shape \(24,\)"),
        ({"labels": np.zeros(24)}, "float64"),
        ({"method": "magic"}, "unknown training method 'magic'; choose one of bdwp, sr-ste, dense"),
        ({"sparsity": "3:7"}, "unknown sparsity"),
        ({"weights": "uint8"}, "weights in uint8: training needs a format with a sign and a zero"),
        ({"gradients": "e9m9"}, "e9m9"),
        ({"batch": 25}, "batch 25: must be from 1 to 24, the number of samples is 24"),
        ({"rate": 0.0}, "rate 0.0: must be from"),
        ({"epochs": 0}, "epochs 0: must be"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told(files, more, match):
    refused(files, match, **more)


def changed(kind, replacement):
    model = network()
    (node,) = [n for n in model.graph.node if n.name == kind]
    at = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    for k, new in enumerate(replacement(node)):
        model.graph.node.insert(at + k, new)
    return model


@pytest.mark.parametrize(
    ("kind", "replacement", "match"),
    [
        (
            "relu2",
            lambda n: [helper.make_node("Floor", n.input, n.output, "relu2")],
            "floor 'relu2': has no gradient",
        ),
        (
            "add2",
            lambda n: [helper.make_node("Max", n.input, n.output, "add2")],
            "Maximum 'add2': has no gradient here",
        ),
        (
            "gemm",
            lambda n: [
                helper.make_node("Gemm", n.input, ["z"], "gemm", transB=1),
                helper.make_node("Relu", ["z"], n.output, "last"),
            ],
            "are no logits",
        ),
    ],
)
def test_a_network_that_cannot_be_trained_is_told(files, kind, replacement, match):
    refused(files, match, model=changed(kind, replacement))


def test_a_network_without_a_trainable_layer(files):
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"], "mean")
    graph = helper.make_graph(
        [node], "mean",
        [helper.make_tensor_value_info("x", 1, ["N", 2, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["N", 2, 1, 1])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    refused(files, "no layer has weights to train", model=model)


def test_folders_that_are_not_its_own(files):
    (files / "run").mkdir()
    (files / "run" / "mine").write_text("")
    refused(files, "is not empty, it holds 'mine', and no training run")
    train(files, "other")
    with pytest.raises(
        SateenError, match=r"is of another run, with 3 instead of epochs 4; choose another folder"
    ):
        train(files, "other", epochs=4)
    (files / "other" / STATE).write_bytes(b"junk")
    with pytest.raises(SateenError, match=re.escape(str(files / "other" / STATE))):
        train(files, "other")


def test_a_run_that_diverges_stops_and_keeps_its_state(files):
    with pytest.raises(SateenError, match="the run diverges"):
        train(files, rate=16.0, epochs=200)
    assert (files / "run" / STATE).exists()
