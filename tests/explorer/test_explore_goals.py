"""Objectives, limits and the front."""

import itertools
import random

import pytest

from sateen.errors import ConfigError
from sateen.explorer.goals import METRICS, Goals, dominates, front, nearest, parse_limits, parse_objectives

GOALS = Goals(("fps", "lut"), (("lut", 50.0),))


def test_the_front_is_what_nothing_dominates_the_best_first():
    rng = random.Random(3)
    found = [{"fps": rng.randrange(20), "lut": rng.randrange(80)} for _ in range(200)]
    chosen = front(GOALS, found)
    gains = [(m["fps"], -m["lut"]) for m in found]
    allowed = [i for i, m in enumerate(found) if m["lut"] <= 50]
    expected = {gains[i] for i in allowed if not any(dominates(gains[j], gains[i]) for j in allowed)}
    assert {gains[i] for i in chosen} == expected and len(chosen) == len(expected)
    assert [gains[i] for i in chosen] == sorted(expected, reverse=True)


def test_what_was_not_measured_is_not_on_the_front():
    assert front(GOALS, [{"fps": 9.0, "lut": None}, {"lut": 1}, {"fps": 1.0, "lut": 7}]) == [2]


def test_the_nearest_misses_by_the_least():
    assert nearest(GOALS, [{"fps": 1, "lut": 90}, {"fps": 1, "lut": 60}, {"fps": 9, "lut": 99}]) == 1
    assert nearest(GOALS, []) is None


def test_limits_are_the_least_or_the_most_as_the_metric_asks_for():
    goals = Goals(("fps",), parse_limits(["fps=100", "drop=0", "lut=5"], labels=True))
    assert goals.excess({"fps": 90.0, "drop": 0.5, "lut": 4.0}) == pytest.approx(
        {"fps": 0.1, "drop": 0.5, "lut": -0.2}
    )
    assert not goals.kept({"fps": 90.0}) and goals.kept({"fps": 100.0, "drop": -1.0})


def test_without_labels_accuracy_is_agreement():
    assert parse_objectives(None, labels=False) == ("fps", "lut", "agreement")
    assert parse_limits(["accuracy=90"], labels=False) == (("agreement", 90.0),)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: parse_objectives("fps,speed", True),
            "unknown objective 'speed'; it must be one of fps, cycles",
        ),
        (lambda: parse_objectives("fps,fps", True), "give each once"),
        (lambda: parse_limits(["area=3"], True), "unknown limit 'area'"),
        (lambda: parse_limits(["lut=many"], True), "limit 'lut=many': it must be NAME=NUMBER"),
        (lambda: parse_limits(["lut=1", "lut=2"], True), "'lut' is given twice"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_dominance_is_a_strict_order():
    points = list(itertools.product(range(3), repeat=2))
    assert not any(dominates(p, p) for p in points)
    assert not any(dominates(p, q) and dominates(q, p) for p in points for q in points)


def test_every_metric_says_where_it_is_from():
    assert all(m.unit and m.source for m in METRICS.values())
