"""Networks with softmax and normalization inside, in all four engines, on one machine for each pair of formats."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from four_engines import check, machine
from onnx import TensorProto, helper, numpy_helper

import sateen
from sateen.errors import ConfigError
from sateen.machine.config import AcceleratorConfig

MACHINES = {
    "int8": machine("int8", "int8", softmax=True, normalize=True),
    "e4m3": machine("e4m3", "e4m3", softmax=True, normalize=True),
}


class Nodes:
    """ONNX nodes one after another."""

    def __init__(self, *shape: int) -> None:
        self.rng = np.random.default_rng(0)
        self.shape, self.nodes, self.constants = shape, [], []

    def constant(self, values: object, dtype: type = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def random(self, *shape: int, scale: float = 0.5, mean: float = 0.0) -> str:
        return self.constant(self.rng.normal(mean, scale, shape))

    def __call__(self, op: str, *inputs: str, **attributes: object) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, list(inputs), [out], name=f"{op}{len(self.nodes)}", **attributes)
        )
        return out

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        return self("Add", self("MatMul", x, self.random(inputs, outputs)), self.random(outputs))

    def model(self, *outputs: str, opset: int = 21) -> onnx.ModelProto:
        ports = [[helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]]
        ports.append([helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs])
        graph = helper.make_graph(self.nodes, "rows", *ports, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def softmax_net() -> onnx.ModelProto:
    """Between products, of channels that do not fill their words, and over columns."""
    n = Nodes(1, 5, 6)
    scores = n("Softmax", n.linear("x", 6, 7), axis=-1)
    return n.model(n.linear(scores, 7, 4))


def log_softmax_net() -> onnx.ModelProto:
    n = Nodes(1, 5, 6)
    return n.model(n.linear(n("LogSoftmax", n.linear("x", 6, 7), axis=-1), 7, 4))


def layer_net() -> onnx.ModelProto:
    n = Nodes(1, 5, 6)
    y = n("LayerNormalization", n.linear("x", 6, 10), n.random(10, mean=1), n.random(10), axis=-1)
    z = n("Add", y, n.linear(y, 10, 10))  # two readers: the factors stay where they are
    return n.model(n.linear(n("RMSNormalization", z, n.random(10, mean=1), axis=-1), 10, 3), opset=23)


def group_net() -> onnx.ModelProto:
    """Groups that share words, and groups that do not; each channel by itself."""
    n = Nodes(1, 3, 5, 4)
    y = n("Conv", "x", n.random(8, 3, 3, 3), pads=[1] * 4)
    y = n("Relu", n("GroupNormalization", y, n.random(8, mean=1), n.random(8), num_groups=4))
    y = n("GroupNormalization", n("Conv", y, n.random(8, 8, 1, 1)), n.random(8), n.random(8), num_groups=2)
    y = n("Conv", y, n.random(6, 8, 1, 1))
    y = n("InstanceNormalization", y, n.random(6, mean=1), n.random(6))
    return n.model(n("Conv", y, n.random(3, 6, 1, 1)))


NETS = {"softmax": softmax_net, "log softmax": log_softmax_net, "layer": layer_net, "group": group_net}


@pytest.mark.parametrize("formats", MACHINES)
@pytest.mark.parametrize("net", NETS)
def test_four_engines(net, formats, tmp_path):
    model = NETS[net]()
    rng = np.random.default_rng(1)
    samples = rng.normal(
        size=(6, *[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:])
    )
    samples = samples.astype(np.float32)
    found = check(model, samples, MACHINES[formats], tmp_path)
    if net != "layer":  # which ONNX Runtime of the lock file does not know
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        wanted = np.concatenate([session.run(None, {"x": s[None]})[0] for s in samples[:2]])
        (got,) = found["reference"].outputs.values()
        assert np.sqrt(np.mean((got - wanted) ** 2)) < (0.1 if formats == "int8" else 0.2) * np.sqrt(
            np.mean(wanted**2)
        )


def test_streamed_through_memory(tmp_path):
    config: AcceleratorConfig = MACHINES["int8"]
    samples = np.random.default_rng(2).normal(size=(4, 5, 6)).astype(np.float32)
    check(layer_net(), samples, config, tmp_path, latency=5, interval=2)


REFUSED = {
    "no unit": (
        softmax_net,
        {"softmax": False},
        "softmax = false, and Softmax 'Softmax2' of model 'rows' needs",
    ),
    "parameters": (
        layer_net,
        {"parameter_depth": 4},
        "'LayerNormalization2': 10 channels have factors of their own",
    ),
    "plane": (
        group_net,
        {"act_banks": 2, "act_bank_depth": 32},
        "its statistics are those of all 5 x 4 pixels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    build, changes, words = REFUSED[name]
    onnx.save(build(), tmp_path / "model.onnx")
    shape = [d.dim_value for d in build().graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    with pytest.raises(ConfigError, match=words) as e:
        sateen.compile(
            tmp_path / "model.onnx", tmp_path / "build", calibration={"x": x},
            config=MACHINES["int8"].replace(**changes),
        )  # fmt: skip
    assert "\n" not in str(e.value)
