"""`sateen report`: one HTML page about a build, with nothing loaded from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from sateen.bitstreams import bitstreams
from sateen.errors import BuildError
from sateen.files import check_writable, write_file
from sateen.fpga.boards.capacity import TITLES
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.estimate.clock_model import estimate_clock
from sateen.fpga.estimate.energy import energy
from sateen.fpga.estimate.resource_model import estimate as resources
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import UNITS
from sateen.on_board import on_every_board
from sateen.reporting import memory_map, network, roofline
from sateen.reporting.charts import Slot, columns, histogram
from sateen.reporting.labels import accuracy, difference
from sateen.reporting.narrow import labelled
from sateen.reporting.sweeps import read_sweep
from sateen.reporting.timeline import draw
from sateen.sim.engines import Build

KINDS = {
    "weights": "weights",
    "indices": "indices",
    "parameters": "parameters",
    "tables": "function tables",
    "activations_read": "activations in",
    "activations_written": "activations out",
}
"""Bytes moved for a layer, and how they are called."""
LIMITS = {
    "matrix": "matrix unit",
    "vector": "vector unit",
    "load": "memory (load)",
    "store": "memory (store)",
    "program": "instruction fetch",
}

Bar = tuple[tuple[str, float, str], ...]
Parts = Callable[[dict[str, Any], str], Bar]
DECIMAL = ((10**9, "G"), (10**6, "M"), (10**3, "k"), (1, ""))
BINARY = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def write_report(build: Path, output: Path | None = None, sweep: Path | None = None) -> Path:
    """Write the page, BUILD/report.html if no path is given, and return its path; `sweep` as `read_sweep` takes it.

    Raises BuildError, DataError, OSError.
    """
    path = output or build / "report.html"
    b = Build(build)
    check_writable(path, "report")
    formats = [] if sweep is None else read_sweep(sweep)
    schedule = b.schedule
    page = render(
        b.manifest,
        schedule,
        _cost(build, b.manifest),
        bitstreams(b),
        accuracy(b),
        _seconds(build),
        _estimated(schedule, b.manifest) | {"boards": on_every_board(b.config, b)},
        formats,
        b.errors,
    )
    write_file(path, page, "report")
    return path


def _seconds(build: Path) -> float | None:
    """That quantization took, if the build says so: times.json has no hash."""
    try:
        return float(json.loads((build / "times.json").read_text(encoding="utf-8"))["ptq"]["all"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def render(
    manifest: dict[str, Any],
    schedule: dict[str, Any],
    cost: dict[str, Any] | None,
    boards: list[dict[str, Any]] | None = None,
    accuracy: dict[str, Any] | None = None,
    seconds: float | None = None,
    estimated: dict[str, Any] | None = None,
    sweep: list[dict[str, Any]] | None = None,
    errors: dict[str, Any] | None = None,
) -> str:
    """The page's text from a build's JSON files; `seconds` is how long quantization took, `sweep` from `read_sweep`."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    filters = {"n": _number, "uj": _microjoules, "bytes": _bytes, "percent": _percent, "times": _times}
    environment.filters.update(filters)
    template = environment.from_string(
        (files("sateen.reporting") / "report.html.j2").read_text(encoding="utf-8")
    )
    layers = [{**layer, "short": _short(layer["name"])} for layer in schedule["layers"]]
    cycles, both = schedule["cycles"], schedule["indexed"] and schedule["totals"]["dense"] is not None
    config = manifest["config"]
    page = template.render(
        manifest=manifest,
        batch=manifest.get("batch", 1),
        title=Path(str(manifest.get("model") or manifest.get("name") or "build")).stem,
        config=config,
        seconds=seconds,
        schedule=schedule,
        layers=layers,
        totals=schedule["totals"],
        both=both,
        kinds=KINDS,
        limits=LIMITS,
        units=UNITS,
        used=_used(schedule["totals"]),
        dataflows=_dataflows(layers),
        stalls=[_unit(name, schedule["stalls"].get(name, {}), cycles) for name in UNITS],
        timeline=draw(schedule),
        charts=_charts(layers, both),
        devices=list((cost or {}).get("devices", {}).values()),
        boards=boards or [],
        resources=TITLES,
        accuracy=accuracy and {**accuracy, "difference": difference(accuracy)},
        errors=_errors(errors or {}),
        estimated=estimated or {},
        sweep=sweep or [],
        families=list(FAMILIES.values()),
        family_titles={name: f.title for name, f in FAMILIES.items()},
        dense_machine=manifest.get("dense_machine"),
        roofline=roofline.draw(
            {**schedule, "layers": layers}, config["bus_bits"] / 8 / max(1, schedule["interval"])
        ),
        graph=network.draw(layers),
        graph_rows=network.rows_of(layers),
        longest=max((layer["cycles"] for layer in layers), default=0),
        on_chip=memory_map.draw(manifest, layers, config["act_banks"], config["act_bank_depth"]),
        memory=memory_map.parts(manifest),
    )
    return labelled(page)


