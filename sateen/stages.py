"""From a file to a build in stages, each a value that can be looked at, kept and used again.

net = sateen.load("net.onnx")
quantized = net.quantize(weights="int4", activations="int8", calibration="samples.npz")
for name in ("mac256", "sat256"):
    print(name, quantized.map(name).cycles)
build = quantized.map("sat256", sparsity="2:8").write("build")

Only `write` makes Verilog and files. What `sateen.compile` writes for the same options is the same to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sateen import api
from sateen.errors import ModelError
from sateen.formats import SparsityPattern, parse_sparsity
from sateen.ir.graph import Graph
from sateen.ir.quantized import QuantizedGraph
from sateen.machine.config import AcceleratorConfig

if TYPE_CHECKING:
    from sateen.compiler.check import Finding
    from sateen.compiler.pipeline import Quantized
    from sateen.compiler.ptq.recipe import Recipe
    from sateen.compiler.schedule.backend import Program
    from sateen.sim.engines import RunResult

Machine = AcceleratorConfig | str | Path
"""A configuration, a preset's name, or a TOML file's path."""


def load(model: str | Path, *, shapes: api.Shapes | None = None) -> Network:
    """Read an ONNX file. ModelError only if it cannot be read: what is not supported is in `findings`.

    `shapes` are those of inputs whose sizes the file leaves open, the batch first: {"input": (1, 3, 320, 320)}.
    """
    from sateen.compiler.check import checked

    path = api._model_path(model)
    graph, findings = checked(path, shapes)
    return Network(path, tuple(findings), graph)


def open(build: str | Path) -> Build:
    """A build folder that was written before. BuildError if it is none, or damaged."""
    from sateen.sim.engines import Build as Opened

    return Build(Path(build), Opened(Path(build)).manifest)


@dataclass(frozen=True, eq=False)
class Network:
    """An ONNX file as it was read: one finding for each of its nodes, and the graph if all are supported."""

    path: Path
    findings: tuple[Finding, ...] = field(repr=False)
    graph: Graph | None = field(repr=False)

    @property
    def supported(self) -> bool:
        return all(f.supported for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        nodes = [
            {"node": f.node, "operator": f.op_type, "state": f.state, "reason": f.reason}
            for f in self.findings
        ]
        return {"model": str(self.path), "supported": self.supported, "nodes": nodes}

    def quantize(
        self,
        *,
        weights: str | None = None,
        activations: str | None = None,
        calibration: api.Arrays | None = None,
        ptq: str | Path = api.DEFAULT_PTQ,
        scales: str | None = None,
        power_of_two: bool = False,
        sparsity: str = "dense",
        sparsity_method: str = "sparsegpt",
    ) -> QuantizedNetwork:
        """Codes in these formats, by default int8, or those that the file has. Options as `sateen.compile`'s.

        Raises ModelError for a network that is not supported, DataError and FormatError.
        """
        if self.graph is None or not self.supported:
            problems = [f for f in self.findings if f.supported is False]
            raise ModelError(f"{problems[0]} ({len(problems)} in all: see findings)")
        config = api.choose_config(None, None, weights, activations)
        options = _Options(
            samples=None if calibration is None else api._arrays(calibration, "calibration data"),
            recipe=api.choose_recipe(ptq, scales, power_of_two),
            fixed=(weights is not None, activations is not None),
            method=sparsity_method,
        )
        made = QuantizedNetwork(self, config, parse_sparsity(sparsity), options)
        _ = made.graph  # errors come here, not at the first use
        return made


@dataclass(frozen=True, eq=False)
class _Options:
    samples: dict[str, np.ndarray] | None
    recipe: Recipe
    fixed: tuple[bool, bool]
    method: str


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A network in codes, which any number of machines can be made for."""

    network: Network
    config: AcceleratorConfig = field(repr=False)
    """Whose formats it has."""
    sparsity: SparsityPattern
    options: _Options = field(repr=False)
    _made: dict[tuple[str, ...], Quantized] = field(default_factory=dict, repr=False)

    @cached_property
    def graph(self) -> QuantizedGraph:
        """The definition of right, see `sateen.ir.quantized`."""
        return self._for(api.default_machine(self.sparsity, self.config), self.sparsity).graph

    @property
    def formats(self) -> tuple[str, str]:
        """Of weights and activations."""
        _ = self.graph  # the file may bring its own
        made = next(iter(self._made.values())).config
        return made.weight_format, made.activation_format

    def run(self, inputs: api.Arrays) -> dict[str, np.ndarray]:
        """Outputs, bit for bit those of any machine. DataError for inputs that do not fit."""
        from sateen.arrays import check_ports
        from sateen.sim.reference import run_reference

        ports = {p.name: list(p.shape) for p in self.graph.inputs}
        return run_reference(self.graph, check_ports(api._arrays(inputs, "inputs"), ports, "inputs"))

    def map(
        self, machine: Machine = api.DEFAULT_PRESET, *, sparsity: str | None = None, dataflow: str = "auto"
    ) -> MappedNetwork:
        """The program for one machine, whose formats are those of the network.

        With another `sparsity`, of what is pruned to that first. ConfigError where the machine is too small.
        """
        from sateen.compiler.pipeline import map_network

        if isinstance(machine, str | Path) and not str(machine).endswith(".toml"):
            config = api.choose_config(None, str(machine), *self.formats)
        else:
            config = api.choose_config(machine, None, *self.formats)
        pattern = self.sparsity if sparsity is None else parse_sparsity(sparsity)
        quantized = self._for(config, pattern)
        return MappedNetwork(self.network, quantized, map_network(quantized, dataflow))

    def _for(self, config: AcceleratorConfig, pattern: SparsityPattern) -> Quantized:
        """As `sateen.compile` would for this machine: it depends on the patterns that weights obey already."""
        from sateen.compiler.pipeline import check_built_for, quantize_graph
        from sateen.compiler.prune.one_shot import recognise

        assert self.network.graph is not None
        marks: tuple[str, ...] = ()
        if pattern.dense:
            known = [p for p in map(parse_sparsity, config.patterns) if not p.dense]
            marks = tuple(entry.pattern.name for entry in recognise(self.network.graph, known)[1])
        key = (pattern.name, *marks)
        check_built_for(pattern, config)
        if key not in self._made:
            self._made[key] = quantize_graph(
                self.network.graph,
                str(self.network.path),
                config=config,
                calibration=self.options.samples,
                fixed_formats=self.options.fixed,
                recipe=self.options.recipe,
                sparsity=pattern,
                sparsity_method=self.options.method,
            )
        made = self._made[key]
        formats = {
            "weight_format": made.config.weight_format,
            "activation_format": made.config.activation_format,
        }
        return replace(made, config=config.replace(**formats))

    def to_dict(self) -> dict[str, Any]:
        weights, activations = self.formats
        return {
            "model": str(self.network.path),
            "weights": weights,
            "activations": activations,
            "sparsity": self.sparsity.name,
            "ptq": self.options.recipe.name,
        }


