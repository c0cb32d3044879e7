"""Who measures candidates: this process, a local Dask cluster, or one that is running already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from sateen.errors import ConfigError
from sateen.explorer.candidate import Candidate
from sateen.explorer.evaluate import Evaluator, Outcome, Task, checked_measure
from sateen.explorer.libraries import library

CONNECT_S = 10
"""Seconds in which a scheduler has to answer."""
TRIES = 3
"""Workers that may be lost with a candidate before it is given up."""
ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": None, "MALLOC_ARENA_MAX": 1}
"""Of local workers, beside one thread for NumPy. Dask's threshold and a thread's own arena give memory back to the
system after each array: 50 000 page faults for a candidate of the digits CNN, a quarter of its time."""
Gains = tuple[float, ...]


class Pool(Protocol):
    """Takes candidates, and gives them back with what became of them, in any order."""

    slots: int
    """Candidates that are measured at once."""

    def submit(self, number: int, candidate: Candidate, front: Sequence[Gains] | None) -> None:
        """Measure a candidate, or screen it where there is no front to compare with."""

    def next(self) -> tuple[int, Outcome]:
        """The number of one that is done, and its outcome; waits for it."""


class Here:
    """This process, one candidate at a time."""

    slots = 1

    def __init__(self, task: Task) -> None:
        self._evaluator = Evaluator(task)
        self._due: list[tuple[int, Candidate, Sequence[Gains] | None]] = []

    def submit(self, number: int, candidate: Candidate, front: Sequence[Gains] | None) -> None:
        self._due.append((number, candidate, front))

    def next(self) -> tuple[int, Outcome]:
        number, candidate, front = self._due.pop(0)
        return number, checked_measure(self._evaluator, candidate, front)


class Cluster:
    """Dask workers. One that is lost costs the time of the candidate that it had, which another measures."""

    def __init__(self, client: Any, task: Task, slots: int) -> None:
        self.slots = slots
        self._client = client
        self._task = client.scatter(task, broadcast=True, hash=False)
        self._done = library("distributed").as_completed()
        self._numbers: dict[str, int] = {}

    def submit(self, number: int, candidate: Candidate, front: Sequence[Gains] | None) -> None:
        known = None if front is None else tuple(front)
        future = self._client.submit(_measure, self._task, candidate, known, pure=False, retries=TRIES)
        self._numbers[future.key] = number
        self._done.add(future)

    def next(self) -> tuple[int, Outcome]:
        future = next(self._done)
        number = self._numbers.pop(future.key)
        if future.status != "finished":
            error = future.exception() if future.status == "error" else future.status
            return number, Outcome("lost", {}, f"its worker was lost {TRIES} times or failed: {error}")
        return number, future.result()


_EVALUATORS: dict[str, Evaluator] = {}
"""Of a worker's process, by the task's identity."""


def _measure(task: Task, candidate: Candidate, front: Sequence[Gains] | None) -> Outcome:
    if task.identity not in _EVALUATORS:
        _EVALUATORS[task.identity] = Evaluator(task)
    return checked_measure(_EVALUATORS[task.identity], candidate, front)


@contextlib.contextmanager
def pool(task: Task, workers: int, scheduler: str | None) -> Iterator[Pool]:
    """The pool that the options ask for. Raises ConfigError for a scheduler that cannot be reached."""
    if scheduler is None and workers <= 1:
        yield Here(task)
        return
    library("dask")
    distributed = library("distributed")
    with contextlib.ExitStack() as stack:
        settings = {
            "distributed.scheduler.allowed-failures": TRIES,
            "distributed.logging.distributed": "error",
            **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in ENVIRONMENT.items()},
        }
        stack.enter_context(library("dask").config.set(settings))
        if scheduler is None:
            cluster = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=50,
                scheduler_kwargs={"dashboard": False},
            )  # fmt: skip
            stack.enter_context(cluster)
            client = stack.enter_context(distributed.Client(cluster))
            slots = workers
        else:
            try:
                client = stack.enter_context(distributed.Client(scheduler, timeout=CONNECT_S))
            except (OSError, TimeoutError, ValueError) as e:
                raise ConfigError(
                    f"scheduler {scheduler}: cannot be reached in {CONNECT_S} s ({e or type(e).__name__}); start one "
                    "with: dask scheduler, and dask worker ADDRESS"
                ) from None
            slots = max(1, sum(client.nthreads().values()))
        yield Cluster(client, task, slots)
