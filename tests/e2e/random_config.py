"""Legal configurations: random ones of small machines, and every field's extremes one at a time; networks for them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sateen.errors import ConfigError
from sateen.formats import parse_sparsity
from sateen.formats.sparsity import PATTERNS
from sateen.machine.config import DATAFLOWS, AcceleratorConfig
from sateen.machine.isa import LIMITS

FORMATS = (
    "int1", "uint1", "int2", "int2n", "uint2", "int3", "int4", "int5n", "uint7", "int8", "uint8",
    "e1m1", "e2m0", "e2m1", "e3m0", "e3m2", "e4m3", "e4m3fn", "e5m0", "e5m2", "e1m6", "e3m2b0",
)  # fmt: skip

ROOMY_WEIGHTS = tuple(f for f in FORMATS if not f.startswith("u") and f != "int1")

SMALL = AcceleratorConfig(
    name="small",
    rows=2,
    cols=2,
    lanes=1,
    group=2,
    patterns=("dense", "1:2"),
    dataflows=DATAFLOWS,
    act_banks=2,
    act_bank_depth=256,
    weight_depth=128,
    acc_depth=16,
    parameter_depth=8,
    vector_lanes=1,
    acc_bits=40,
    queue_depth=2,
    specialize=False,
)
"""What each field's extremes are tried on."""


def powers(low: int, high: int) -> list[int]:
    return [1 << i for i in range(low.bit_length() - 1, high.bit_length()) if low <= 1 << i <= high]