@dataclass(frozen=True, eq=False)
class MappedNetwork:
    """A program for one machine: its exact cycles, layer by layer, and where everything lies in memory."""

    network: Network
    quantized: Quantized = field(repr=False)
    program: Program = field(repr=False)

    @property
    def config(self) -> AcceleratorConfig:
        """The machine, as wide as this program needs."""
        return self.program.config

    @cached_property
    def schedule(self) -> dict[str, Any]:
        """What schedule.json holds; `schedule["about"]` says what its keys mean."""
        from sateen.compiler.schedule.backend import without_indices
        from sateen.compiler.schedule.summary import schedule
        from sateen.sim.memory_timing import NOMINAL

        graph = self.quantized.graph
        return schedule(self.program, NOMINAL, graph, without_indices(graph, self.program))

    @cached_property
    def cycles(self) -> int:
        """Of one sample, in a memory of latency 32 and a beat a cycle."""
        return self.predict()

    def predict(self, latency: int = 32, interval: int = 1) -> int:
        """Cycles of one sample, exactly, in a memory of this timing (docs/isa.md)."""
        from sateen.sim.memory_timing import MemoryTiming

        return self.program.predict(MemoryTiming(latency, interval)).cycles

    @property
    def layers(self) -> list[dict[str, Any]]:
        """A row for each layer, of plain values: `pandas.DataFrame(mapped.layers)`."""
        return layer_rows(self.schedule)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes: where the program and the data begin, and how much there is of each."""
        p = self.program
        return {
            "constants_size": len(p.constants),
            "program_offset": p.program_offset,
            "program_size": len(p.code),
            "data_offset": p.data_offset,
            "data_size": p.data_size,
        }

    def estimate(self, device: str | None = None) -> dict[str, Any]:
        """Resources and clock as models estimate them, see `sateen.estimate`."""
        return api.estimate(self.config, device)

    def to_dict(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "cycles": self.cycles,
            "layers": self.layers,
            "memory": self.memory,
        }

    def write(self, build: str | Path, *, board: str | None = None) -> Build:
        """Make the Verilog and write the build folder. BuildError where that cannot be."""
        from sateen.build_folder import check_target
        from sateen.compiler.pipeline import write_program
        from sateen.hw.chip.verilog import emit_verilog

        folder = Path(build).resolve()
        check_target(folder)
        verilog = emit_verilog(self.config)
        manifest = write_program(folder, self.network.path.name, self.quantized, self.program, verilog, board)
        return Build(folder, manifest)


@dataclass(frozen=True, eq=False)
class Build:
    """A build folder: everything that the commands do with one."""

    folder: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def cycles(self) -> int:
        """Of one sample, as predicted."""
        return int(self.manifest["cycles"])

    @cached_property
    def schedule(self) -> dict[str, Any]:
        import json

        from sateen.manifest import read_file

        return dict(json.loads(read_file(self.folder, dict(self.manifest), "schedule.json")))

    @property
    def layers(self) -> list[dict[str, Any]]:
        """As `MappedNetwork.layers`."""
        return layer_rows(self.schedule)

    def run(self, inputs: api.Arrays, engine: str = "reference", **options: Any) -> RunResult:
        """See `sateen.run`."""
        return api.run(self.folder, inputs, engine, **options)

    def cost(self, device: str | None = None) -> dict[str, Any]:
        """Resources as Yosys counts them, see `sateen.cost`."""
        return api.cost(self.folder, device)

    def report(self, output: str | Path | None = None) -> Path:
        """See `sateen.report`."""
        return api.report(self.folder, output)

    def bitstream(self, board: str | None = None, **options: Any) -> dict[str, Any]:
        """See `sateen.bitstream`."""
        return api.bitstream(self.folder, board, **options)

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), **self.manifest}


PLAIN = (
    "index", "name", "kind", "weight_format", "activation_format", "sparsity", "dataflow", "cycles", "start", "end",
    "macs", "dense_macs", "utilization", "limited_by", "load_cycles", "matrix_cycles", "vector_cycles", "store_cycles",
    "bytes_loaded", "bytes_stored", "tiles",
)  # fmt: skip


def layer_rows(schedule: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The plain values of schedule.json's layers."""
    shapes = ("input_shape", "output_shape")
    return [
        {key: layer[key] for key in PLAIN} | {key: "×".join(map(str, layer[key])) for key in shapes}
        for layer in schedule["layers"]
    ]
