"""Every N:M pattern on machines that are built for several: all engines, and the bytes that a pattern takes."""

import json

import numpy as np
import onnx
import pytest
from four_engines import EIGHT, SPARSE, check, machine
from onnx import TensorProto, helper, numpy_helper

from sateen.errors import ConfigError
from sateen.formats import parse_sparsity
from sateen.machine.config import DATAFLOWS, WEIGHT_STATIONARY

SIXTEEN = machine(
    "e3m2", "e3m2", rows=4, cols=8, lanes=1, group=16, patterns=(*EIGHT, "2:16"), dataflows=DATAFLOWS
)
SPLIT = SPARSE.replace(name="tiny-split", split_groups=True, patterns=("dense", "1:2", "2:4", "1:4"))
MACHINES = {8: SPARSE, 16: SIXTEEN, "split": SPLIT}
"""An index word is half a beat, a beat, and half a beat."""
SAMPLES = np.random.default_rng(1).normal(0, 1, (4, 5, 6, 5)).astype(np.float32)


def network(seed: int) -> onnx.ModelProto:
    """Three convolutions and two matrix products; the channels fill a group, or do not."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    x, channels = "x", 5

    def layer(op: str, outputs: int, *shape: int, **attributes: object) -> None:
        nonlocal x, channels
        fan = int(np.prod((channels, *shape)))
        w = rng.normal(0, fan**-0.5, (outputs, channels, *shape)).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"w{len(weights)}"))
        nodes.append(helper.make_node(op, [x, weights[-1].name], [f"y{len(nodes)}"], **attributes))
        nodes.append(helper.make_node("Relu", nodes[-1].output, [f"y{len(nodes)}"]))
        x, channels = nodes[-1].output[0], outputs

    layer("Conv", int(rng.integers(16, 50)), 1, 1)
    layer("Conv", int(rng.integers(16, 50)), 3, 3, pads=[1, 1, 1, 1])
    layer("Conv", 48, 2, 3, strides=[2, 2])
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"]))
    x = "flat"
    layer("Gemm", int(rng.integers(16, 40)), transB=1)
    layer("Gemm", 7, transB=1)
    graph = helper.make_graph(
        nodes,
        "patterns",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *SAMPLES.shape[1:]])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def sparse_layers(folder) -> list[dict]:
    layers = json.loads((folder / "build" / "schedule.json").read_text())["layers"]
    return [x for x in layers if x["sparsity"] != "dense"]


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize(
    "group, pattern",
    [
        *((8, p) for p in EIGHT),
        *((16, p) for p in ("1:2", "4:8", "1:8", "2:16")),
        *(("split", p) for p in SPLIT.patterns),
    ],
)
def test_all_engines_are_equal(group, pattern, tmp_path):
    """Each pattern with memory of another speed, in either dataflow, on one RTL for all patterns of a machine."""
    seed = (3 if group == "split" else 10 * group) + MACHINES[group].patterns.index(pattern)
    memory = {"latency": 1 + seed, "interval": 1 + seed % 4}
    dataflow = ("auto", *DATAFLOWS)[seed % 3]
    check(network(seed), SAMPLES, MACHINES[group], tmp_path, sparsity=pattern, dataflow=dataflow, **memory)
    layers = sparse_layers(tmp_path)
    assert {x["sparsity"] for x in layers} == {pattern} - {"dense"}
    # A pass of two lanes holds 1:4 of a group of 8, so that is how 1:8 is kept.
    index_bits = 2 if (group, pattern) == (8, "1:8") else parse_sparsity(pattern).index_bits
    for layer in layers:
        weights = layer["weights"]
        exact = weights["values_bytes"] * index_bits / MACHINES[group].weight.bits
        assert weights["index_bytes"] >= exact
        if (
            layer["dataflow"] == WEIGHT_STATIONARY
        ):  # others leave out groups, and are filled up to whole blocks
            assert weights["index_bytes"] == exact


def test_the_smallest_choice_of_a_lane_limits_patterns():
    with pytest.raises(ConfigError, match=r"group = 8.*a multiple of 16, for 2:8 of each lane of patterns"):
        SPLIT.replace(patterns=("dense", "2:8"))
    with pytest.raises(ConfigError, match=r"split_groups = True.*false with one lane"):
        SIXTEEN.replace(split_groups=True)


@pytest.mark.parametrize("group", MACHINES)
def test_pattern_that_the_machine_lacks(group, tmp_path):
    config = MACHINES[group].replace(patterns=("dense", "2:4"))
    message = "sparsity 2:16: configuration 'tiny-.*' is built for dense, 2:4; .* add the pattern"
    with pytest.raises(ConfigError, match=message):
        check(network(0), SAMPLES, config, tmp_path, rtl=False, sparsity="2:16")
    assert not (tmp_path / "build").exists()
