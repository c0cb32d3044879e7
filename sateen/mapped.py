"""The later stages of `sateen.stages`: a network mapped to a machine, and the build that it becomes."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sateen import api, hardware
from sateen.files import check_writable, write_file
from sateen.machine.config import AcceleratorConfig
from sateen.manifest import BuildFiles
from sateen.options import Arrays
from sateen.reporting.trace import chrome_trace, events

if TYPE_CHECKING:
    from sateen.compiler.pipeline import Quantized
    from sateen.compiler.schedule.backend import Program
    from sateen.sim.engines import RunResult


@dataclass(frozen=True, eq=False)
class MappedNetwork:
    """A program for one machine: its exact cycles, layer by layer, and where everything lies in memory.

    Examples
    --------
    >>> mapped = quantized.map("mac256")
    >>> [(row["name"], row["cycles"], row["limited_by"]) for row in mapped.layers]
    """

    model: Path
    """The ONNX file."""
    quantized: Quantized = field(repr=False)
    program: Program = field(repr=False)

    @property
    def config(self) -> AcceleratorConfig:
        """The machine, as wide as this program needs."""
        return self.program.config

    @cached_property
    def schedule(self) -> dict[str, Any]:
        """What schedule.json holds; `schedule["about"]` says what its keys mean."""
        from sateen.compiler.pipeline import predicted

        return predicted(self.quantized, self.program)

    @property
    def cycles(self) -> int:
        """Cycles of a run, of one sample or a batch, exactly, in a memory of latency 32 and a beat a cycle."""
        return self.program.cycles

    def predict(self, latency: int = 32, interval: int = 1) -> int:
        """Compute the cycles of a run, exactly, in a memory of this timing (docs/isa.md).

        Parameters
        ----------
        latency : cycles from an address to the first beat of its read
        interval : cycles from beat to beat

        Returns
        -------
        int
            Those that the RTL takes.

        Raises
        ------
        BuildError
            The program could not end; a compiled one can.

        Examples
        --------
        >>> mapped = quantized.map("mac256")
        >>> mapped.predict(latency=100)
        """
        from sateen.sim.memory_timing import MemoryTiming

        return self.program.predict(MemoryTiming(latency, interval)).cycles

    @property
    def layers(self) -> list[dict[str, Any]]:
        """A row for each layer, of plain values, as pandas takes them: `pandas.DataFrame(mapped.layers)`."""
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
        """Estimate resources and clock in milliseconds.

        Parameters
        ----------
        device : "ecp5" or "xcup" (UltraScale+); None is for both

        Returns
        -------
        dict
            See `sateen.estimate`.

        Raises
        ------
        ConfigError
            An unknown device.

        Examples
        --------
        >>> found = mapped.estimate("ecp5")
        >>> found["devices"]["ecp5"]["total"]["lut"]
        """
        return hardware.estimate(self.config, device)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: "config", "cycles", "layers", "memory"."""
        return {
            "config": self.config.to_dict(),
            "cycles": self.cycles,
            "layers": self.layers,
            "memory": self.memory,
        }

    def write(self, build: str | Path, *, board: str | None = None) -> Build:
        """Make the Verilog and write the build folder.

        Parameters
        ----------
        build : the folder, new, empty or with a build that is to be replaced
        board : for which bitstreams will be made

        Returns
        -------
        Build

        Raises
        ------
        BuildError
            The folder holds something else, or cannot be written; a build that was there is left as it was.

        Examples
        --------
        >>> build = mapped.write("build")
        >>> build.run({"input": images}, "program").outputs["logits"]
        """
        from sateen.build_folder import check_target
        from sateen.compiler.pipeline import write_program
        from sateen.fpga.estimate.resource_model import luts
        from sateen.hw.chip.verilog import emit_verilog

        folder = Path(build).resolve()
        check_target(folder)
        verilog = emit_verilog(self.config)
        name = self.model.name
        manifest = write_program(
            folder, name, self.quantized, self.program, self.schedule, verilog, board, luts
        )
        return Build(folder, manifest)


