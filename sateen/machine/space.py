"""What an explorer may choose from: the values of each field, and legal machines drawn from them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from sateen.errors import ConfigError
from sateen.machine.config import FIELDS, FIELDS_OF, RULES, AcceleratorConfig
from sateen.machine.settings import Rule

TRIES = 10_000
"""Draws of a machine before it is given up."""


def search_space(*, fitted: bool = False) -> dict[str, Sequence[Any]]:
    """What a machine may be chosen from: for each field of its configuration, the values that some legal machine has.

    Parameters
    ----------
    fitted : bool
        With the fields that the compiler sets to what one program needs.

    Returns
    -------
    dict[str, Sequence[Any]]
        Values by the field's name, in the order of the configuration; the machine's own name is not in it.

    Raises
    ------
    ValueError
        Never for the fields that there are: for one declared without a range.

    Examples
    --------
    >>> space = sateen.search_space() | {"weight_format": ("int8", "e3m2")}
    >>> space["cols"]
    """
    left_out = {"name"} if fitted else {"name", *FIELDS_OF["fitted"]}
    return {name: s.values() for name, s in FIELDS.items() if name not in left_out}


def random_machine(
    rng: random.Random,
    space: Mapping[str, Sequence[Any]] | None = None,
    *,
    base: AcceleratorConfig | None = None,
    rules: Sequence[Rule] = (),
) -> AcceleratorConfig:
    """A legal machine drawn at random: each field evenly from its values that go with the fields before it.

    Parameters
    ----------
    rng : random.Random
        What decides.
    space : Mapping[str, Sequence[Any]], optional
        Values by field, by default `search_space()`; one that is listed twice is twice as likely.
    base : AcceleratorConfig, optional
        The machine that has all other fields, by default that of `AcceleratorConfig()`.
    rules : Sequence[Rule]
        What the machine must keep besides being legal, see `sateen.machine.settings.rule`.

    Returns
    -------
    AcceleratorConfig
        The machine.

    Raises
    ------
    ConfigError
        There is no such machine, or it is too rare to be met.

    Examples
    --------
    >>> import random; machine = sateen.random_machine(random.Random(1), {"bus_bits": (32, 64)})
    >>> machine.bus_bits
    """
    space = search_space() if space is None else space
    fixed = (base or AcceleratorConfig()).to_dict()
    drawn = [name for name in FIELDS if name in space]
    due: dict[str, list[Rule]] = {name: [] for name in drawn}
    for r in (*RULES, *rules):
        if last := next((name for name in reversed(drawn) if name in r.needs), None):
            due[last].append(r)
    for _ in range(TRIES):
        values = dict(fixed)
        for name in drawn:
            fitting = (
                [v for v in space[name] if _keeps(due[name], values | {name: v})]
                if due[name]
                else space[name]
            )
            if not fitting:
                break
            values[name] = rng.choice(fitting)
        else:
            return AcceleratorConfig(**values)
    raise ConfigError(f"no legal machine among {TRIES:,} drawn; give {', '.join(drawn)} more values")


def _keeps(rules: Sequence[Rule], values: Mapping[str, Any]) -> bool:
    return all(r.check(values) is None for r in rules)
