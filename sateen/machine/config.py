"""The accelerator's configuration: what is generated, and every size the compiler may rely on."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sateen.errors import ConfigError, FormatError
from sateen.files import read_toml, shown
from sateen.formats.digits import Digits, two_digits
from sateen.machine import array, datapath, fitted, storage
from sateen.machine.array import (
    DATAFLOWS,
    DEPTHWISE,
    MOST_PASSES,
    OUTPUT_STATIONARY,
    WEIGHT_STATIONARY,
    Array,
)
from sateen.machine.datapath import Formats, Vector
from sateen.machine.fitted import Fitted
from sateen.machine.settings import TYPES, Setting, at_most, setting, settings_of
from sateen.machine.storage import Buffers, Bus

__all__ = [
    "DATAFLOWS", "DEPTHWISE", "FIELDS", "FIELDS_OF", "MOST_PASSES", "OUTPUT_STATIONARY", "OWN", "PARTS", "RULES",
    "WEIGHT_STATIONARY", "AcceleratorConfig", "as_toml",
]  # fmt: skip

PARTS: dict[str, type] = {
    "array": Array, "formats": Formats, "buffers": Buffers, "vector": Vector, "bus": Bus, "fitted": Fitted,
}  # fmt: skip
RULES = (*array.RULES, *storage.BUFFER_RULES, *datapath.RULES, *storage.BUS_RULES, *fitted.RULES)
"""In the order in which they are asked."""

if TYPE_CHECKING:

    class _Flat(Array, Formats, Buffers, Vector, Bus, Fitted):  # type: ignore[misc] # never made: layouts may differ
        """What `AcceleratorConfig` reads from its parts."""

else:

    class _Flat:
        pass


@dataclass(frozen=True, init=False, repr=False)
class AcceleratorConfig(_Flat):
    """One machine, in parts: `config.array.rows`. Names are unique over the parts, and read without them, too:
    `config.rows`; so are the sizes that a part derives. Constructor, `replace` and TOML take names without parts, the
    constructor parts, too.

    Examples
    --------
    >>> config = sateen.AcceleratorConfig(rows=8, cols=16, lanes=2, group=8, patterns=("dense", "2:8"))
    >>> config.multipliers
    """

    name: str = setting("custom", "what messages and reports call the machine")
    array: Array = dataclasses.field(default_factory=Array)
    formats: Formats = dataclasses.field(default_factory=Formats)
    buffers: Buffers = dataclasses.field(default_factory=Buffers)
    vector: Vector = dataclasses.field(default_factory=Vector)
    bus: Bus = dataclasses.field(default_factory=Bus)
    specialize: bool = setting(
        True,
        "generate for one model: accumulators as wide as it needs, a table only if it uses one; if false, the machine "
        "is exactly as configured, the same for every model that it can hold",
    )
    narrow: bool = setting(
        False, "with `specialize`, also count only as far as that model's program does: see `fitted`"
    )
    fitted: Fitted = dataclasses.field(default_factory=Fitted)
    counters: bool = setting(
        True,
        "BUSY, WAIT, IDLE, STALL and BEATS count; if false they are 0, there is no watchdog, and CYCLES has 32 bits",
    )
    arrays: int = setting(
        1,
        "arrays, with units and buffers of their own, that run the program in lock-step on samples of their own; "
        "control and the bus to memory are there once",
        at_most(8),
        values=lambda: (1, 2),  # what is drawn at random: more are as these, and slow to simulate
        optional=True,
    )

    def __init__(self, **values: Any) -> None:
        if unknown := next((name for name in values if name not in FIELDS and name not in PARTS), None):
            raise TypeError(f"AcceleratorConfig() got an unexpected keyword argument '{unknown}'")
        for own in OWN:
            object.__setattr__(self, own, values.get(own, FIELDS[own].default))
        for name, part in PARTS.items():
            given = {field: values[field] for field in FIELDS_OF[name] if field in values}
            made = dataclasses.replace(values[name], **given) if name in values else part(**given)
            object.__setattr__(self, name, made)
        for field, limit in _broken(self.to_dict()):
            raise _Violation(self, field, limit)

    # -- sizes that more than one part decides -------------------------------------------------------------

    @property
    def act_word_bits(self) -> int:
        return self.elements * self.activation.bits

    @property
    def weight_word_bits(self) -> int:
        """One array row of one weight tile: cols × lanes codes, column-major, lane 0 lowest."""
        return self.cols * self.lanes * self.weight.bits

    @property
    def digits(self) -> Digits | None:
        """What weights that are narrower than activations are made of, where they are computed."""
        apart = self.computed_weights and self.weight_format != self.activation_format
        return two_digits(self.activation, self.weight) if apart else None

    @property
    def computed_digits(self) -> bool:
        return self.digits is not None

    @property
    def index_rows(self) -> int:
        """Weight words that share an index word: as many as fill a bus beat, and all of one tile."""
        return min(self.rows, max(1, self.bus_bits // (self.cols * self.lanes))) if self.indexed else 1

    @property
    def index_word_bits(self) -> int:
        """One plane of `index_rows` weight words, the first lowest."""
        return self.index_rows * self.cols * self.lanes

    def in_luts(self, col: int) -> bool:
        """Whether the products of a column are made in LUTs."""
        return self.multipliers_in == "lut" or (self.multipliers_in == "mixed" and col % 2 == 1)

    @property
    def lut_columns(self) -> int:
        """How many columns' are."""
        return sum(self.in_luts(col) for col in range(self.cols))

    # Bytes that a word takes in memory: none are wasted, a word of less than 8 fields is filled up to a byte.
    @property
    def act_word_bytes(self) -> int:
        return -(-self.act_word_bits // 8)

    @property
    def weight_word_bytes(self) -> int:
        return -(-self.weight_word_bits // 8)

    @property
    def index_word_bytes(self) -> int:
        return -(-self.index_word_bits // 8)

    @property
    def parameter_bytes(self) -> int:
        """Of one channel, a power of two; a parameter word holds vector_lanes of them."""
        return _next_power_of_two(-(-self.parameter_bits // 8))

    @property
    def parameter_word_bytes(self) -> int:
        return _next_power_of_two(self.vector_lanes) * self.parameter_bytes

    # -- bits of instructions that reach something: see `sateen.machine.isa` ----------------------------------

    @property
    def passes_bits(self) -> int:
        """Of the passes of a word, 6 in an instruction."""
        return min(6, self.dense_passes.bit_length()) if self.narrow else 6

    @property
    def load_address_bits(self) -> int:
        """Of the deepest buffer that is loaded."""
        table = self.activation.bits * self.table
        return max(self.act_address_bits, self.weight_address_bits, self.parameter_address_bits, table)

    @property
    def tile_width_bits(self) -> int:
        """Of a MATRIX's output columns: rows are cut into runs by a counter of all 12 bits."""
        return 12 if self.output_stationary else self.output_bits

    @property
    def pass_bits(self) -> int:
        return 6 if self.output_stationary else self.passes_bits

    # -- text ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"AcceleratorConfig({', '.join(f'{k}={v!r}' for k, v in self.to_dict().items())})"

    def replace(self, **changes: Any) -> AcceleratorConfig:
        try:
            return AcceleratorConfig(**self.to_dict() | changes)
        except _Violation as e:
            raise ConfigError(e.explained(set(changes), f"of '{self.name}'")) from None

    def to_dict(self) -> dict[str, Any]:
        """All fields, without parts."""
        return {name: getattr(self, name) for name in FIELDS}

    def stated(self) -> dict[str, Any]:
        """As `to_dict`, without the options that the machine is built without."""
        return {
            k: v for k, v in self.to_dict().items() if not (FIELDS[k].optional and v == FIELDS[k].default)
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "configuration") -> AcceleratorConfig:
        unknown = sorted(set(values) - set(FIELDS))
        if unknown:
            raise ConfigError(
                f"{source}: unknown field '{unknown[0]}'; known are {', '.join(sorted(FIELDS))}"
            )
        lists = {
            k: tuple(v)
            for k, v in values.items()
            if FIELDS[k].type.startswith("tuple") and isinstance(v, list)
        }
        try:
            return cls(**(values | lists))
        except _Violation as e:
            raise ConfigError(e.explained(set(values), "the default")) from None

    @classmethod
    def load(cls, path: str | Path) -> AcceleratorConfig:
        """A TOML file with some of the fields; `base` names the preset that has the others."""
        values = read_toml(path, "configuration")
        values.setdefault("name", shown(Path(path).stem))
        source = f"configuration {path}"
        if (base := values.pop("base", None)) is None:
            return cls.from_dict(values, source)
        from sateen.machine.presets import PRESETS

        if base not in PRESETS:
            raise ConfigError(f"{source}: base {base!r} is no preset; presets are {', '.join(PRESETS)}")
        return cls.from_dict(PRESETS[base].stated() | values, source)


def as_toml(config: AcceleratorConfig) -> str:
    """The fields in the words of a TOML file, without what one program fits and options that the machine lacks."""

    def text(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return json.dumps(list(value) if isinstance(value, tuple) else value)

    of_a_program = set(FIELDS_OF["fitted"])
    return "".join(f"{k} = {text(v)}\n" for k, v in config.stated().items() if k not in of_a_program)


def _broken(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Fields, each with a limit that it does not keep: types first, then what names say, limits, and rules."""
    for name, s in FIELDS.items():
        if s.type in TYPES and not TYPES[s.type][1](values[name]):
            yield name, TYPES[s.type][0]
    for name, s in FIELDS.items():
        if s.reads is not None:
            yield from _beyond(s, values[name])
            try:
                s.reads(values[name])
            except FormatError as e:
                raise FormatError(f"configuration '{values['name']}': {name}: {e}") from None
    yield from _against(values, first=True)
    for name, s in FIELDS.items():
        yield from _beyond(s, values[name])
    yield from _against(values, first=False)


def _beyond(s: Setting, value: Any) -> Iterator[tuple[str, str]]:
    for limit in s.limits:
        if not limit.holds(value):
            yield s.name, limit.text


def _against(values: dict[str, Any], first: bool) -> Iterator[tuple[str, str]]:
    for r in RULES:
        if r.first == first and (limit := r.check(values)) is not None:
            yield r.field, limit


def _next_power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _fields() -> dict[str, Setting]:
    own = {s.name: s for s in settings_of(AcceleratorConfig)}
    found: dict[str, Setting] = {}
    for f in dataclasses.fields(AcceleratorConfig):
        found |= {s.name: s for s in settings_of(PARTS[f.name])} if f.name in PARTS else {f.name: own[f.name]}
    return found


FIELDS = _fields()
"""Every field by its name, in the order of `to_dict`."""
FIELDS_OF = {name: tuple(s.name for s in settings_of(part)) for name, part in PARTS.items()}
OWN = tuple(s.name for s in settings_of(AcceleratorConfig))
"""Fields that are in no part."""


def _read_from_parts() -> None:
    """Properties of `AcceleratorConfig` for what the parts have: their fields and the sizes they derive."""
    for name, part in PARTS.items():
        derived = [key for key, value in vars(part).items() if isinstance(value, property)]
        for inner in (*FIELDS_OF[name], *derived):
            if hasattr(AcceleratorConfig, inner):
                raise TypeError(f"configuration: {inner} of {name} is there already; choose another name")
            setattr(AcceleratorConfig, inner, property(attrgetter(f"{name}.{inner}")))


_read_from_parts()


class _Violation(ConfigError):
    """A limit that does not hold; it may be the value of another field, named in `limit`, that is out of place."""

    def __init__(self, config: AcceleratorConfig, field: str, limit: str) -> None:
        self.config, self.field, self.limit = config, field, limit
        changed = {name for name, s in FIELDS.items() if getattr(config, name) != s.default}
        super().__init__(self.explained(changed, "the default"))

    def explained(self, given: set[str], rest: str) -> str:
        """The message, for someone who has set the fields `given`; `rest` says where the others are from."""
        others = [name for name in FIELDS if name != self.field and re.search(rf"\b{name}\b", self.limit)]
        mine = [name for name in others if name in given]
        text = f"configuration '{self.config.name}': {self.field} = {getattr(self.config, self.field)!r}"
        if self.field in given:
            alien = [f"{name} = {getattr(self.config, name)!r}" for name in others if name not in given]
            return f"{text}; it must be {self.limit}" + (f"; {', '.join(alien)}: {rest}" if alien else "")
        remedy = f"; set {self.field} too, or change {' or '.join(mine)}" if mine else ""
        return f"{text} ({rest}); it must be {self.limit}{remedy}"
