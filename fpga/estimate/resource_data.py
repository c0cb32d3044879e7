"""The resource model's data: sampled configurations, their components synthesized one by one, some machines whole.

A component depends on few fields, so configurations share most of their components, and each text is synthesized
once. Syntheses are cached: an interrupted experiment goes on where it was, and a longer one adds to it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from sateen.errors import ConfigError
from sateen.formats import all_formats
from sateen.fpga.boards.devices import FAMILIES, Family
from sateen.fpga.estimate.resource_parts import PARTS, SLACK_FAMILIES, TOP, Part, Slack, rtlil
from sateen.fpga.flow.batch import synthesize_many
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.chip.verilog import emit_verilog
from sateen.hw.formats import circuits
from sateen.machine.config import DATAFLOWS, WEIGHT_STATIONARY, AcceleratorConfig

SEED = 20
WHOLE = "machine"
"""Name of the row of a machine that is synthesized as one, as `sateen cost` counts it."""
COUNTS = ("lut", "ff", "dsp", "bram", "carry")
FIELDS = ("configuration", "config", "family", "part", "instances", "text", *COUNTS)
"""Columns: the configuration's number and its fields as JSON, what was synthesized, how many of it the machine has,
the SHA-256 of its RTLIL or Verilog (12 digits), and the counts of one."""
FIRST_ARRAY = 5_000
"""Number of the first configuration of which only the array's components are synthesized."""
ARRAY_PARTS = tuple(PARTS[name] for name in ("element", "first_element", "edge"))
FIRST_DECODER = 8_000
"""Number of the first format's decoder."""
FIRST_ROW_UNIT = 9_000
"""Number of the first configuration of which only the unit for rows is synthesized."""
ROW_PARTS = (PARTS["row"],)
FIRST_LUT_UNIT = 9_500
"""Number of the first configuration of which only elements whose products are made in LUTs are synthesized."""
LUT_PARTS = (PARTS["first_lut_element"], PARTS["lut_element"])
FIRST_MACHINE = 10_000
"""Number of the first machine that is synthesized as one."""
ROW_UNITS = range(FIRST_ROW_UNIT, FIRST_LUT_UNIT)
LUT_UNITS = range(FIRST_LUT_UNIT, FIRST_MACHINE)
HELD_OUT = 4
"""One machine in so many is kept out of the fit altogether, picked by a hash of its fields; the components of the
others are not in the fit, either, as they are no configurations of `configurations`."""

FORMATS = (
    "int8", "int4", "e3m2", "int8", "int6", "e2m1", "e4m3", "int5", "int8", "e2m3", "int3", "e3m4", "uint8", "e5m2",
    "e4m3fn", "e3m0", "e3m1", "int7", "e2m5", "e4m1", "e3m3", "e5m1", "int4", "e2m2", "e2m4", "uint4",
)  # fmt: skip
NARROW = (
    {"plane_bits": 4, "position_bits": 5, "kernel_bits": 2, "channel_bits": 3, "stride_bits": 2, "dilation_bits": 1,
     "memory_bits": 17, "word_bits": 9, "token_bits": 2, "token_pairs": 0x4A52, "residual": False},
    {"plane_bits": 6, "position_bits": 7, "kernel_bits": 3, "channel_bits": 4, "stride_bits": 2, "dilation_bits": 2,
     "memory_bits": 20, "word_bits": 12, "token_bits": 3, "token_pairs": 0x4B56, "residual": True},
    {"plane_bits": 8, "position_bits": 10, "kernel_bits": 4, "channel_bits": 6, "stride_bits": 3, "dilation_bits": 3,
     "memory_bits": 26, "word_bits": 16, "token_bits": 4, "token_pairs": 0x6F7E, "residual": True},
)  # fmt: skip
"""As a digits network, ResNet8 and a larger one leave a narrow machine, about."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A configuration with its number in the sequence."""

    number: int
    config: AcceleratorConfig


