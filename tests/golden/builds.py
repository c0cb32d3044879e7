"""Builds that must not change unless it is meant: what the compiler makes of them, as hashes and cycles.

    python tests/golden/builds.py [NAME ...]        writes builds.json and graphs/ anew

The quantized graphs are kept, as floating-point arithmetic may differ in the last bit from one processor to another,
and with it a scale. All that follows them is integers: the same everywhere.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sateen.compiler.export.model import export_onnx
from sateen.compiler.importer import import_model
from sateen.compiler.pipeline import Quantized, map_network, quantize_graph
from sateen.compiler.ptq.recipe import RECIPES
from sateen.compiler.schedule.backend import without_indices
from sateen.compiler.schedule.summary import schedule
from sateen.formats import parse_sparsity
from sateen.ir.quantized import QuantizedGraph
from sateen.ir.serialize import load, to_bytes
from sateen.machine.config import DATAFLOWS, AcceleratorConfig
from sateen.machine.presets import preset
from sateen.sim.memory_timing import NOMINAL, MemoryTiming

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TABLE = HERE / "builds.json"
SLOW = MemoryTiming(latency=100, interval=3)


@dataclass(frozen=True, slots=True)
class Golden:
    """One build: an ONNX file, quantized and mapped."""

    model: str
    preset: str = "tiny"
    weights: str = "int8"
    activations: str = "int8"
    sparsity: str = "dense"
    recipe: str = "fast"
    given: bool = False
    """The file says how each tensor is rounded."""
    changes: dict[str, Any] = field(default_factory=dict)
    """To the preset."""
    dataflow: str = "auto"

    @property
    def config(self) -> AcceleratorConfig:
        formats = {"weight_format": self.weights, "activation_format": self.activations}
        return preset(self.preset).replace(**formats, **self.changes)


CNN, RESNET, DSCNN = (f"models/digits_{n}.onnx" for n in ("cnn", "resnet", "dscnn"))
SMALL = {
    "rows": 2,
    "cols": 4,
    "lanes": 2,
    "group": 8,
    "patterns": ("dense", "2:4", "2:8", "1:4"),
    "dataflows": DATAFLOWS,
}
BREVITAS, QKERAS = "tests/compiler/data/brevitas", "tests/compiler/data/qkeras"

BUILDS: dict[str, Golden] = {
    "cnn_tiny_int8": Golden(CNN),
    "cnn_tiny_e3m2": Golden(CNN, weights="e3m2", activations="e3m2"),
    "cnn_mac256_e4m3fn": Golden(CNN, "mac256", "e4m3fn", "e4m3fn"),
    "cnn_sat256_2to8": Golden(CNN, "sat256", sparsity="2:8"),
    "cnn_board": Golden(CNN, "ulx3s-85f", "int4", "uint8", recipe="balanced"),
    "cnn_one_multiplier": Golden(CNN, "icebreaker"),
    "cnn_tokens": Golden(CNN, changes={"token_bits": 1, "queue_depth": 16}),
    "resnet_tiny_int8": Golden(RESNET),
    "resnet_mac256_e2m1": Golden(RESNET, "mac256", "e2m1", "e2m3", recipe="balanced"),
    "resnet_sat256_2to4": Golden(RESNET, "sat256", sparsity="2:4"),
    "resnet_small_stationary": Golden(RESNET, sparsity="1:4", changes=SMALL, dataflow="weight_stationary"),
    "resnet_small_output": Golden(RESNET, sparsity="2:8", changes=SMALL),
    "resnet_spilled": Golden(RESNET, changes={"act_bank_depth": 128, "weight_depth": 64, "acc_depth": 16}),
    "dscnn_tiny_int8": Golden(DSCNN),
    "dscnn_filters": Golden(DSCNN, changes={"rows": 16, "cols": 4, "lanes": 1, "group": 1, "depthwise": True}),
    "dscnn_tangnano_e2m2": Golden(DSCNN, "tangnano-20k", "e2m2", "e2m2"),
    "dscnn_mac256_int2": Golden(DSCNN, "mac256", "int2", "uint4", recipe="balanced"),
    "qonnx_int3": Golden(f"{BREVITAS}/int3.onnx", given=True),
    "qonnx_e2m1": Golden(f"{BREVITAS}/e2m1.onnx", given=True),
    "qonnx_ternary": Golden(f"{BREVITAS}/ternary.onnx", given=True),
    "qdq_int8": Golden(f"{BREVITAS}/qcdq_int8.onnx", given=True),
    "qdq_e4m3fn": Golden(f"{BREVITAS}/qcdq_e4m3fn.onnx", given=True),
    "qkeras_residual": Golden(f"{QKERAS}/residual.onnx", given=True),
}  # fmt: skip


def samples(golden: Golden) -> dict[str, np.ndarray] | None:
    """Of the digits' shape, with values from 0 to 1 as theirs; none for a file with quantizers of its own."""
    if golden.given:
        return None
    return {"input": np.random.default_rng(1).random((32, 1, 8, 8)).astype(np.float32)}


def quantized(golden: Golden) -> Quantized:
    return quantize_graph(
        import_model(ROOT / golden.model),
        golden.model,
        config=golden.config,
        calibration=samples(golden),
        fixed_formats=(not golden.given, not golden.given),
        recipe=RECIPES[golden.recipe],
        sparsity=parse_sparsity(golden.sparsity),
    )


def stored(name: str) -> Path:
    return HERE / "graphs" / f"{name}.xz"


def kept(name: str, golden: Golden) -> Quantized:
    """With the graph that is kept."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.bin"
        path.write_bytes(lzma.decompress(stored(name).read_bytes()))
        graph = load(path)
    weights = next((c.format.name for op in graph.ops for c in op.constants), golden.weights)
    activations = next(iter(graph.tensors.values())).quant.format.name
    config = golden.config.replace(weight_format=weights, activation_format=activations)
    return Quantized(graph, config, {}, {})


def measured(network: Quantized, dataflow: str) -> dict[str, Any]:
    """What must stay: hashes of what a build holds, and cycles in two memories."""
    program = map_network(network, dataflow)
    graph: QuantizedGraph = network.graph
    table = schedule(program, NOMINAL, graph, without_indices(graph, program))
    held = {
        "program": program.code,
        "weights": program.constants,
        "model": export_onnx(graph).SerializeToString(deterministic=True),
        "schedule": json.dumps(table, sort_keys=True).encode(),
        "config": json.dumps(program.config.stated(), sort_keys=True).encode(),
    }
    hashes = {name: hashlib.sha256(data).hexdigest()[:16] for name, data in held.items()}
    cycles = [program.predict(memory).cycles for memory in (NOMINAL, SLOW)]
    return hashes | {"instructions": len(program.instructions), "cycles": cycles}


def main() -> None:
    names = sys.argv[1:] or list(BUILDS)
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    stored("").parent.mkdir(exist_ok=True)
    for name in names:
        network = quantized(BUILDS[name])
        stored(name).write_bytes(lzma.compress(to_bytes(network.graph), preset=9))
        table[name] = measured(kept(name, BUILDS[name]), BUILDS[name].dataflow)
        print(name, table[name]["cycles"], flush=True)
    table = {name: table[name] for name in BUILDS if name in table}
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
