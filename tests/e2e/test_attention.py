"""Products of two computed tensors in all four engines: heads, windows, plain matrices, on chip and through memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from four_engines import check, machine

import sateen
from sateen.compiler.export import run_file
from sateen.errors import ConfigError, DataError
from sateen.machine.presets import preset

sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))
from attention_nets import NETS, fused, matrices
from onnx_nets import Net

CIFAR_VIT = Path(__file__).parents[2] / "models/cifar_vit.onnx"
TINY = machine("int8", "int8", computed_weights=True, softmax=True)
TALL = machine(
    "e4m3", "e4m3", rows=4, lanes=1, group=1, computed_weights=True, softmax=True, transpose_words=4
)

W4A8 = machine("int4", "int8", computed_weights=True, softmax=True)

OTHERS = {
    "passes": TINY.replace(rows=2, cols=4, lanes=1, group=2, transpose_words=2),
    "short weights": TINY.replace(weight_depth=8),
    "few accumulators": TINY.replace(acc_depth=16),
    "through memory": TINY.replace(act_banks=2, act_bank_depth=64),
    "both dataflows": TINY.replace(dataflows=("weight_stationary", "output_stationary")),
    "wide words": TINY.replace(rows=4, cols=4, lanes=2, group=4, transpose_words=1),
    "w5a8": machine("int5", "int8", computed_weights=True, softmax=True, weight_depth=16),
    "w3a6, passes": machine(
        "int3",
        "int6",
        rows=2,
        cols=4,
        lanes=1,
        group=2,
        transpose_words=2,
        computed_weights=True,
        softmax=True,
    ),
    "int4": machine("int4", "int4", computed_weights=True, softmax=True),
    "e5m2": machine("e5m2", "e5m2", computed_weights=True, softmax=True).replace(acc_bits=80),
}


def samples(net, batch=4):
    rng = np.random.default_rng(3)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim][1:] for i in net.inputs}
    return {name: rng.normal(0, 1, (batch, *shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.rtl
@pytest.mark.parametrize(
    ("network", "config"),
    [
        ("fused", TINY),
        ("windows", TINY),
        ("causal", TINY),
        ("relative", TINY),
        ("biased", TINY),
        ("apart", TALL),
        ("biased", TALL),
        ("fused", W4A8),
        ("windows", W4A8),
        ("biased", W4A8),
        ("matrices", W4A8),
    ],
)
def test_attention_in_rtl(network, config, tmp_path):
    net = NETS[network]()
    check(net.model(), samples(net), config, tmp_path)


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_vision_transformer_whole(weights, tmp_path):
    """Nothing is on the host; factors are two digits where weights are narrower."""
    config = preset("mac256").replace(transpose_words=2, weight_format=weights)
    x = np.random.default_rng(0).uniform(0, 1, (8, 3, 32, 32)).astype(np.float32)
    found = check(onnx.load(CIFAR_VIT), x, config, tmp_path, batch=1)
    assert found["rtl"].cycles < 27_000


@pytest.mark.parametrize("network", NETS)
@pytest.mark.parametrize("name", OTHERS)
def test_attention_on_other_machines(network, name, tmp_path):
    tokens = {"tokens": 9 if name == "through memory" else 19} if network in ("fused", "multihead") else {}
    net = NETS[network](**tokens)
    check(net.model(), samples(net), OTHERS[name], tmp_path, rtl=False)


@pytest.mark.parametrize("config", [TINY, W4A8], ids=["int8", "w4a8"])
@pytest.mark.parametrize("network", ["fused", "windows", "biased", "matrices"])
def test_the_export_says_the_same(network, config, tmp_path):
    """ONNX Runtime on the exported model gives what the reference does, but for float32's rounding."""
    net = NETS[network](**({} if network == "matrices" else {"row": "Relu"}))
    given = samples(net)
    check(net.model(), given, config, tmp_path, rtl=False)
    one = {k: v[:1] for k, v in given.items()}
    found = run_file(onnx.load(tmp_path / "build/model.onnx"), one)
    for name, y in sateen.run(tmp_path / "build", one, "reference").outputs.items():
        np.testing.assert_allclose(found[name], y, atol=np.abs(y).max() / 100)


def compile_on(config, net, folder):
    onnx.save(net.model(), folder / "model.onnx")
    sateen.compile(folder / "model.onnx", folder / "build", calibration=samples(net), config=config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            machine("int8", "int8"),
            r"computed_weights = false, and MatMul 'MatMul\d+' of model 'net' needs the unit",
        ),
        (
            machine("int3", "int8"),
            "weights: weight_format = int3 must be activation_format = int8, or a signed integer of at least half",
        ),
        (machine("e2m1", "e4m3"), "becomes weights: weight_format = e2m1 must be activation_format = e4m3$"),
    ],
)
def test_a_machine_that_cannot(config, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        compile_on(config, fused(row="Relu"), tmp_path)


def test_a_file_that_has_more_than_two_digits(tmp_path):
    """It rounds to int8, of which int4 digits hold no code above 119."""
    net = Net()
    x, y = (
        net("DequantizeLinear", net("QuantizeLinear", net.input(1, 4, 4, name=n), *scale), *scale)
        for n in "xy"
        for scale in [(net.constant(np.float32(0.05)), net.constant(np.int8(0)))]
    )
    onnx.save(net.output(net("MatMul", x, y)).model(), tmp_path / "model.onnx")
    sateen.compile(tmp_path / "model.onnx", tmp_path / "build", config=TINY)
    says = (
        r"MatMul '\w+': the file rounds its operand '\w+' to codes up to 127, and two digits of int4 hold 119"
    )
    with pytest.raises(DataError, match=says):
        sateen.compile(tmp_path / "model.onnx", tmp_path / "build", config=W4A8)
    five = machine("int5", "int8", computed_weights=True)
    sateen.compile(tmp_path / "model.onnx", tmp_path / "build", config=five)


def test_a_format_of_one_sign(tmp_path):
    config = machine("uint8", "uint8", computed_weights=True, softmax=True)
    with pytest.raises(
        DataError, match="a computed factor has no zero point, without which uint8 has one sign"
    ):
        compile_on(config, matrices(m=12, n=12, k=4), tmp_path)


def test_a_factor_larger_than_the_buffer(tmp_path):
    config = TINY.replace(act_banks=2, act_bank_depth=16)
    with pytest.raises(
        ConfigError, match=r"MatMul '\w+': one output row takes \d+ words of the activation buffer"
    ):
        compile_on(config, matrices(m=12, n=12, k=4), tmp_path)
