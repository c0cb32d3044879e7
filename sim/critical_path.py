"""What a program's cycles were spent waiting for: a chain of instructions from its start to its end.

Walked back from the end: an instruction started when another ended (`Event.blocker`), or when it was handed over, and
that waited for its own fetch, or for the start of an instruction that left it room in a queue.
"""

from __future__ import annotations

from dataclasses import dataclass

from sateen.machine.isa import Opcode, Target
from sateen.sim.model import HANDED, Gate, Timeline

PROGRAM = "program"
"""Fetching and handing over instructions."""


@dataclass(frozen=True, slots=True)
class Span:
    """Cycles [start, end) in which the end of the program waited for `what`: a unit, in lower case, or PROGRAM."""

    what: str
    start: int
    end: int


def critical_path(timeline: Timeline) -> list[Span]:
    """Spans in order of time, without gaps from 0 to `timeline.cycles`; neighbours may be of one kind."""
    events, now = timeline.events, timeline.cycles
    spans: list[Span] = []
    position = max(range(len(events)), key=lambda i: events[i].done, default=HANDED)
    waits_for_end = position == HANDED or events[position].done + 1 < timeline.cycles
    handing = (
        len(events) if waits_for_end else HANDED
    )  # the instruction whose handing over is next on the path

    def back_to(start: int, what: str) -> None:
        nonlocal now
        if start < now:
            spans.append(Span(what, start, now))
            now = start

    while True:
        if handing != HANDED:
            gate = timeline.handovers[handing]
            if gate.gate == Gate.PREVIOUS:
                handing -= 1
                continue
            position = gate.position
            if position == HANDED:
                break
            if gate.gate == Gate.QUEUE:
                back_to(events[position].start, PROGRAM)
        event = events[position]
        i = event.instruction
        fetch = i.opcode == Opcode.LOAD and i.target == Target.INSTRUCTION
        back_to(event.start, PROGRAM if fetch else i.unit.label)
        handing = position if event.blocker == HANDED else HANDED
        position = event.blocker
    back_to(0, PROGRAM)
    return spans[::-1]
