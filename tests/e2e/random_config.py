"""Legal configurations: random ones of small machines, and every field's extremes one at a time; networks for them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from sateen.errors import ConfigError
from sateen.formats import parse_sparsity
from sateen.machine.config import DATAFLOWS, AcceleratorConfig
from sateen.machine.isa import LIMITS
from sateen.machine.settings import powers, rule
from sateen.machine.space import random_machine, search_space
from sateen.models.random_network import Scale, random_network

FORMATS = (
    "int1", "uint1", "int2", "int2n", "uint2", "int3", "int4", "int5n", "uint7", "int8", "uint8",
    "e1m1", "e2m0", "e2m1", "e3m0", "e3m2", "e4m3", "e4m3fn", "e5m0", "e5m2", "e1m6", "e3m2b0",
)  # fmt: skip

TINY = Scale(blocks=3, channels=7, side=4, macs=3_000)
"""What runs in the RTL in a second."""
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


def random_config(rng: random.Random, most: int = 32, *, roomy: bool = False) -> AcceleratorConfig:
    """Any legal machine of at most `most` multipliers; sizes that emission time grows with are small.

    A `roomy` one has what most small networks need.
    """

    @rule("rows")
    def few_multipliers(rows: int, cols: int, lanes: int) -> str | None:
        return None if rows * cols * lanes <= most else f"{most} multipliers at most"

    @rule("group")
    def short_word(rows: int, group: int) -> str | None:
        return None if rows * group <= 256 else "256 elements at most"

    @rule("weight_depth")
    def few_tiles(weight_depth: int, rows: int, group: int, lanes: int) -> str | None:
        return None if weight_depth <= 32 * rows * group // lanes else "32 tiles at most"

    full = roomy or rng.random() < 0.5  # what any program may ask for
    space = search_space(fitted=not full) | {
        "weight_format": ROOMY_WEIGHTS if roomy else FORMATS,
        "activation_format": FORMATS,
        "acc_bits": range(80, 128) if roomy else range(8, 128),
        "act_bank_depth": powers(128 if roomy else 2, 1 << 10),
        "acc_depth": powers(16, 256),
        "parameter_depth": powers(1, 1 << 10),
        "queue_depth": powers(1, 8),
    }
    if roomy:
        space |= {"table": (True,)}
    return random_machine(
        rng, space, base=AcceleratorConfig(name="random"), rules=(few_multipliers, short_word, few_tiles)
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
    "depthwise": (False, True),
    "counters": (False, True),
    "memory_registers": (False, True),
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
    """A network of few pixels, one to three blocks and one input, and samples."""
    while True:
        model = random_network(rng.randint(0, 1 << 30), TINY)
        if len(model.graph.input) == 1:
            break
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    numbers = np.random.default_rng(rng.randint(0, 1 << 30))
    return model, numbers.normal(0, 1, (8, *shape)).astype(np.float32)
