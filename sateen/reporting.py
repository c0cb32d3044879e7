"""`sateen report`: one HTML page about a build, with nothing loaded from elsewhere."""

from __future__ import annotations

import json
import os
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from sateen.errors import BuildError
from sateen.manifest import read_file, read_manifest, verify
from sateen.timeline import draw

ENGINES = ("load", "matrix", "vector", "store")


def write_report(build: Path, output: Path | None = None) -> Path:
    """Write the page, BUILD/report.html if no path is given, and return its path. Raises BuildError, OSError."""
    manifest = read_manifest(build)
    verify(build, manifest)
    schedule = json.loads(read_file(build, manifest, "schedule.json"))
    page = render(manifest, schedule, _cost(build, manifest))
    path = output or build / "report.html"
    if not path.parent.is_dir():
        raise BuildError(f"report {path}: folder {path.parent} does not exist; create it first")
    handle, name = tempfile.mkstemp(prefix=".report.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(page)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def render(manifest: dict[str, Any], schedule: dict[str, Any], cost: dict[str, Any] | None) -> str:
    """The page's text from a build's JSON files."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["n"] = _number
    environment.filters["bytes"] = _bytes
    template = environment.from_string((files("sateen") / "report.html.j2").read_text(encoding="utf-8"))
    config = manifest["config"]
    multipliers = schedule["multipliers"]
    layers = [_layer(layer, multipliers) for layer in schedule["layers"]]
    stalls = {e: schedule.get("stalls", {}).get(e, {}) for e in ENGINES}
    macs = manifest.get("macs") or sum(layer["macs"] for layer in layers)
    cycles = schedule["cycles"]
    return template.render(
        manifest=manifest,
        title=Path(str(manifest.get("model") or manifest.get("name") or "build")).stem,
        config=config,
        schedule=schedule,
        layers=layers,
        longest=max((layer["cycles"] for layer in layers), default=1) or 1,
        macs=macs,
        cycles=cycles,
        multipliers=multipliers,
        utilization=macs / (cycles * multipliers) if cycles else 0.0,
        stalls=[_engine(name, counts, cycles) for name, counts in stalls.items()],
        timeline=draw(schedule),
        devices=list((cost or {}).get("devices", {}).values()),
    )


def _layer(layer: dict[str, Any], multipliers: int) -> dict[str, Any]:
    """A layer with what limits it: the engine that is busy longest while it runs."""
    busy = {e: layer.get(f"{e}_cycles") or 0 for e in ENGINES}
    limit = max(busy, key=lambda e: busy[e])
    cycles = layer["cycles"]
    return {
        **layer,
        "short": _short(layer["name"]),
        "busy": busy,
        "limit": limit if busy[limit] else "",
        "utilization": layer["macs"] / (cycles * multipliers) if cycles else 0.0,
        "waiting": max(0, cycles - busy["matrix"]),
        "formats": " × ".join(
            str(f) for f in (layer.get("weight_format"), layer.get("activation_format")) if f
        ),
    }


def _short(name: str) -> str:
    """The end of a long path, from a slash on: exporters repeat the whole module path in each name."""
    while len(name) > 28 and "/" in name.strip("/"):
        name = name.strip("/").split("/", 1)[1]
    return name


def _engine(name: str, counts: dict[str, int], cycles: int) -> dict[str, Any]:
    share = {k: (counts.get(k) or 0) / cycles if cycles else 0.0 for k in ("busy", "wait", "idle")}
    return {"name": name, "share": share, **{k: counts.get(k) for k in ("busy", "wait", "idle", "stall")}}


def _number(value: float | None) -> str:
    """With thin spaces between thousands."""
    return "–" if value is None else f"{value:,}".replace(",", "\u2009")


def _bytes(value: float | None) -> str:
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if value < 1024 or unit == "MiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


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
