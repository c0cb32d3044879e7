"""The schedule as a trace that Perfetto and Chrome open: a track for each unit, an event for each instruction."""

from __future__ import annotations

from collections.abc import Mapping
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
    found: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": f"{title}, 1 us = 1 cycle"}}
    ]
    for n, track in enumerate(tracks):
        found.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": n, "args": {"name": track}})
        found.append({"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": n, "args": {"sort_index": n}})
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


def _slice(name: str, track: int, start: int, end: int, about: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "name": name, "pid": 1, "tid": track, "ts": start, "dur": end - start, "args": about}
