"""The schedule as a trace that Perfetto and Chrome open: a track for each unit, an event for each instruction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sateen.machine.isa import UNITS

_PROGRAM = "program"


def events(schedule: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each instruction: unit, opcode, layer, "start", and "end", the first cycle after it."""
    names = {layer["index"]: layer["name"] for layer in schedule["layers"]}
    return [
        {
            "unit": e["engine"],
            "opcode": e["opcode"],
            "layer": names.get(e["layer"], _PROGRAM),
            "start": e["start"],
            "end": e["done"] + 1,
        }
        for e in sorted(schedule["timeline"], key=lambda e: (e["start"], e["engine"]))
    ]


def chrome_trace(schedule: Mapping[str, Any], title: str) -> dict[str, Any]:
    """In the Trace Event Format, a cycle as a microsecond; layers are a track above the units."""
    tracks = ["layers", *UNITS]
    found = _tracks(tracks, title)
    reached = 0
    for layer in schedule["layers"]:  # in the order of their ends, each from where the one before has ended
        if layer["end"] > reached:
            about = {k: layer[k] for k in ("kind", "cycles", "utilization", "limited_by")}
            found.append(_slice(layer["name"], 0, reached, layer["end"], about))
            reached = layer["end"]
    for e in events(schedule):
        found.append(
            _slice(
                f"{e['opcode']} {e['layer']}",
                tracks.index(e["unit"]),
                e["start"],
                e["end"],
                {"layer": e["layer"]},
            )
        )
    return {"traceEvents": found, "displayTimeUnit": "ms"}


def step_trace(rows: Iterable[Mapping[str, Any]], passes: Sequence[str], title: str) -> dict[str, Any]:
    """Of a training step, likewise: a track for each pass with its layers, each from where what came before ended.

    `rows` are those of `compiler.training.events`.
    """
    tracks = [*passes, *UNITS]
    found = _tracks(tracks, title)
    ends: dict[tuple[str, str], int] = {}
    for e in rows:
        about = {"pass": e["pass"], "layer": e["layer"] or _PROGRAM}
        name = f"{e['opcode']} {e['layer'] or _PROGRAM}"
        found.append(_slice(name, tracks.index(e["unit"]), e["start"], e["end"], about))
        if e["layer"]:
            key = e["pass"], e["layer"]
            ends[key] = max(ends.get(key, 0), e["end"])
    reached = 0
    for (kind, layer), end in sorted(ends.items(), key=lambda item: item[1]):
        found.append(_slice(layer, tracks.index(kind), reached, end, {"pass": kind, "cycles": end - reached}))
        reached = end
    return {"traceEvents": found, "displayTimeUnit": "ms"}


def _tracks(tracks: Sequence[str], title: str) -> list[dict[str, Any]]:
    """Their names, in this order."""
    found: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": f"{title}, 1 us = 1 cycle"}}
    ]
    for n, track in enumerate(tracks):
        found.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": n, "args": {"name": track}})
        found.append({"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": n, "args": {"sort_index": n}})
    return found


def _slice(name: str, track: int, start: int, end: int, about: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "name": name, "pid": 1, "tid": track, "ts": start, "dur": end - start, "args": about}
