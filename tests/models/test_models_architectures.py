"""The generated networks are the standard ones: shapes, parameters and multiplications as published."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest

from sateen.models.architectures import ARCHITECTURES, main

PUBLISHED = {
    "mobilenet_v1": (4.23, 569),
    "mobilenet_v2": (3.50, 301),
    "mobilenet_v4_conv_small": (3.77, 188),
    "mobileone_s0": (2.08, 275),
    "shufflenet_v2": (2.28, 145),
    "efficientnet_lite0": (4.65, 386),
    "regnet_x_400mf": (5.50, 414),
    "squeezenet": (1.24, 349),
    "densenet121": (7.98, 2834),
    "googlenet": (7.00, 1583),
    "quartznet_5x5": (6.7, 3363),
    "tiny_yolo_v2": (15.87, 3490),
    "mobilenet_v3_small": (2.54, 56.5),
    "efficientnet_b0": (5.29, 386),
    "yolo_v5n": (1.87, 565),
    "yolo_v8n": (3.15, 1090),
}
"""Millions of parameters and of multiplications, from the papers or torchvision; QuartzNet's are for ten seconds."""


def macs(model: onnx.ModelProto) -> int:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*inferred.graph.value_info, *inferred.graph.output]
    }
    weights = {i.name: i.dims for i in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    return sum(math.prod(shapes[n.output[0]][2:]) * math.prod(weights[n.input[1]]) for n in layers)


@pytest.mark.parametrize("name", PUBLISHED)
def test_is_the_standard_network(name):
    model = ARCHITECTURES[name](0)
    parameters = sum(
        math.prod(i.dims) for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT
    )
    assert (parameters / 1e6, macs(model) / 1e6) == pytest.approx(PUBLISHED[name], rel=0.015)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",
        "shufflenet_v2",
        "face_mesh",
        "m5",
        "autoencoder",
        "keyword_lstm",
        "keyword_gru",
        "unet",
        "espcn",
    ],
)
def test_activations_stay_sane_and_shapes_hold(name):
    model = ARCHITECTURES[name](0)
    assert ARCHITECTURES[name](0).SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in [*model.graph.input, *model.graph.output]
    }
    inner = [o for n in model.graph.node for o in n.output if o not in shapes]
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in inner
    )
    rng = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(seen.SerializeToString())
    feed = {i.name: rng.standard_normal(shapes[i.name], np.float32) for i in model.graph.input}
    found = dict(zip([o.name for o in seen.graph.output], session.run(None, feed), strict=True))
    for output in model.graph.output:
        assert found[output.name].shape == shapes[output.name]
    for name, values in found.items():
        assert values.size == 1 or 0.1 < np.sqrt((values**2).mean()) < 5, name
        assert np.abs(values).max() < 40, name


def test_writes_the_file(tmp_path, capsys):
    assert main(["autoencoder", "--out", str(tmp_path / "a.onnx"), "--seed", "3"]) == 0
    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"), full_check=True)
    assert str(tmp_path / "a.onnx") in capsys.readouterr().out