def random_config(rng: random.Random, most: int = 32, *, roomy: bool = False) -> AcceleratorConfig:
    """Any legal machine of at most `most` multipliers; sizes that emission time grows with are small.

    A `roomy` one has what most small networks need.
    """
    while True:
        rows, lanes = rng.choice(powers(1, 64)), rng.choice(powers(1, 16))
        group = lanes * rng.choice(powers(1, 16))
        columns = [c for c in powers(1, 256) if rows * group % c == 0 and rows * group // c <= 64]
        columns = [c for c in columns if rows * lanes * c <= most]
        if columns and rows * group <= 256:
            break
    cols = rng.choice(columns)
    vector_lanes = rng.choice(powers(1, cols))
    bus = rng.choice((32, 64, 128, 256, 512))
    fitting = [p for p in map(parse_sparsity, PATTERNS) if not p.dense and group > lanes and group % p.m == 0]
    patterns = ("dense", *(p.name for p in rng.sample(fitting, rng.randint(0, len(fitting)))))
    plane = rng.randint(1, 14)
    counts = {name: rng.randint(low, high) for name, low, high in LIMITS}
    full = roomy or rng.random() < 0.5
    if full:  # what any program may ask for
        counts, plane = {name: high for name, _, high in LIMITS}, 14
    counts |= {"plane_bits": plane, "position_bits": max(counts["position_bits"], plane + 1)}
    tile = 2 * rows * group // lanes
    return AcceleratorConfig(
        name="random",
        rows=rows,
        cols=cols,
        lanes=lanes,
        group=group,
        patterns=patterns,
        dataflows=rng.choice((DATAFLOWS, DATAFLOWS[:1])),
        weight_format=rng.choice(ROOMY_WEIGHTS if roomy else FORMATS),
        activation_format=rng.choice(FORMATS),
        acc_bits=rng.choice((rng.randint(80, 127), 127) if roomy else (8, 9, rng.randint(8, 127), 127)),
        multiplier=rng.choice(("fixed", "shift")),
        act_banks=rng.choice(powers(2, 16)),
        act_bank_depth=rng.choice(powers(128 if roomy else 2, 1 << 10)),
        weight_depth=tile * rng.choice(powers(1, 16)),
        acc_depth=rng.choice(powers(16, 256)),
        parameter_depth=max(1, 2 * cols // vector_lanes) * rng.choice(powers(1, 8)),
        vector_lanes=vector_lanes,
        table=roomy or rng.random() < 0.5,
        bus_bits=bus,
        queue_depth=rng.choice(powers(1, 8)),
        burst_beats=rng.choice(powers(1, min(256, 4096 * 8 // bus))),
        outstanding=rng.randint(1, 16),
        specialize=rng.random() < 0.5,
        narrow=rng.random() < 0.5,
        token_pairs=(1 << 16) - 1 if full else rng.randint(1, (1 << 16) - 1),
        residual=roomy or rng.random() < 0.7,
        counters=rng.random() < 0.5,
        **counts,
    )


EXTREMES: dict[str, tuple[Any, ...]] = {
    "rows": (1, 64),
    "cols": (1, 4),
    "lanes": (1, 2),
    "group": (1, 2, 4, 32),
    "patterns": (("dense",), ("dense", "1:2")),
    "dataflows": (DATAFLOWS[:1], DATAFLOWS),
    "weight_format": FORMATS,
    "activation_format": FORMATS,
    "acc_bits": (8, 127),
    "multiplier": ("fixed", "shift"),
    "act_banks": (2, 16),
    "act_bank_depth": (2, 1 << 22),
    "weight_depth": (8, 1 << 23),
    "acc_depth": (16, 1 << 14),
    "parameter_depth": (4, 1 << 15),
    "vector_lanes": (1, 2),
    "table": (False, True),
    "bus_bits": (32, 64, 128, 256, 512),
    "queue_depth": (1, 256),
    "burst_beats": (1, 256),
    "outstanding": (1, 16),
    "specialize": (False, True),
    "narrow": (False, True),
    "token_pairs": (1, (1 << 16) - 1),
    "residual": (False, True),
    "counters": (False, True),
} | {name: (low, high) for name, low, high in LIMITS}
"""Values of every field at the ends of what `SMALL` allows."""

SHAPES = (
    {"rows": 1, "cols": 1, "lanes": 1, "group": 1},
    {"rows": 64, "cols": 1, "lanes": 1, "group": 1},
    {"rows": 8, "cols": 256, "lanes": 1, "group": 32, "vector_lanes": 256},
    {"rows": 4, "cols": 1, "lanes": 16, "group": 16},
    {"rows": 1, "cols": 1, "lanes": 1, "group": 32},
    {"rows": 1, "cols": 1, "lanes": 2, "group": 64},
    {"rows": 1, "cols": 16, "lanes": 16, "group": 16, "vector_lanes": 16},
    {"rows": 16, "cols": 16, "lanes": 1, "group": 32, "vector_lanes": 1},
)
"""Arrays of extreme shapes."""


def fitted(base: AcceleratorConfig, **changes: Any) -> AcceleratorConfig:
    """`base` with the changes, and with them what has to follow: the smallest buffers and patterns that fit."""
    values = base.to_dict() | changes
    group, lanes = values["group"], values["lanes"]
    values["patterns"] = tuple(
        p for p in values["patterns"] if p == "dense" or (group > lanes and not group % parse_sparsity(p).m)
    )
    values["weight_depth"] = max(values["weight_depth"], 2 * values["rows"] * group // lanes)
    values["parameter_depth"] = max(values["parameter_depth"], 2 * values["cols"] // values["vector_lanes"])
    if "plane_bits" in changes:
        values["position_bits"] = max(values["position_bits"], values["plane_bits"] + 1)
    elif "position_bits" in changes:
        values["plane_bits"] = min(values["plane_bits"], values["position_bits"] - 1)
    if "bus_bits" not in changes:
        values["bus_bits"] = min(values["bus_bits"], 4096 * 8 // values["burst_beats"])
    values["burst_beats"] = min(values["burst_beats"], 4096 * 8 // values["bus_bits"])
    return AcceleratorConfig.from_dict({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()})


def extreme_configs() -> Iterator[tuple[str, AcceleratorConfig]]:
    """(what is extreme, configuration) of every field and array shape."""
    for field, values in EXTREMES.items():
        for value in values:
            try:
                config = fitted(SMALL, **{field: value})
            except ConfigError:
                if field in ("cols", "lanes", "group", "rows"):
                    continue  # not with the other three of SMALL
                raise
            yield f"{field} = {value!r}", config
    for shape in SHAPES:
        yield f"array {shape}", fitted(SMALL, **shape)


def tiny_network(rng: random.Random) -> tuple[onnx.ModelProto, np.ndarray]:
    """A network of few pixels and every kind of layer, one to four of them, and samples."""
    numbers = np.random.default_rng(rng.randint(0, 1 << 30))
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    c, h, w = rng.randint(1, 6), rng.randint(1, 4), rng.randint(1, 4)
    shape = (c, h, w)

    def constant(*size: int) -> str:
        scale = max(1, int(np.prod(size[1:]))) ** -0.5
        name = f"w{len(constants)}"
        constants.append(numpy_helper.from_array(numbers.normal(0, scale, size).astype(np.float32), name))
        return name

    def add(op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op.lower()}{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    x = "x"
    for _ in range(rng.randint(1, 3)):
        match rng.choice(("conv", "residual", "max", "average", "depthwise", "concat")):
            case "conv":
                outputs, k = rng.randint(1, 7), rng.choice((1, 3))
                x = add("Conv", x, constant(outputs, c, k, k), constant(outputs), pads=[k // 2] * 4)
                x, c = rng.choice((lambda y: add("Relu", y), lambda y: add("Sigmoid", y), str))(x), outputs
            case "residual":
                x = add("Add", add("Conv", x, constant(c, c, 1, 1)), x)
            case "depthwise":
                x = add("Conv", x, constant(c, 1, 3, 3), constant(c), pads=[1] * 4, group=c)
            case "concat":
                x = add("Concat", x, add("Conv", x, constant(3, c, 1, 1)), axis=1)
                c += 3
            case kind:
                op = "MaxPool" if kind == "max" else "AveragePool"
                x = add(op, x, kernel_shape=[min(2, h), min(2, w)])
                h, w = max(1, h - 1), max(1, w - 1)
    outputs = rng.randint(1, 5)
    x = add("Gemm", add("Flatten", x), constant(outputs, c * h * w), transB=1)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *shape])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, outputs])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model, numbers.normal(0, 1, (8, *shape)).astype(np.float32)