@dataclass(frozen=True, eq=False)
class Build:
    """A build folder, and everything that the commands do with one.

    Examples
    --------
    >>> build = sateen.open("build")
    >>> build.run({"input": images}, "program").outputs["logits"]
    """

    folder: Path
    manifest: Mapping[str, Any] = field(repr=False)
    """What manifest.json holds."""

    @property
    def cycles(self) -> int:
        """Cycles of a run, of one sample or a batch, as predicted."""
        return int(self.manifest["cycles"])

    @cached_property
    def schedule(self) -> dict[str, Any]:
        """What schedule.json holds; `schedule["about"]` says what its keys mean."""
        return BuildFiles(self.folder).schedule

    @cached_property
    def errors(self) -> dict[str, Any]:
        """What errors.json holds, float beside integers, as its `about` says; empty without samples."""
        return BuildFiles(self.folder).errors

    @property
    def layers(self) -> list[dict[str, Any]]:
        """A row for each layer, of plain values, as pandas takes them: `pandas.DataFrame(build.layers)`."""
        return layer_rows(self.schedule, self.errors)

    @property
    def timeline(self) -> list[dict[str, Any]]:
        """A row for each instruction, of plain values: unit, opcode, layer, and from which cycle to which."""
        return events(self.schedule)

    def trace(self, output: str | Path | None = None) -> Path:
        """Write the timeline for Perfetto or Chrome, by default as BUILD/trace.json, and return its path."""
        path = self.folder / "trace.json" if output is None else Path(output)
        check_writable(path, "trace")
        title = f"{self.manifest['name']} on {self.manifest['config']['name']}"
        write_file(path, json.dumps(chrome_trace(self.schedule, title)), "trace")
        return path

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures of the whole, and a row for each layer."""
        columns = ("name", "output_shape", "cycles", "utilization", "limited_by", "snr_db")
        rows = [[row[c] for c in columns] for row in self.layers]
        config, formats = self.manifest["config"], ("weight_format", "activation_format")
        shown = [
            [f"{v:.3g}" if isinstance(v, float) else "" if v is None else f"{v}" for v in row] for row in rows
        ]
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(v)}</td>' for v in row)}</tr>" for row in shown)
        head = "".join(f"<th>{c.replace('_', ' ')}</th>" for c in columns)
        about = f"{self.manifest['model']} on {config['name']}, {' × '.join(config[f] for f in formats)}: "
        about += f"{self.cycles:,} cycles, {100 * self.manifest['totals']['utilization']:.1f} % of the multipliers busy"
        return (
            f"<p>{html.escape(about)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def run(self, inputs: Arrays, engine: str = "reference", **options: Any) -> RunResult:
        """Run it on samples, see `sateen.run`."""
        return api.run(self.folder, inputs, engine, **options)

    def cost(self, device: str | None = None, **options: Any) -> dict[str, Any]:
        """Count its resources with Yosys, see `sateen.cost`."""
        return hardware.cost(self.folder, device, **options)

    def report(self, output: str | Path | None = None) -> Path:
        """Write its HTML page, see `sateen.report`."""
        return api.report(self.folder, output)

    def bitstream(self, board: str | None = None, **options: Any) -> dict[str, Any]:
        """Make its bitstream, see `sateen.bitstream`."""
        return hardware.bitstream(self.folder, board, **options)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: "folder", and the manifest's."""
        return {"folder": str(self.folder), **self.manifest}


def open(build: str | Path) -> Build:
    """Open a build folder that was written before.

    Parameters
    ----------
    build : the folder

    Returns
    -------
    Build

    Raises
    ------
    BuildError
        It is no build folder, or a file of it is damaged.

    Examples
    --------
    >>> build = sateen.open("build")
    >>> build.cycles
    """
    from sateen.sim.engines import Build as Opened

    return Build(Path(build), Opened(Path(build)).manifest)


PLAIN = (
    "index", "name", "kind", "weight_format", "activation_format", "sparsity", "dataflow", "cycles", "start", "end",
    "macs", "dense_macs", "utilization", "limited_by", "load_cycles", "matrix_cycles", "vector_cycles", "store_cycles",
    "bytes_loaded", "bytes_stored", "tiles",
)  # fmt: skip


def layer_rows(schedule: Mapping[str, Any], errors: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The plain values of schedule.json's layers, with those of errors.json where they are given, or else None."""
    shapes, judged = ("input_shape", "output_shape"), ("snr_db", "largest_error", "clipped")
    found = {e["name"]: e for e in (errors or {}).get("layers", ())}
    return [
        {key: layer[key] for key in PLAIN}
        | {key: "×".join(map(str, layer[key])) for key in shapes}
        | ({} if errors is None else {key: found.get(layer["name"], {}).get(key) for key in judged})
        for layer in schedule["layers"]
    ]
