"""The search: which candidate is measured next, until time, trials or points run out.

It begins with a coarse grid of formats. Then machines are screened, steps from the front that is expected and random
ones, and the most promising is measured (`screen`). Samplers of Optuna are the alternatives. Every trial is in Optuna's
storage as soon as it is done, so that a study that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sateen.errors import ConfigError
from sateen.explorer.candidate import Candidate
from sateen.explorer.evaluate import Outcome, Task
from sateen.explorer.goals import METRICS
from sateen.explorer.journal import Journal
from sateen.explorer.libraries import library, quiet_optuna
from sateen.explorer.screen import Waiting
from sateen.explorer.space import Space, starts
from sateen.explorer.study import JOURNAL, Study, Trial, load_about
from sateen.explorer.workers import Pool, pool

SAMPLERS = ("auto", "tpe", "nsga2", "random", "exhaustive")
NAME = "sateen"
WRITE_S = 30.0
"""Seconds between writings of the table of results."""
SAME_POINTS = 4
"""Known candidates that the sampler, or steps, may name in a row before one is drawn at random."""
SCREENED_FIRST, SCREENED_EACH = 128, 16
"""Candidates of "auto" that are screened before one is chosen from them, and for each that is measured, at most:
screening takes no longer than measuring."""
STEPS = 0.75
"""Share of these that are steps from the front that is expected."""
SMALL = 1 << 14
"""Points of a space that is gone through in a random order, none twice."""
DRAWS = 2000
"""Random points before all are held to be known."""
WORST = {True: 0.0, False: 1e12}
"""What Optuna is told of an objective that was not measured, by whether more is better."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long, in which way, and by whom.

    seconds, trials : whichever comes first; None is no limit. Trials are those of the study, earlier runs included
    sampler : one of `SAMPLERS`
    storage : an SQL database's URL, in the place of the journal
    """

    seconds: float | None = None
    trials: int | None = None
    sampler: str = "auto"
    seed: int = 0
    workers: int = 1
    scheduler: str | None = None
    storage: str | None = None


def parse_budget(text: str) -> float:
    """Seconds from "90s", "20m", "2h". Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    seconds = float(match[1]) * {"s": 1, "": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if seconds <= 0:
        raise ConfigError(f"budget '{text}': it must be a time above 0, such as 90s, 20m or 2h")
    return seconds


Running = dict[int, tuple[Any, dict[str, int], Candidate]]
"""By number: Optuna's trial, None for what is only screened, the point, and the candidate."""


class Search:
    """The trials of a study, in Optuna's storage and as `Trial`s.

    Parameters
    ----------
    study, space, options
    """

    def __init__(self, study: Study, space: Space, options: Options) -> None:
        self.study, self.space, self.options = study, space, options
        self._optuna = quiet_optuna()
        self._rng = random.Random(options.seed)
        self._known: dict[str, Outcome] = {}
        self._hopeless: dict[tuple[str, ...], Outcome] = {}
        """Networks in codes that miss a limit on any machine."""
        self._waiting = Waiting(study.goals)
        self._proposed: set[str] = set()
        """Keys of what was screened or is being screened."""
        self._screening_s = 0.0
        self._points = self._drawn()
        self._first: list[dict[str, int]] = []
        """What is screened before others."""
        self._axes = {
            name: self._optuna.distributions.IntDistribution(0, len(values) - 1)
            for name, values in space.axes.items()
        }
        self._trials = self._optuna.create_study(
            study_name=NAME,
            storage=_storage(study.folder, options.storage, self._optuna),
            directions=["maximize" if more else "minimize" for more in study.goals.senses],
            sampler=_sampler(options, self._optuna),
            load_if_exists=True,
        )
        self._left_over: list[dict[str, int]] = []
        self._read()

    def run(self, task: Task, progress: Callable[[str, float], None]) -> None:
        """Measure candidates until the options' end; what is done is kept whatever ends it."""
        began = written = time.monotonic()
        base = task.target.machine
        due: Iterator[dict[str, int]]
        if self.options.sampler == "exhaustive":
            due = self.space.points()
        else:
            due = iter([*self._left_over, *self._begin_with(starts(self.space, base))])
        running: Running = {}
        exhausted = False
        try:
            with pool(task, self.options.workers, self.options.scheduler) as workers:
                while True:
                    spent = time.monotonic() - began
                    over = self.options.seconds is not None and spent >= self.options.seconds
                    while not (over or exhausted or self._enough(running)):
                        if len(running) >= workers.slots + (workers.slots > 1):
                            break
                        exhausted = not self._start(due, running, workers)
                    if not running:
                        break
                    number, outcome = workers.next()
                    trial, point, candidate = running.pop(number)
                    if trial is None:
                        self._screening_s += outcome.seconds
                        if outcome.state == "screened":
                            self._waiting.add(point, candidate, outcome.metrics)
                        continue
                    self._finish(trial, point, candidate, outcome)
                    progress(self.said(), self._fraction(spent))
                    if time.monotonic() - written > WRITE_S:
                        self.study.write_results()
                        written = time.monotonic()
        finally:
            self.study.write_results()

    @property
    def screened(self) -> int:
        """Candidates that were screened."""
        return len(self._proposed)

    def importances(self) -> dict[str, dict[str, float]]:
        """See `importances`."""
        return importances(self.study, self._trials)

    def said(self) -> str:
        """The state of the search in a few words."""
        members = self.study.front()
        text = f"{len(self.study.trials)} candidates, {len(members)} on the front"
        if members:
            goals = self.study.goals
            text += ": " + ", ".join(f"{name} {members[0].metrics[name]:.5g}" for name in goals.objectives)
        return text

    def add(self, point: Mapping[str, int], candidate: Candidate, outcome: Outcome) -> None:
        """Keep a candidate that was measured elsewhere, beside the one at a point."""
        if candidate.key not in self._known:
            self._trials.enqueue_trial(dict(point))
            self._finish(self._trials.ask(self._axes), dict(point), candidate, outcome)

    # -- one trial --------------------------------------------------------------------------------------------

    def _begin_with(self, points: list[dict[str, int]]) -> list[dict[str, int]]:
        """Of these points those to measure: "auto" measures a network in codes once, and screens its other machines."""
        if self.options.sampler != "auto":
            return points
        networks: dict[tuple[str, ...], dict[str, int]] = {}
        for point in points:
            if networks.setdefault(self.space.candidate(point).network, point) is not point:
                self._first.append(point)
        return list(networks.values())

    def _start(self, due: Iterator[dict[str, int]], running: Running, workers: Pool) -> bool:
        """Begin one candidate that is not known; False where there is none left."""
        in_flight = {candidate.key for _, _, candidate in running.values()}
        for tries in range(DRAWS):
            point = next(due, None)
            if point is None and self.options.sampler == "exhaustive":
                return False
            if point is None and tries >= SAME_POINTS:
                point = self.space.point(self._rng.randrange(self.space.size))
            elif point is None and self.options.sampler == "auto":
                if self._screen(running, workers):
                    return True
                point = self._chosen(running)
            if point is not None:
                candidate = self.space.candidate(point)
                if self._outcome(candidate) is not None or candidate.key in in_flight:
                    continue
                self._trials.enqueue_trial(point)
            trial = self._trials.ask(self._axes)
            point = dict(trial.params)
            candidate = self.space.candidate(point)
            known = self._outcome(candidate)
            if known is not None or candidate.key in in_flight:
                self._tell(trial, candidate, known or Outcome("repeated"), repeated=True)
                continue
            goals = self.study.goals
            front = [goals.gains(t.metrics) for t in self.study.front()]
            running[trial.number] = trial, point, candidate
            workers.submit(trial.number, candidate, front)
            return True
        return False

    def _screen(self, running: Running, workers: Pool) -> bool:
        """Begin to screen a candidate; False where enough were, or all are."""
        begun = len(self.study.trials) + sum(trial is not None for trial, _, _ in running.values())
        if len(self._proposed) >= SCREENED_FIRST + SCREENED_EACH * begun:
            return False
        if self._screening_s > sum(t.seconds for t in self.study.trials):
            return False
        for tries in range(DRAWS):
            if self._first:
                point: dict[str, int] | None = self._first.pop(0)
            elif tries < SAME_POINTS and self._rng.random() < STEPS:
                point = self._step()
            else:
                point = next(self._points, None)
            if point is None:
                return False
            candidate = self.space.candidate(point)
            if candidate.key in self._proposed or self._outcome(candidate) is not None:
                continue
            self._proposed.add(candidate.key)
            number = -len(self._proposed)
            running[number] = None, point, candidate
            workers.submit(number, candidate, None)
            return True
        return False

    def _chosen(self, running: Running) -> dict[str, int] | None:
        """The most promising of what was screened, if there is one."""
        busy = {candidate.network for trial, _, candidate in running.values() if trial is not None}
        best = self._waiting.best([t.metrics for t in self.study.front()], busy)
        return None if best is None else dict(best.point)

    def _drawn(self) -> Iterator[dict[str, int]]:
        """Points at random."""
        size = self.space.size
        if size <= SMALL:
            yield from map(self.space.point, self._rng.sample(range(size), size))
            return
        while True:
            yield self.space.point(self._rng.randrange(size))

    def _outcome(self, candidate: Candidate) -> Outcome | None:
        """What is known of it; for a search in full, of itself alone."""
        known = self._known.get(candidate.key)
        if known is None and self.options.sampler != "exhaustive":
            return self._hopeless.get(candidate.network)
        return known

    def _learn(self, candidate: Candidate, outcome: Outcome) -> None:
        self._known[candidate.key] = outcome
        scores = outcome.metrics if outcome.state == "measured" else outcome.metrics.get("part", {})
        dear = {n: v for n, v in scores.items() if n in METRICS and METRICS[n].dear}
        if outcome.reason and not self.study.goals.kept(dear):
            self._hopeless[candidate.network] = outcome
        self._waiting.learn(candidate, outcome.metrics)

    def _step(self) -> dict[str, int] | None:
        """A point beside one that is expected on the front: one or two axes, a step or to any other value."""
        points = self._waiting.promising(self.study.front())
        if not points:
            return next(self._points, None)
        point = dict(self._rng.choice(points))
        axes = [name for name, values in self.space.axes.items() if len(values) > 1]
        for name in self._rng.sample(axes, min(len(axes), self._rng.choice((1, 1, 2)))):
            most = len(self.space.axes[name]) - 1
            if self._rng.random() < 0.7:
                point[name] = min(most, max(0, point[name] + self._rng.choice((-1, 1))))
            else:
                point[name] = self._rng.randint(0, most)
        return point

    def _finish(self, trial: Any, point: dict[str, int], candidate: Candidate, outcome: Outcome) -> None:
        self._tell(trial, candidate, outcome)
        self._learn(candidate, outcome)
        self.study.trials.append(
            Trial(
                trial.number,
                point,
                candidate,
                outcome.state,
                outcome.metrics,
                outcome.reason,
                outcome.seconds,
            )
        )

    def _tell(self, trial: Any, candidate: Candidate, outcome: Outcome, repeated: bool = False) -> None:
        goals, metrics = self.study.goals, outcome.metrics
        for name, _ in goals.limits:
            trial.set_constraint(name, goals.excess(metrics).get(name, 0.0))
        trial.set_constraint("possible", 0.0 if metrics else 10.0)
        if repeated:
            trial.set_user_attr("repeated", True)
        else:
            trial.set_user_attr("candidate", candidate.to_dict())
            kept = {"state": outcome.state, "metrics": _plain(metrics), "reason": outcome.reason}
            trial.set_user_attr("outcome", kept | {"seconds": outcome.seconds})
        if outcome.state == "lost":
            self._trials.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            return
        part = metrics.get("part", {})
        values = [metrics.get(n, part.get(n)) for n in goals.objectives]
        told = [WORST[more] if v is None else float(v) for v, more in zip(values, goals.senses, strict=True)]
        self._trials.tell(trial, told)

    def _enough(self, running: Running) -> bool:
        measured = sum(trial is not None for trial, _, _ in running.values())
        return self.options.trials is not None and len(self.study.trials) + measured >= self.options.trials

    def _fraction(self, spent: float) -> float:
        parts = [spent / self.options.seconds] if self.options.seconds else []
        parts += [len(self.study.trials) / self.options.trials] if self.options.trials else []
        return min(1.0, max(parts, default=0.0))

    def _read(self) -> None:
        """What the storage has of earlier runs; what was running then is measured again."""
        states = self._optuna.trial.TrialState
        for t in self._trials.get_trials(deepcopy=False):
            if t.state == states.RUNNING:
                self._left_over.append(dict(t.params))
                self._trials.tell(t.number, state=states.FAIL)
        self.study.trials += stored(self._trials)
        for trial in self.study.trials:
            outcome = Outcome(trial.state, dict(trial.metrics), trial.reason, trial.seconds)
            self._learn(trial.candidate, outcome)
        self._left_over = [p for p in self._left_over if set(p) == set(self.space.axes)]


def stored(trials: Any) -> list[Trial]:
    """The candidates in Optuna's storage that were measured."""
    found = []
    for t in trials.get_trials(deepcopy=False):
        if (kept := t.user_attrs.get("outcome")) and kept["state"] != "lost":
            candidate = Candidate.from_dict(t.user_attrs["candidate"])
            found.append(Trial(t.number, dict(t.params), candidate, **kept))
    return found


def read_study(folder: Path) -> tuple[Study, dict[str, dict[str, float]]]:
    """A study with its trials, as it was left, and its importances. Raises ConfigError."""
    about, optuna = load_about(folder), quiet_optuna()
    storage = _storage(folder, about["storage"], optuna)
    try:
        trials = optuna.load_study(study_name=NAME, storage=storage)
    except KeyError:
        return Study(folder, about), {}
    study = Study(folder, about, stored(trials))
    return study, importances(study, trials)


def importances(study: Study, trials: Any) -> dict[str, dict[str, float]]:
    """For each objective, how much each axis decides on it; empty for a study that is too small to say."""
    found: dict[str, dict[str, float]] = {}
    importance = library("optuna.importance")
    warnings.simplefilter("ignore", UserWarning)  # it says that it minimizes, which the signs below allow for
    for i, (name, more) in enumerate(zip(study.goals.objectives, study.goals.senses, strict=True)):
        try:
            found[name] = importance.get_param_importances(
                trials,
                evaluator=importance.PedAnovaImportanceEvaluator(),
                target=lambda t, i=i, more=more: -t.values[i] if more else t.values[i],
            )
        except (ValueError, RuntimeError):
            continue
    return found


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    """As JSON keeps it, NumPy's numbers as Python's."""
    return dict(json.loads(json.dumps(metrics, default=lambda v: v.item())))


def _storage(folder: Path, url: str | None, optuna: Any) -> Any:
    if url is None:
        return optuna.storages.JournalStorage(Journal(folder / JOURNAL))
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as e:  # whatever the database's driver raises
        raise ConfigError(
            f"storage {url}: cannot be opened ({type(e).__name__}: {str(e)[:120]}); give a URL such as "
            "sqlite:///study.db"
        ) from None


def _sampler(options: Options, optuna: Any) -> Any:
    samplers = optuna.samplers
    if options.sampler not in SAMPLERS:
        raise ConfigError(f"sampler '{options.sampler}' is unknown; it must be {', '.join(SAMPLERS)}")
    if options.sampler == "random":
        return samplers.RandomSampler(seed=options.seed)
    if options.sampler == "nsga2":
        return samplers.NSGAIISampler(seed=options.seed, population_size=24)
    return samplers.TPESampler(seed=options.seed, multivariate=True, n_startup_trials=10)
