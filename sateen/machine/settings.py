"""How a field of the configuration is declared: once, with its default, its range and what it means.

What `AcceleratorConfig` checks and says, docs/configuration.md, and what an explorer may choose from
(`sateen.machine.space`) all come from here. A `Limit` is what a value must be on its own, a `rule` what several fields
must be together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_KEY = "setting"
TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("an integer above 0", lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0),
    "str": ("text", lambda v: isinstance(v, str)),
    "bool": ("true or false", lambda v: isinstance(v, bool)),
}
"""What a value of each type must be; tuples have limits of their own."""


def is_power_of_two(n: int) -> bool:
    return n >= 1 and n & (n - 1) == 0


def powers(least: int, most: int) -> tuple[int, ...]:
    """The powers of two from `least` to `most`."""
    return tuple(1 << i for i in range(most.bit_length()) if least <= 1 << i <= most)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a value must be on its own."""

    text: str
    """Completes "it must be …"."""
    holds: Callable[[Any], bool]
    values: Sequence[Any] | None = None
    """All that hold, where they are few enough to be listed."""


def between(least: int, most: int, text: str | None = None) -> Limit:
    return Limit(text or f"{least} to {most}", lambda v: least <= v <= most, range(least, most + 1))


def at_most(most: int) -> Limit:
    return between(1, most, f"at most {most}")


def at_least(least: int) -> Limit:
    return Limit(f"at least {least}", lambda v: v >= least)


def power_of_two(most: int | None = None) -> Limit:
    if most is None:
        return Limit("a power of two", is_power_of_two)
    return Limit(
        f"a power of two, at most {most}", lambda v: is_power_of_two(v) and v <= most, powers(1, most)
    )


def one_of(*choices: Any) -> Limit:
    *others, last = [repr(c) for c in choices]
    return Limit(f"{', '.join(others)} or {last}", lambda v: v in choices, choices)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of the configuration."""

    name: str
    type: str
    default: Any
    about: str
    """Meaning and unit."""
    limits: tuple[Limit, ...]
    reads: Callable[[Any], object] | None
    """Reads what the value names; raises FormatError where it names nothing."""
    listed: Callable[[], Sequence[Any]] | None
    optional: bool = False
    """A part that a machine may have: at the default it is as if there were no such field."""

    def values(self) -> Sequence[Any]:
        """Every value that some legal machine has. ValueError for a field with too many, such as the name."""
        if self.listed is not None:
            return tuple(self.listed())
        if self.type == "bool":
            return (False, True)
        first = next((limit.values for limit in self.limits if limit.values is not None), None)
        if first is None:
            raise ValueError(f"{self.name}: its values are not listed")
        if len(self.limits) == 1:
            return first
        return tuple(v for v in first if all(limit.holds(v) for limit in self.limits))


def setting(
    default: Any,
    about: str,
    *limits: Limit,
    reads: Callable[[Any], object] | None = None,
    values: Callable[[], Sequence[Any]] | None = None,
    optional: bool = False,
) -> Any:
    """A field of a frozen dataclass, as `Setting` describes it.

    `values` lists those that some legal machine has, where rules leave fewer than the limits do or limits list none.
    """
    return dataclasses.field(default=default, metadata={_KEY: (about, limits, reads, values, optional)})


def settings_of(part: type) -> Iterator[Setting]:
    """The settings that a dataclass declares, in their order; its other fields are left out."""
    for f in dataclasses.fields(part):
        if _KEY in f.metadata:
            yield Setting(f.name, str(f.type), f.default, *f.metadata[_KEY])


@dataclass(frozen=True, slots=True)
class Rule:
    """What several fields must be together."""

    field: str
    """The one that an error names."""
    needs: tuple[str, ...]
    broken: Callable[..., str | None]
    """From the values of `needs` to the limit of `field` that does not hold, which completes "it must be …"."""
    about: str
    """The limit without numbers."""
    first: bool

    @property
    def name(self) -> str:
        return self.broken.__name__

    def check(self, values: Mapping[str, Any]) -> str | None:
        """`broken` for these values of fields, and perhaps others."""
        return self.broken(*[values[name] for name in self.needs])


def rule(field: str, *, about: str = "", first: bool = False) -> Callable[[Callable[..., str | None]], Rule]:
    """Makes a function of fields, which it takes by their names, a `Rule`; its docstring is the rule's `about`.

    One that comes `first` is asked before the limits, as what it says is of more help.
    """

    def made(broken: Callable[..., str | None]) -> Rule:
        code = broken.__code__
        needs = code.co_varnames[: code.co_argcount]
        return Rule(field, needs, broken, about or broken.__doc__ or "", first)

    return made