def _errors(found: dict[str, Any]) -> dict[str, Any]:
    """errors.json with drawings of its histograms."""
    layers = [
        {
            **e,
            "short": _short(e["name"]),
            **{
                kind: e[kind] and histogram(e[kind], f"{kind} of {e['name']}")
                for kind in ("activations", "weights")
            },
        }
        for e in found.get("layers", ())
    ]
    return {"outputs": [], "samples": 0, **found, "layers": layers}


def _estimated(schedule: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """Resources, the clock on ECP5, and the energy of a sample if the schedule says what that takes."""
    totals, config = schedule["totals"], AcceleratorConfig.from_dict(manifest["config"])
    found = {"clock": estimate_clock(config), "resources": resources(config)}
    if {"macs", "matrix_cycles", "bytes"} <= totals.keys():
        found["energy"] = energy(totals, config, manifest.get("batch", 1))
    return found


def _dataflows(layers: list[dict[str, Any]]) -> list[str]:
    """Those that the layers could choose from; none where there was no choice."""
    found = list(dict.fromkeys(d for layer in layers for d in layer["dataflow_cycles"]))
    return found if len(found) > 1 else []


def _used(totals: dict[str, Any]) -> set[str]:
    """Kinds of bytes and limits that occur, dense or sparse."""
    sides = [side for side in (totals, totals["dense"]) if side]
    return {k for side in sides for part in ("bytes", "limits") for k, n in side[part].items() if n}


def _charts(layers: list[dict[str, Any]], both: bool) -> dict[str, str]:
    """Cycles, multiplications and bytes of each layer; if `both`, what they would be dense is on the left, faint."""

    def draw_columns(title: str, parts: Parts, units: tuple[tuple[int, str], ...]) -> str:
        slots = []
        for layer in layers:
            bars = [parts(layer, "")]
            if both:
                bars.insert(0, parts(layer["dense"], " if dense"))
            slots.append(Slot(str(layer["index"]), layer["short"], tuple(bars)))
        return columns(slots, title, units)

    def cycles(f: dict[str, Any], side: str) -> Bar:
        return tuple(
            (_css(f"l-{k}", side), f["limits"][k], f"{f['limits'][k]:,} cycles, limit: {text}{side}")
            for k, text in LIMITS.items()
        )

    def macs(f: dict[str, Any], side: str) -> Bar:
        return ((_css("macs", side), f["macs"], f"{f['macs']:,} multiplications{side}"),)

    def moved(f: dict[str, Any], side: str) -> Bar:
        return tuple(
            (_css(f"b-{k}", side), f["bytes"][k], f"{text} {_bytes(f['bytes'][k])}{side}")
            for k, text in KINDS.items()
        )

    return {
        "cycles": draw_columns("Cycles of each layer", cycles, DECIMAL),
        "macs": draw_columns("Multiplications of each layer", macs, DECIMAL),
        "bytes": draw_columns("Bytes moved for each layer", moved, BINARY),
    }


def _css(kind: str, side: str) -> str:
    return f"{kind} pale" if side else kind


def _short(name: str) -> str:
    """What tells a layer: exporters repeat the whole module path in each name, and join those of merged nodes."""
    name = name.split(";", 1)[0]
    while len(name) > 28 and "/" in name.strip("/"):
        name = name.strip("/").split("/", 1)[1]
    return name


def _unit(name: str, counts: dict[str, int], cycles: int) -> dict[str, Any]:
    share = {k: (counts.get(k) or 0) / cycles if cycles else 0.0 for k in ("busy", "wait", "idle")}
    return {"name": name, "share": share, **{k: counts.get(k) for k in ("busy", "wait", "idle", "stall")}}


def _number(value: float | None) -> str:
    """With narrow spaces, which do not break, between thousands."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def _microjoules(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}".replace(",", "\u202f") if value >= 1000 else f"{value:.3g}"


def _percent(value: float, whole: float) -> str:
    return f"{100 * value / whole:.1f}\u202f%" if whole else "–"


def _times(value: float, by: float) -> str:
    return f"{value / by:.2f}\u202f×" if by else "–"


def _bytes(value: float | None) -> str:
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024 or unit == "MiB":
            break
        value /= 1024
    return f"{value:.0f}\u202f{unit}" if unit == "B" or abs(value) >= 100 else f"{value:.1f}\u202f{unit}"


def _cost(build: Path, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """What `sateen cost` counted, if it has been asked. Raises BuildError if that was another machine's."""
    path = build / "cost.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["verilog_sha256"] == manifest["files"]["accelerator.v"]:
            return dict(found)
        problem = "counts another accelerator.v"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as e:
        problem = f"cannot be read ({e})"
    raise BuildError(f"{path}: {problem}; run sateen cost {build} again")
