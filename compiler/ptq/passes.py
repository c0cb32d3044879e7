"""PTQ passes: one signature over one state. A pass says what it needs of the state and gives to it, by which a list of
passes is checked before it runs; the state is verified after each.

A pass is a frozen dataclass in a file of its own; its fields are the options that a recipe can set.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from sateen.compiler.ptq.state import State
from sateen.compiler.quantize.calibrate import Progress
from sateen.compiler.quantize.options import Options
from sateen.errors import ConfigError, ModelError

KNOWN = ("statistics", "plan", "fitted")
"""What a state says of its network, which is not true of another one."""


def silent(done: int, total: int) -> None:
    """Progress that nobody is told of."""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What is the same for all passes; `progress` is called with (done, all) of the pass that runs."""

    samples: Mapping[str, np.ndarray]
    options: Options
    progress: Progress = silent


class Pass(ABC):
    """A step from state to state. `needs`, `gives` and `undoes` are fields of `State`."""

    __slots__ = ()
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    undoes: ClassVar[tuple[str, ...]] = ()
    """What is not true any more and taken out of the state."""
    starts_from: ClassVar[str] = ""
    """The pass whose result it betters, which must come before it."""
    fits: ClassVar[bool] = False
    """Whether it fits weights to the samples, of which there must be enough."""
    share: ClassVar[float] = 0.1
    """Of the time, against that of the other passes."""

    @property
    def label(self) -> str:
        """As it is called in lists and messages."""
        return self.name

    def check(self) -> None:  # noqa: B027
        """Raise ConfigError where it cannot run; called before any pass runs."""

    @abstractmethod
    def run(self, state: State, context: Context) -> State: ...


def check_order(recipe: str, passes: Sequence[Pass], there: Iterable[str] = ()) -> None:
    """Raise ConfigError for a pass that needs what no pass before it gives; `there` is in the state from the start."""
    has = set(there)
    for i, p in enumerate(passes):
        for need in p.needs:
            if need in has:
                continue
            undone = next((q.label for q in reversed(passes[:i]) if need in q.undoes), None)
            why = f"which {undone} has undone" if undone else "which no pass before it gives"
            givers = ", ".join(dict.fromkeys(q.label for q in passes if need in q.gives))
            remedy = f"; put {givers} before it" if givers else ""
            raise ConfigError(f"recipe '{recipe}': {p.label} needs {need}, {why}{remedy}")
        has = (has - set(p.undoes)) | set(p.gives)


def run_passes(
    state: State,
    passes: Sequence[Pass],
    context: Context,
    ran: Callable[[str, float], None] = lambda name, seconds: None,
) -> State:
    """The state after all passes, each verified; `ran` is called with a pass's label and its seconds.

    Raises what passes raise, and ModelError for a pass that leaves a state which is not one.
    """
    total = sum(p.share for p in passes)
    before = 0.0
    for i, p in enumerate(passes):
        began = time.perf_counter()

        def report(done: int, count: int, before: float = before, share: float = p.share) -> None:
            context.progress(round(1000 * (before + share * done / count) / total), 1000)

        state = p.run(state, replace(context, progress=report))
        undone: dict[str, Any] = dict.fromkeys(set(p.undoes) - set(p.gives))
        state = replace(state, **undone)
        try:
            state.verify(context.options)
            if lost := [g for g in p.gives if getattr(state, g) is None]:
                raise ModelError(f"no {', '.join(lost)}, which it says that it gives")
        except ModelError as e:
            after = ", ".join(q.label for q in passes[:i])
            raise ModelError(f"pass {p.label}{f' (after {after})' if after else ''}: {e}") from e
        ran(p.label, time.perf_counter() - began)
        before += p.share
        report(0, 1, before)
    return state
