"""What patterns gain: the same network with every weight on a machine of as many multipliers without patterns.

Beside "dense weights on this machine" (schedule.json), which pays for patterns and does not use them, this is the
machine that somebody without patterns would build. Cycles are those of its own program, by the exact model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from sateen.compiler.ptq.kept import code_version
from sateen.compiler.schedule.backend import Program, generate
from sateen.errors import ConfigError
from sateen.files import cache_entry, load_entry, store_entry
from sateen.formats.sparsity import DENSE
from sateen.ir.quantized import Linear, QuantizedGraph
from sateen.ir.serialize import to_bytes
from sateen.machine.config import FIELDS, FIELDS_OF, OUTPUT_STATIONARY, AcceleratorConfig
from sateen.machine.presets import PRESETS
from sateen.sim.memory_timing import NOMINAL

_logger = logging.getLogger("sateen")

Luts = Callable[[AcceleratorConfig], Mapping[str, float]]
"""LUTs of a machine, estimated, by family of FPGAs."""
CODE = tuple(f"sateen.{name}" for name in ("compiler", "formats", "hw", "ir", "machine", "sim"))
"""Packages whose code decides about cycles."""
SHAPE = ("rows", "cols", "lanes", "group")
FILLED = 1.25
"""Times the multiplications of a dense machine, from which filling up is warned of."""
MOST_ROWS = 64


def without_patterns(config: AcceleratorConfig) -> AcceleratorConfig | None:
    """As many multipliers and bits of buffer, nothing to choose activations with, and an array that is as wide as its
    words are long, or half as wide. None where the configuration's other fields do not go with it."""
    elements = 1 << (config.multipliers.bit_length() // 2)
    cols = config.multipliers // elements
    lanes = min(elements, max(config.lanes, elements // MOST_ROWS))
    rows = elements // lanes
    fitted = FIELDS_OF["fitted"] if config.narrow else ()  # to the other machine's program
    try:
        return config.replace(
            name=f"{config.name}, no patterns",
            rows=rows, cols=cols, lanes=lanes, group=lanes, patterns=(DENSE.name,),
            computed_patterns=False, pruned_decay=False, short_groups=False, split_groups=False,
            act_bank_depth=max(2, config.act_bank_depth * config.elements // elements),
            weight_depth=max(2 * rows, config.weight_depth * config.cols * config.lanes // (cols * lanes)),
            acc_depth=min(1 << 14, max(16, config.acc_depth * config.cols // cols)),
            vector_lanes=min(config.vector_lanes, cols),
            transpose_words=min(config.transpose_words, rows),
            **{name: FIELDS[name].default for name in fitted},
        )  # fmt: skip
    except ConfigError:
        return None


def against_dense(graph: QuantizedGraph, program: Program, luts: Luts | None = None) -> dict[str, Any] | None:
    """What the manifest says of the machine without patterns; None for a program of such a machine, or where the
    network does not fit.

    "machine" has the fields of its array and buffers, "preset" the name of one with this array, "cycles" of a run,
    "layers" those of each by name, "faster" how many times fewer cycles this program takes, "filled" how many times
    the multiplications of layers with a pattern words and columns have places for, here and there, "lut" by family
    those of both machines, and "faster_per_lut" "faster" over their ratio.
    """
    if not program.config.sparse_patterns:
        return None
    config = without_patterns(program.config)
    found = None if config is None else _cycles(graph, program, config)
    if config is None or found is None:
        return None
    faster = found["cycles"] / program.cycles
    array = {name: getattr(config, name) for name in SHAPE}
    same = (
        name
        for name, p in PRESETS.items()
        if not p.sparse_patterns and all(getattr(p, k) == v for k, v in array.items())
    )
    result = {
        "machine": array | {k: getattr(config, k) for k in ("act_bank_depth", "weight_depth", "acc_depth")},
        "preset": next(same, None),
        "cycles": found["cycles"],
        "layers": found["layers"],
        "faster": round(faster, 4),
        "filled": _filled(program, config),
    }
    if luts is not None:
        here, there = luts(program.config), luts(config)
        result["lut"] = {k: {"here": round(here[k]), "dense": round(there[k])} for k in here}
        result["faster_per_lut"] = {k: round(faster * there[k] / here[k], 4) for k in here}
    return result


def _cycles(graph: QuantizedGraph, program: Program, config: AcceleratorConfig) -> dict[str, Any] | None:
    """Of the run and by layer, from the cache if this network has been asked about."""
    fields = json.dumps(config.stated(), sort_keys=True)
    key = (code_version(CODE), to_bytes(graph).hex(), fields, f"{program.batch} {program.graph.cut}")
    entry = cache_entry("dense", *key)
    if (kept := load_entry(entry)) is not None:
        return dict(json.loads(kept)) or None
    found: dict[str, Any] = {}
    try:
        dense = generate(graph, config, batch=program.batch, cut=program.graph.cut)
        found = {"cycles": dense.cycles, "layers": layer_cycles(dense)}
    except ConfigError:
        pass
    store_entry(entry, json.dumps(found).encode())
    return found or None


def layer_cycles(program: Program) -> dict[str, int]:
    """By which each layer moves the end of the run, as in schedule.json, of all samples together."""
    ops = program.graph.ops
    found = dict.fromkeys((op.name for op in ops), 0)
    for op, moved in zip(ops, program.predict(NOMINAL).moved(len(ops)), strict=True):
        found[op.name] += moved
    return found


def _filled(program: Program, dense: AcceleratorConfig) -> dict[str, Any] | None:
    """Places for multiplications of the layers with a pattern, over the multiplications with every weight, and the
    layer that is filled up the most; None where no layer has a pattern."""
    needed, here, there = 0, 0.0, 0.0
    most: tuple[float, str, list[int]] = (0.0, "", [])
    for index, op in enumerate(program.graph.ops):
        if not isinstance(op, Linear) or op.weight.sparsity.dense or not op.whole:
            continue
        outputs, *_, inputs = op.weight.shape
        macs = op.dense_macs(program.graph.tensors[op.output].shape)
        mine = _places(inputs, outputs, program.config, program.choices[index][0])
        needed += macs
        here += macs * mine
        there += macs * _places(inputs, outputs, dense, "")
        most = max(most, (mine, op.name, [inputs, outputs]))
    if not needed:
        return None
    _, layer, channels = most
    return {
        "here": round(here / needed, 4),
        "dense": round(there / needed, 4),
        "layer": layer,
        "channels": channels,
    }


def _places(inputs: int, outputs: int, config: AcceleratorConfig, dataflow: str) -> float:
    """For the channels of a tap, over the channels; output-stationary leaves out groups without any."""
    unit = config.group if dataflow == OUTPUT_STATIONARY else config.elements
    return -(-inputs // unit) * unit * -(-outputs // config.cols) * config.cols / (inputs * outputs)


def shape_text(found: Mapping[str, Any]) -> str:
    """The machine of `against_dense` in a few words."""
    rows, cols, lanes = (found["machine"][k] for k in SHAPE[:3])
    preset = f", preset {found['preset']}" if found["preset"] else ""
    return f"{rows}×{cols}×{lanes}{preset}"


def better(found: Mapping[str, Any]) -> bool:
    """Whether the machine without patterns is the one to take: in cycles, or per LUT on all families."""
    per_lut = found.get("faster_per_lut", {}).values()
    return found["faster"] <= 1 or (bool(per_lut) and max(per_lut) < 1)


def warn(found: Mapping[str, Any], program: Program) -> None:
    """Say where a dense machine is the better one, and where filling up takes the gain."""
    filled, config = found["filled"], program.config
    if better(found):
        why = (
            "no layer has a pattern, which the machine is built for"
            if filled is None
            else "patterns do not pay"
        )
        fields = ", ".join(f"{k} = {found['machine'][k]}" for k in SHAPE)
        remedy = f"--preset {found['preset']}" if found["preset"] else f"a configuration with {fields}"
        per_lut = found.get("faster_per_lut", {})
        _logger.warning(
            "%s: %d multipliers without patterns (%s) take %s cycles with every weight, these %s: %.2f times as fast"
            "%s; a dense machine is better here: compile %swith %s",
            why, config.multipliers, shape_text(found), f"{found['cycles']:,}", f"{program.cycles:,}", found["faster"],
            f", {max(per_lut.values()):.2f} times per LUT (estimated)" if per_lut else "",
            "" if filled is None else "without --sparsity, ", remedy,
        )  # fmt: skip
    if filled is not None and filled["here"] > FILLED * filled["dense"]:
        _logger.warning(
            "sparsity: words of rows × group = %d channels and %d columns are filled up, which makes of the "
            "multiplications of layers with a pattern %.2f times as many, on the dense machine %.2f: that much of the "
            "pattern's gain is lost, most at '%s' (%d to %d channels); take a smaller rows × group or fewer columns",
            config.elements, config.cols, filled["here"], filled["dense"], filled["layer"], *filled["channels"],
        )  # fmt: skip
