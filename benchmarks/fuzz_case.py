"""What the fuzzer tries: a network, a machine, how they are compiled, and the memory's timing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from layout_graphs import layout_graph

from sateen.compiler.importer import import_model
from sateen.errors import ConfigError
from sateen.formats import parse_format
from sateen.formats.catalog import all_formats
from sateen.machine.config import DATAFLOWS, WEIGHT_STATIONARY, AcceleratorConfig
from sateen.machine.settings import powers, rule
from sateen.machine.space import random_machine, search_space
from sateen.models.random_computed import random_computed_network
from sateen.models.random_network import random_network

NETWORK, LAYOUT, COMPUTED = KINDS = ("network", "layout", "computed")
"""Of `sateen.models.random_network`, of layout_graphs.py, which has every order of dimensions, and of
`sateen.models.random_computed`, on machines that have every option."""
OPTIONS = ("product", "softmax", "normalize", "depthwise", "computed_weights")
COMMON = ("int8", "uint8", "int4", "e4m3fn", "e5m2", "e3m2", "e2m1")
ALONE = 0.05
"""Share of the cases that are generated for their network, and so share no machine."""
METHODS = ("magnitude", "wanda", "sparsegpt")
ENOUGH = {
    "plane_bits": 6, "position_bits": 8, "kernel_bits": 3, "channel_bits": 8, "stride_bits": 2, "dilation_bits": 2,
    "memory_bits": 22, "word_bits": 14, "token_bits": 1,
}  # fmt: skip
"""How far a narrow machine counts at least."""


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
    config = fuzz_machine(group)
    if kind == COMPUTED:
        config = with_options(config, group)
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
    if kind == COMPUTED:
        return case, random_computed_network(seed)
    return case, random_network(seed, unsigned=config.weight.min_fixed >= 0)


def with_options(config: AcceleratorConfig, rng: np.random.Generator) -> AcceleratorConfig:
    """The machine with all that it can have; most often weights have the format of activations."""
    with contextlib.suppress(ConfigError):
        if rng.random() < 0.7:
            config = config.replace(weight_format=config.activation_format)
    for option in ("residual", *OPTIONS):
        with contextlib.suppress(ConfigError):
            config = config.replace(**{option: True})
    return config


def fuzz_machine(rng: np.random.Generator) -> AcceleratorConfig:
    """Any legal machine, most often a small one with small buffers."""

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    names = [f.name for f in all_formats()] if chance(0.6) else list(COMMON)
    weight, activation = (str(rng.choice(names)) for _ in range(2))
    wide = max(parse_format(name).fixed_bits for name in (weight, activation)) > 18
    words = (1 << 4, 1 << 8) if chance(0.1) else (1 << 11, 1 << 15)
    few_tiles = chance(0.6)

    @rule("group")
    def eight_passes(group: int, lanes: int) -> str | None:
        return None if group <= 8 * lanes else "at most 8*lanes"

    @rule("act_bank_depth")
    def small_buffer(act_bank_depth: int, act_banks: int, rows: int, group: int) -> str | None:
        """Of about so many activations, but no bank of less than two words."""
        held = act_banks * act_bank_depth * rows * group
        fits = (
            act_bank_depth == 2 if held >= words[0] and act_bank_depth == 2 else words[0] <= held <= words[1]
        )
        return None if fits else f"{words[0]} to {words[1]} activations"

    @rule("weight_depth")
    def small_weights(weight_depth: int, rows: int, group: int, lanes: int) -> str | None:
        least, most = (1, 32 * rows * group // lanes) if few_tiles else (1 << 7, 1 << 11)
        return None if least <= weight_depth <= most else f"{least} to {most}"

    space = {
        "rows": powers(1, 4), "cols": powers(1, 16), "lanes": powers(1, 4), "group": powers(1, 32),
        "patterns": search_space()["patterns"],
        "dataflows": (DATAFLOWS,) * 3 + ((WEIGHT_STATIONARY,),) * 2,
        "weight_format": (weight,), "activation_format": (activation,),
        "acc_bits": (127 if wide else 64,),
        "multiplier": ("shift",) if wide or chance(0.15) else ("fixed",),
        "act_banks": (2,) if chance(0.4) else powers(2, 16),
        "act_bank_depth": powers(2, 1 << 15), "weight_depth": powers(2, 1 << 12),
        "acc_depth": powers(16, 32) if chance(0.6) else powers(64, 512),
        "parameter_depth": powers(2, 64), "vector_lanes": powers(1, 8),
        "bus_bits": (32, 64, 128, 256, 512), "queue_depth": powers(1, 16), "burst_beats": powers(1, 64),
        "outstanding": range(1, 9), "specialize": (False,), "counters": (False,) + (True,) * 9,
        "depthwise": (False, True), "memory_registers": (False, True),
    }  # fmt: skip
    if chance(0.3):  # a machine that counts less far, but for most of these networks far enough
        counted = search_space(fitted=True)
        space |= {name: [n for n in counted[name] if n >= low] for name, low in ENOUGH.items() if chance(0.4)}
    draw = random.Random(int(rng.integers(1 << 62)))
    return random_machine(
        draw, space, base=AcceleratorConfig(name="fuzz"), rules=(eight_passes, small_buffer, small_weights)
    )
