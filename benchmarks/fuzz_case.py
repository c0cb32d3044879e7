"""What the fuzzer tries: a network, a machine, how they are compiled, and the memory's timing."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from layout_graphs import layout_graph

from sateen.compiler.importer import import_model
from sateen.errors import ConfigError
from sateen.formats.catalog import all_formats
from sateen.machine.config import DATAFLOWS, WEIGHT_STATIONARY, AcceleratorConfig
from sateen.machine.isa import LIMITS
from sateen.models.random_network import random_network

NETWORK, LAYOUT = KINDS = ("network", "layout")
"""Of `sateen.models.random_network`, and of layout_graphs.py, which has every order of dimensions."""
PATTERNS = ("1:2", "2:4", "4:8", "1:4", "2:8", "1:8", "2:16")
COMMON = ("int8", "uint8", "int4", "e4m3fn", "e5m2", "e3m2", "e2m1")
ALONE = 0.05
"""Share of the cases that are generated for their network, and so share no machine."""
METHODS = ("magnitude", "wanda", "sparsegpt")


@dataclass(frozen=True, slots=True)
class Case:
    """`spread` is the deviation of the inputs, whose values `seed` draws; `rtl` whether the machine is simulated."""

    seed: int
    config: AcceleratorConfig
    kind: str = NETWORK
    sparsity: str = "dense"
    method: str = "magnitude"
    dataflow: str = "auto"
    ptq: str = "fast"
    power_of_two: bool = False
    spread: float = 1.0
    samples: int = 4
    batch: int = 2
    latency: int = 32
    interval: int = 1
    rtl: bool = False

    def inputs(self, model: onnx.ModelProto) -> dict[str, np.ndarray]:
        """`samples` of each graph input; the first `batch` of them are run. ModelError if it cannot be imported."""
        rng = np.random.default_rng([self.seed, 1])
        if self.kind == LAYOUT:  # the batch may be anywhere
            shapes = {p.name: p.shape for p in import_model(model).inputs}
        else:
            shapes = {i.name: _dims(i)[1:] for i in model.graph.input}
        return {
            name: (self.spread * rng.standard_normal((self.samples, *shape))).astype(np.float32)
            for name, shape in shapes.items()
        }

    def to_json(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"config": self.config.to_dict()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Case:
        return cls(**(values | {"config": AcceleratorConfig.from_dict(values["config"])}))


def _dims(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in info.type.tensor_type.shape.dim)


def save(folder: Path, case: Case, model: onnx.ModelProto, text: str) -> None:
    """A folder with model.onnx, config.toml, inputs.npz and case.json, which `load` reads, and what fails."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "inputs.npz", **case.inputs(model))
    values = case.config.to_dict().items()
    (folder / "config.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values))
    (folder / "case.json").write_text(json.dumps(case.to_json(), indent=1) + "\n")
    (folder / "failure.txt").write_text(text + "\n")


def load(folder: Path) -> tuple[Case, onnx.ModelProto]:
    """A case that was saved, with its model, which may have been shrunk."""
    return Case.from_json(json.loads((folder / "case.json").read_text())), onnx.load(folder / "model.onnx")


# -- chance ------------------------------------------------------------------------------------------


def draw(seed: int, machines: int, rtl: float, kind: str = NETWORK) -> tuple[Case, onnx.ModelProto]:
    """Case `seed`. `machines` cases one after another have the same machine; a share `rtl` of the machines is built."""
    group = np.random.default_rng([seed // machines, 2])
    simulated = group.random() < rtl
    config = random_machine(group)
    rng = np.random.default_rng([seed, 3])
    if rng.random() < ALONE:
        config = config.replace(specialize=True, narrow=bool(rng.random() < 0.7))
        simulated = simulated and rng.random() < 0.3
    sparse = [p for p in config.patterns if p != "dense"]
    balanced = bool(rng.random() < 0.05)
    case = Case(
        seed,
        config,
        kind,
        sparsity=str(rng.choice(sparse)) if sparse and rng.random() < 0.6 else "dense",
        method=str(rng.choice(METHODS)),
        dataflow=str(rng.choice(["auto", *config.dataflows])),
        ptq="balanced" if balanced else "fast",
        power_of_two=bool(rng.random() < 0.15),
        spread=float(rng.choice([1.0, 1.0, 1.0, 1e-6, 1e-2, 30.0, 1e4])),
        samples=int(rng.integers(1, 6)) + 16 * balanced,
        batch=1 if rng.random() < 0.7 else 2,
        latency=int(rng.choice([1, 2, 5, int(rng.integers(1, 40)), 200])),
        interval=int(rng.choice([1, 1, 2, int(rng.integers(1, 9))])),
        rtl=bool(simulated),
    )
    case = dataclasses.replace(case, batch=min(case.batch, case.samples))
    if kind == LAYOUT:
        return case, layout_graph(np.random.default_rng(seed))
    return case, random_network(seed, unsigned=config.weight.min_fixed >= 0)


def random_machine(rng: np.random.Generator) -> AcceleratorConfig:
    """Any legal machine, most often a small one with small buffers."""
    while True:
        try:
            return AcceleratorConfig(**_fields(rng))
        except ConfigError:
            continue


def _fields(rng: np.random.Generator) -> dict[str, Any]:
    """Values that each may be legal, together often enough."""

    def power(low: int, high: int) -> int:
        return 1 << int(rng.integers(low, high + 1))

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    names = [f.name for f in all_formats()] if chance(0.6) else list(COMMON)
    weight, activation = (str(rng.choice(names)) for _ in range(2))
    rows, lanes = power(0, 2), power(0, 2)
    group = lanes * power(0, 3)
    elements = rows * group
    cols = min(power(0, 4), elements)
    vector_lanes = min(power(0, 3), cols)
    patterns = [p for p in PATTERNS if group > lanes and group % int(p.split(":")[1]) == 0 and chance(0.6)]
    bus = 32 << int(rng.integers(0, 5))
    tile = rows * group // lanes
    narrow: dict[str, int] = {}
    if chance(0.3):  # a machine that counts less far, but for most of these networks far enough
        least = {"plane_bits": 6, "position_bits": 8, "kernel_bits": 3, "channel_bits": 8, "stride_bits": 2,
                 "dilation_bits": 2, "memory_bits": 22, "word_bits": 14, "token_bits": 1}  # fmt: skip
        narrow = {name: int(rng.integers(least[name], high + 1)) for name, _, high in LIMITS if chance(0.4)}
    banks = 2 if chance(0.4) else power(1, 4)
    wide = max(f.fixed_bits for f in all_formats() if f.name in (weight, activation)) > 18
    return {
        "name": "fuzz", "rows": rows, "cols": cols, "lanes": lanes, "group": group,
        "patterns": ("dense", *patterns),
        "dataflows": DATAFLOWS if chance(0.6) else (WEIGHT_STATIONARY,),
        "weight_format": weight, "activation_format": activation,
        "acc_bits": 127 if wide else 64,
        "multiplier": "shift" if wide or chance(0.15) else "fixed",
        "act_banks": banks,
        "act_bank_depth": max(2, (power(4, 8) if chance(0.1) else power(11, 15)) // (banks * elements)),
        "weight_depth": max(2 * tile, power(1, 5) * tile) if chance(0.6) else power(7, 11),
        "acc_depth": power(4, 5) if chance(0.6) else power(6, 9),
        "parameter_depth": max(2 * cols // vector_lanes, power(0, 6)),
        "vector_lanes": vector_lanes,
        "bus_bits": bus,
        "queue_depth": power(0, 4),
        "burst_beats": min(power(0, 6), 4096 * 8 // bus),
        "outstanding": int(rng.integers(1, 9)),
        "specialize": False,
        "counters": not chance(0.1),
        **narrow,
    }  # fmt: skip
