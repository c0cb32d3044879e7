"""The generated ResNet-18 is the standard one."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest

from sateen.models.resnet18 import MACS, resnet18


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return resnet18(seed=0)


def test_multiplications_and_parameters(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    weights = {i.name: tuple(i.dims) for i in model.graph.initializer}
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in [*inferred.graph.value_info, *inferred.graph.output]
    }
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(layers) == 21
    macs = sum(math.prod(shapes[n.output[0]][2:]) * math.prod(weights[n.input[1]]) for n in layers)
    assert macs == MACS == 1_814_073_344
    # torchvision's 11 689 512 parameters; folding leaves one per channel of two (weight and bias)
    channels = sum(weights[n.input[2]][0] for n in layers if n.op_type == "Conv")
    assert sum(math.prod(s) for s in weights.values()) == 11_689_512 - channels
    sizes = [shapes[f"layer{i}.1.relu2"] for i in (1, 2, 3, 4)]
    assert sizes == [(1, 64, 56, 56), (1, 128, 28, 28), (1, 256, 14, 14), (1, 512, 7, 7)]


def test_is_valid_and_reproducible(model):
    onnx.checker.check_model(model, full_check=True)
    assert resnet18(0).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    a, b = (onnx.numpy_helper.to_array(m.graph.initializer[0]) for m in (model, resnet18(1)))
    assert a.shape == b.shape and not np.array_equal(a, b)


def test_activations_stay_sane(model):
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    names = [n.output[0] for n in model.graph.node if n.op_type in ("Relu", "Add")]
    seen.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names
    )
    session = onnxruntime.InferenceSession(seen.SerializeToString())
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    logits, *activations = session.run(["logits", *names], {"input": x})
    assert logits.shape == (1, 1000) and 0.5 < logits.std() < 10
    for name, a in zip(names, activations, strict=True):
        assert 0.3 < np.sqrt((a**2).mean()) < 6, name
        assert np.abs(a).max() < 40, name