def configurations(count: int) -> list[Sample]:
    """The first `count` of a fixed sequence.

    Each takes its array, its depths and its bus from three pools, which fill the space of their fields (Sobol's
    points, scrambled) and grow with the sequence, so that configurations share components.
    """
    samples: list[Sample] = []
    pools = {name: _pool(levels, 64 + count) for name, levels in _DRAWS.items()}
    attempt = 0
    while len(samples) < count:
        draw = random.Random(SEED + attempt)
        attempt += 1
        drawn: dict[str, Any] = {}
        for name, pool in pools.items():
            drawn |= pool[draw.randrange(10 + len(samples) // _SHARED[name])]
        config = _valid(drawn)
        if config is not None:
            samples.append(Sample(len(samples), config))
    return samples


def arrays(count: int) -> list[Sample]:
    """The first `count` of a fixed sequence in which every array is another: elements are many, small and unlike."""
    drawn = (_valid(dict(values)) for values in _pool(_DRAWS["array"], 8 * count + 64))
    found = [c for c in drawn if c is not None]
    return [Sample(FIRST_ARRAY + n, c) for n, c in enumerate(found[:count])]


def decoders() -> list[Sample]:
    """A configuration for each format whose decoder is more than wires, and each kind of operand."""
    formats = [f.name for f in all_formats() if circuits(f).sign_magnitude]
    kinds = [(name, multiplier) for name in formats for multiplier in ("fixed", "shift")]
    default = AcceleratorConfig(acc_bits=127)
    return [
        Sample(FIRST_DECODER + n, default.replace(activation_format=name, multiplier=multiplier))
        for n, (name, multiplier) in enumerate(kinds)
    ]


def row_units() -> list[Sample]:
    """Softmax, normalization and both with each of three formats in one lane; more lanes with one of them."""
    functions = ({"softmax": True, "normalize": True}, {"softmax": True}, {"normalize": True})
    found = []
    for f, (name, acc_bits) in enumerate((("int8", 32), ("e4m3", 48), ("int4", 20))):
        default = AcceleratorConfig(weight_format=name, activation_format=name, acc_bits=acc_bits)
        for n, lanes in enumerate((1, 4, 8)):
            for k, enabled in enumerate(functions):
                if lanes == 1 or k == (f + n) % len(functions):  # eight lanes take minutes
                    found.append(default.replace(cols=max(4, lanes), vector_lanes=lanes, **enabled))
    return [Sample(FIRST_ROW_UNIT + n, config) for n, config in enumerate(found)]


def lut_units() -> list[Sample]:
    """Elements with products in LUTs: formats, sums, lanes and choices, a few of each."""
    formats = (
        "int3",
        "int4",
        "int5",
        "int6",
        "int7",
        "int8",
        "uint4",
        "uint8",
        "e2m1",
        "e2m2",
        "e3m1",
        "e3m2",
    )
    fixed = [(a, a, "fixed") for a in formats] + [("uint8", "int4", "fixed"), ("int8", "int4", "fixed")]
    shifted = [(a, a, "shift") for a in ("e2m1", "e2m3", "e3m2", "e3m3", "e4m1", "e4m3", "e5m2")]
    found = []
    for n, (activation, weight, multiplier) in enumerate((*fixed, *shifted)):
        default = AcceleratorConfig(
            multipliers_in="lut", activation_format=activation, weight_format=weight, multiplier=multiplier
        )
        bits = default.activation.fixed_bits + default.weight.fixed_bits
        for lanes, growth in ((1, 8), (2, 12 + 4 * (n % 3))):
            group = lanes * (2 if n % 4 == 3 else 1)
            found.append(default.replace(lanes=lanes, group=group, acc_bits=min(bits + growth, 96)))
    return [Sample(FIRST_LUT_UNIT + n, config) for n, config in enumerate(found)]


def machines(count: int) -> list[Sample]:
    """The first `count` of a fixed sequence of small machines, to be synthesized as one; all fields differ."""
    levels = functools.reduce(lambda a, b: a | b, _DRAWS.values()) | _SMALL
    drawn = (_valid(values) for values in _pool(levels, 40 * count + 64))
    found = [c for c in drawn if c is not None and is_small(c)]
    return [Sample(FIRST_MACHINE + n, c) for n, c in enumerate(found[:count])]


def _pool(levels: dict[str, Sequence[Any]], size: int) -> list[dict[str, Any]]:
    """So many points of the fields of a group."""
    from scipy.stats import qmc

    # points of powers of two are balanced, and more of them begin with the same
    points = qmc.Sobol(len(levels), seed=SEED).random_base2((size - 1).bit_length())
    return [
        {f: v[min(len(v) - 1, int(x * len(v)))] for x, (f, v) in zip(point, levels.items(), strict=True)}
        for point in points.tolist()[:size]
    ]


def held_out(config: AcceleratorConfig) -> bool:
    """Whether a machine is kept out of the fit."""
    return int(hashlib.sha256(as_json(config).encode()).hexdigest(), 16) % HELD_OUT == 0


def as_json(config: AcceleratorConfig) -> str:
    """Fields that are not the default's, as text."""
    default = AcceleratorConfig().to_dict()
    return json.dumps({k: v for k, v in config.to_dict().items() if v != default[k] and k != "name"})


def from_json(text: str) -> AcceleratorConfig:
    return AcceleratorConfig.from_dict(json.loads(text))


def is_small(config: AcceleratorConfig) -> bool:
    """Whether the machine as one is synthesized in a minute or two."""
    return (
        config.multipliers <= 32
        and max(config.act_word_bits, config.weight_word_bits) <= 64
        and config.cols * config.acc_bits <= 160
    )


# -- sampling ----------------------------------------------------------------------------------------------

_DRAWS: dict[str, dict[str, Sequence[Any]]] = {
    "array": {
        "rows": (1, 2, 2, 4, 4, 8, 8, 16),
        "cols": (1, 2, 4, 4, 8, 8, 16, 32),
        "lanes": (1, 1, 2, 2, 4),
        "choices": (1, 1, 2, 4, 8),
        "patterns": (0, 1, 1, 2),
        "dataflows": ((WEIGHT_STATIONARY,), (WEIGHT_STATIONARY,), DATAFLOWS),
        "weight_format": FORMATS,
        "activation_format": (None, None, None, *FORMATS),
        "growth": (4, 8, 12, 32),
        "multiplier": ("fixed", "fixed", "shift"),
        "vector_lanes": (1, 1, 2, 2, 4, 8),
        "table": (True, False),
    },
    "depths": {
        "act_banks": (2, 4, 4, 8),
        "act_bank_depth": (256, 512, 1024, 2048, 4096, 8192),
        "weight_depth": (64, 256, 512, 1024, 2048, 4096),
        "acc_depth": (16, 32, 64, 128, 256, 512),
        "parameter_depth": (16, 32, 64, 128, 256, 512),
    },
    "bus": {
        "bus_bits": (32, 32, 64, 64, 128, 256),
        "queue_depth": (1, 2, 4, 4, 8, 8),
        "burst_beats": (8, 16, 16, 32, 64),
        "outstanding": (1, 2, 4, 8),
        "narrow": (None, None, *range(len(NARROW))),
        "counters": (True, True, True, False),
    },
}
_SMALL: dict[str, Sequence[Any]] = {
    "rows": (1, 2, 2, 4),
    "cols": (1, 2, 4, 4),
    "lanes": (1, 1, 2, 4),
    "choices": (1, 1, 2, 4),
    "vector_lanes": (1, 1, 2),
    "bus_bits": (32, 32, 64),
}
"""Of the machines that are synthesized as one."""
_SHARED = {"array": 3, "depths": 12, "bus": 12}
"""Configurations for each further entry of a pool."""
_PATTERNS = {2: ("1:2",), 4: ("2:4", "1:4"), 8: ("2:8", "1:8"), 16: ("2:16",)}


def _valid(drawn: dict[str, Any]) -> AcceleratorConfig | None:
    """The configuration that was drawn, if it is one, and of a size that the experiment takes."""
    drawn = {"narrow": None} | drawn
    group = drawn["lanes"] * drawn.pop("choices")
    patterns: tuple[str, ...] = ("dense",)
    for m in sorted((m for m in _PATTERNS if group % m == 0 and group > drawn["lanes"]), reverse=True)[
        : drawn.pop("patterns")
    ]:
        patterns += _PATTERNS[m]
    narrow = drawn.pop("narrow")
    growth = drawn.pop("growth")
    values: dict[str, Any] = drawn | {"group": group, "patterns": patterns, "narrow": narrow is not None}
    values["activation_format"] = values["activation_format"] or values["weight_format"]
    if narrow is not None:
        values |= NARROW[narrow]
    try:
        config = AcceleratorConfig.from_dict(values)
    except ConfigError:
        return None
    need = config.activation.fixed_bits + config.weight.fixed_bits + growth
    if need > 96 or max(config.act_word_bits, config.weight_word_bits) > 256:
        return None
    return config.replace(acc_bits=max(need, 12)) if config.multipliers <= 128 else None


# -- synthesis ---------------------------------------------------------------------------------------------

Row = dict[str, Any]


def measure_parts(
    samples: Sequence[Sample],
    family: Family,
    *,
    parts: Sequence[Part] = tuple(PARTS.values()),
    workers: int = 2,
    pool: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
    known: Sequence[Row] = (),
) -> list[Row]:
    """A row for each component of each configuration; of a text that `known` has, its counts. Raises BuildError."""
    found: list[Row] = []
    texts: list[str] = []
    slack: list[bool] = []
    counts = _counts_of(known, family)
    for sample in samples:
        for part in parts:
            count = part.instances(sample.config)
            if count and sample.number % part.every == 0:
                slack.append(part.has_slack(family.name))
                texts.append(_rtlil(part, sample.config, family.name if slack[-1] else ""))
                row = _row(sample, family, part.name, count, texts[-1])
                found.append(row | counts.get((part.name, row["text"]), {}))
    # texts of about the same size share a process
    order = sorted(
        (n for n, row in enumerate(found) if "lut" not in row), key=lambda n: (len(texts[n]), texts[n])
    )
    if not order:
        return found
    designs = [texts[n] for n in order]
    if family.name in SLACK_FAMILIES:
        designs.append(rtlil(Slack()))
    counted: dict[int, Row] = {}
    for n, cells in synthesize_many(designs, family, top=TOP, workers=workers, pool=pool):
        counted[n] = _counts(cells, family)
        if progress is not None:
            progress(len(counted), len(designs))
    for n, place in enumerate(order):
        beside = counted[len(order)]["lut"] if slack[place] else 0
        found[place] |= counted[n] | {"lut": counted[n]["lut"] - beside}
    return found


def measure_machine(sample: Sample, family: Family, known: Sequence[Row] = ()) -> Row:
    """The row of the machine as one; with the counts of `known`, if that has the same text. Raises BuildError."""
    verilog = emit_verilog(sample.config)
    row = _row(sample, family, WHOLE, 1, verilog)
    counts = _counts_of(known, family).get((WHOLE, row["text"]))
    return row | (counts or _counts(synthesize(verilog, family).cells, family))


def again(rows: Sequence[Row], parts: Sequence[str], workers: int = 2) -> list[Row]:
    """The rows, with those of the `parts`, or of machines, counted again. Raises BuildError."""
    found = [r for r in rows if r["part"] not in parts]
    for name in parts:
        configs = {r["configuration"]: r["config"] for r in rows if r["part"] == name}
        samples = [Sample(number, from_json(text)) for number, text in configs.items()]
        for family in FAMILIES.values():
            if name == WHOLE:
                found += [measure_machine(sample, family) for sample in samples]
            else:
                found += measure_parts(samples, family, parts=(PARTS[name],), workers=workers)
    return found


def _counts_of(rows: Sequence[Row], family: Family) -> dict[tuple[str, str], Row]:
    """A family's counts by component and text."""
    return {
        (r["part"], r["text"]): {name: r[name] for name in COUNTS} for r in rows if r["family"] == family.name
    }


@functools.cache
def _rtlil(part: Part, config: AcceleratorConfig, family: str) -> str:
    return part.rtlil(config, family)


def _row(sample: Sample, family: Family, part: str, instances: int, text: str) -> Row:
    return {
        "configuration": sample.number,
        "config": as_json(sample.config),
        "family": family.name,
        "part": part,
        "instances": instances,
        "text": hashlib.sha256(text.encode()).hexdigest()[:12],
    }


def _counts(cells: dict[str, int], family: Family) -> Row:
    found = resources(cells, family)
    return {name: float(found[name]) if name == "bram" else int(found[name]) for name in COUNTS}


# -- the file ----------------------------------------------------------------------------------------------


def write(rows: Sequence[Row], path: str) -> None:
    """Rows as Parquet, sorted, so that equal data gives an equal file."""
    import pyarrow
    import pyarrow.parquet

    order = sorted(rows, key=lambda r: (r["configuration"], r["family"], r["part"]))
    table = pyarrow.table({name: [row[name] for row in order] for name in FIELDS})
    pyarrow.parquet.write_table(table, path, compression="zstd")


def read(path: str) -> list[Row]:
    import pyarrow.parquet

    return list(pyarrow.parquet.read_table(path).to_pylist())
