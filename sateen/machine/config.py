"""The accelerator's configuration: what is generated, and every size the compiler may rely on."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sateen.errors import ConfigError, FormatError
from sateen.files import read_toml, shown
from sateen.formats import Format, parse_format, parse_sparsity
from sateen.machine.isa import LIMITS, TOKEN_PAIRS, Opcode, bits_of


def _power_of_two(n: int) -> bool:
    return n >= 1 and n & (n - 1) == 0


def _log2(n: int) -> int:
    """Rounded up."""
    return (n - 1).bit_length()


def _next_power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


MOST_PASSES = 1 << bits_of("passes", Opcode.MATRIX) - 1
"""Of a word, a power of two."""

WEIGHT_STATIONARY, OUTPUT_STATIONARY = DATAFLOWS = ("weight_stationary", "output_stationary")


@dataclass(frozen=True, slots=True)
class AcceleratorConfig:
    """One machine. Depths count words, per bank where there are banks; all depths are powers of two.

    The array has `rows` × `cols` processing elements with `lanes` multipliers each. An activation word carries
    one group of `group` elements for each row. A dense word takes `group / lanes` passes.

    Example
    -------
    >>> config = sateen.AcceleratorConfig(rows=8, cols=16, lanes=2, group=8, patterns=("dense", "2:8"))
    >>> config.multipliers
    """

    name: str = "custom"
    rows: int = 4
    cols: int = 4
    lanes: int = 2
    group: int = 2
    patterns: tuple[str, ...] = ("dense",)
    """The N:M patterns that the elements have indices for. A layer may use any of them; m divides `group`."""
    dataflows: tuple[str, ...] = (WEIGHT_STATIONARY,)
    """How the array may be used: with "output_stationary" too, the compiler chooses for each layer."""
    weight_format: str = "int8"
    activation_format: str = "int8"
    acc_bits: int = 32
    multiplier: str = "fixed"
    """How a product is made: "fixed" multiplies fixed-point operands, "shift" significands, then shifts."""
    act_banks: int = 4
    act_bank_depth: int = 1024
    weight_depth: int = 1024
    acc_depth: int = 256
    """Pixels in each of the two accumulator banks."""
    parameter_depth: int = 64
    """Words of `vector_lanes` channels."""
    vector_lanes: int = 4
    table: bool = True
    bus_bits: int = 64
    queue_depth: int = 4
    burst_beats: int = 32
    outstanding: int = 4
    """Read bursts, and likewise write bursts, that may be under way at once."""
    specialize: bool = True
    """Generate for one model: accumulators as wide as it needs, a table only if it uses one. If false, the machine is
    exactly as configured, the same for every model that it can hold."""
    narrow: bool = False
    """With `specialize`, also count only as far as that model's program does: what follows."""
    plane_bits: int = 14
    """Of a plane's height and width, in and out."""
    position_bits: int = 20
    """Of a position in or around a plane, which may be negative."""
    kernel_bits: int = 9
    channel_bits: int = 12
    """Of the words of a pixel."""
    stride_bits: int = 6
    dilation_bits: int = 8
    memory_bits: int = 32
    """Of a byte's address in memory; with less than 32, addresses on the bus have no more, either."""
    word_bits: int = 24
    """Of the words that a LOAD or STORE moves."""
    token_bits: int = 6
    """Of a count of tokens."""
    token_pairs: int = (1 << TOKEN_PAIRS) - 1
    """Which unit may give tokens to which: bit 4*giver + taker, as `machine.isa.Unit` numbers them."""
    residual: bool = True
    """Whether the vector unit can add a residual."""
    counters: bool = True
    """BUSY, WAIT, IDLE, STALL and BEATS count; if false they are 0, there is no watchdog, and CYCLES has 32 bits."""

    def __post_init__(self) -> None:
        def need(ok: bool, field: str, limit: str) -> None:
            if not ok:
                raise _Violation(self, field, limit)

        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                need(
                    isinstance(value, int) and not isinstance(value, bool) and value > 0,
                    field.name,
                    "an integer above 0",
                )
            elif field.type == "str":
                need(isinstance(value, str), field.name, "text")
            elif field.type == "bool":
                need(isinstance(value, bool), field.name, "true or false")
        with self._naming("weight_format"):
            parse_format(self.weight_format)
        with self._naming("activation_format"):
            parse_format(self.activation_format)
        need(
            isinstance(self.patterns, tuple) and "dense" in self.patterns,
            "patterns",
            'a list with "dense" in it',
        )
        need(
            isinstance(self.dataflows, tuple)
            and WEIGHT_STATIONARY in self.dataflows
            and all(d in DATAFLOWS for d in self.dataflows),
            "dataflows",
            'a list with "weight_stationary" and perhaps "output_stationary" in it',
        )
        with self._naming("patterns"):
            patterns = [parse_sparsity(p) for p in self.patterns]
        for pattern in patterns:
            indexed = self.group > self.lanes and self.group % pattern.m == 0
            need(
                pattern.dense or indexed,
                "group",
                f"above lanes = {self.lanes} and a multiple of {pattern.m}, for {pattern} of patterns",
            )
        need(self.rows <= 64, "rows", "at most 64")
        need(self.cols <= 256 and _power_of_two(self.cols), "cols", "a power of two, at most 256")
        need(self.lanes <= 16, "lanes", "at most 16")
        need(
            self.group >= self.lanes and self.group % self.lanes == 0,
            "group",
            f"a multiple of lanes = {self.lanes}",
        )
        need(
            self.dense_passes <= MOST_PASSES,
            "group",
            f"at most {MOST_PASSES}*lanes = {MOST_PASSES * self.lanes}",
        )
        need(self.elements % self.cols == 0, "cols", f"a divisor of rows*group = {self.elements}")
        need(
            _power_of_two(self.elements), "rows", f"such that rows*group = {self.elements} is a power of two"
        )
        need(self.elements // self.cols <= 64, "cols", f"at least rows*group/64 = {self.elements // 64}")
        for name in (
            "act_banks",
            "act_bank_depth",
            "weight_depth",
            "acc_depth",
            "parameter_depth",
            "queue_depth",
        ):
            need(_power_of_two(getattr(self, name)), name, "a power of two")
        need(self.queue_depth <= 256, "queue_depth", "at most 256")
        need(2 <= self.act_banks <= 16, "act_banks", "2 to 16")
        need(self.act_bank_depth >= 2, "act_bank_depth", "at least 2")
        need(
            self.act_banks * self.act_bank_depth <= 1 << 23,
            "act_bank_depth",
            "2**23 words in all banks at most",
        )
        tile = self.rows * self.dense_passes
        need(
            2 * tile <= self.weight_depth <= 1 << 23,
            "weight_depth",
            f"from {2 * tile} (two weight tiles of rows*group/lanes words) to 2**23",
        )
        need(16 <= self.acc_depth <= 1 << 14, "acc_depth", "16 to 16384")
        need(self.parameter_depth <= 1 << 15, "parameter_depth", "at most 32768")
        need(self.cols % self.vector_lanes == 0, "vector_lanes", f"a divisor of cols = {self.cols}")
        need(
            self.parameter_depth >= 2 * self.cols // self.vector_lanes,
            "parameter_depth",
            f"at least 2*cols/vector_lanes = {2 * self.cols // self.vector_lanes}",
        )
        need(self.bus_bits in (32, 64, 128, 256, 512), "bus_bits", "32, 64, 128, 256 or 512")
        need(
            _power_of_two(self.burst_beats) and self.burst_beats <= 256,
            "burst_beats",
            "a power of two, at most 256",
        )
        need(
            self.burst_beats * self.bus_bits // 8 <= 4096,
            "burst_beats",
            f"at most {4096 * 8 // self.bus_bits}, 4096 bytes with bus_bits = {self.bus_bits}",
        )
        need(self.outstanding <= 16, "outstanding", "at most 16")
        need(8 <= self.acc_bits <= 127, "acc_bits", "8 to 127")
        need(self.multiplier in ("fixed", "shift"), "multiplier", "'fixed' or 'shift'")
        for name, least, most in LIMITS:
            need(least <= getattr(self, name) <= most, name, f"from {least} to {most}")
        need(self.token_pairs < 1 << TOKEN_PAIRS, "token_pairs", f"below 2**{TOKEN_PAIRS}")
        need(self.position_bits > self.plane_bits, "position_bits", f"above plane_bits = {self.plane_bits}")

    @contextlib.contextmanager
    def _naming(self, field: str) -> Iterator[None]:
        """A FormatError that comes from `field` says so."""
        try:
            yield
        except FormatError as e:
            raise FormatError(f"configuration '{self.name}': {field}: {e}") from None

    # -- derived sizes ------------------------------------------------------------------------------------

    @property
    def weight(self) -> Format:
        return parse_format(self.weight_format)

    @property
    def activation(self) -> Format:
        return parse_format(self.activation_format)

    @property
    def elements(self) -> int:
        """Elements of an activation word."""
        return self.rows * self.group

    @property
    def slices(self) -> int:
        """Runs of `cols` elements in an activation word: what one DRAIN writes at once."""
        return self.elements // self.cols

    @property
    def multipliers(self) -> int:
        return self.rows * self.cols * self.lanes

    @property
    def dense_passes(self) -> int:
        return self.group // self.lanes

    @property
    def index_bits(self) -> int:
        """Bits of a lane's index into its group; 0 where every lane has its own element."""
        return 0 if self.group == self.lanes else math.ceil(math.log2(self.group))

    @property
    def index_planes(self) -> int:
        """Bits of an index that can be stored: those of the widest pattern's; the others are counted."""
        return max(parse_sparsity(p).index_bits for p in self.patterns)

    @property
    def indexed(self) -> bool:
        """Whether the machine stores indices; one that is built for dense layers alone counts them."""
        return self.index_planes > 0

    @property
    def output_stationary(self) -> bool:
        return OUTPUT_STATIONARY in self.dataflows

    @property
    def act_depth(self) -> int:
        """Words in all banks; bank b holds words b*act_bank_depth and on."""
        return self.act_banks * self.act_bank_depth

    @property
    def act_word_bits(self) -> int:
        return self.elements * self.activation.bits

    @property
    def weight_word_bits(self) -> int:
        """One array row of one weight tile: cols × lanes codes, column-major, lane 0 lowest."""
        return self.cols * self.lanes * self.weight.bits

    @property
    def index_row_bits(self) -> int:
        """The indices of a weight word: for each plane one bit of every lane, in the same order."""
        return self.index_planes * self.cols * self.lanes

    @property
    def index_rows(self) -> int:
        """Weight words that share an index word: as many as fill a bus beat, and all of one tile."""
        return min(self.rows, max(1, self.bus_bits // (self.cols * self.lanes))) if self.indexed else 1

    @property
    def index_word_bits(self) -> int:
        """One plane of `index_rows` weight words, the first lowest."""
        return self.index_rows * self.cols * self.lanes

    @property
    def parameter_bits(self) -> int:
        """One channel's (bias, multiplier, shift), see isa.parameter_layout."""
        return self.acc_bits + 16 + 7

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

    @property
    def beat_bytes(self) -> int:
        return self.bus_bits // 8

    @property
    def output_bits(self) -> int:
        """Of an output's height and width, 12 in an instruction."""
        return min(12, self.plane_bits)

    @property
    def passes_bits(self) -> int:
        """Of the passes of a word, 6 in an instruction."""
        return min(6, self.dense_passes.bit_length()) if self.narrow else 6

    @property
    def bus_address_bits(self) -> int:
        return 64 if self.memory_bits == 32 else self.memory_bits

    # -- bits of instructions that reach something: see `sateen.machine.isa` ----------------------------------

    @property
    def act_address_bits(self) -> int:
        return _log2(self.act_depth)

    @property
    def weight_address_bits(self) -> int:
        return _log2(self.weight_depth)

    @property
    def parameter_address_bits(self) -> int:
        return _log2(self.parameter_depth)

    @property
    def acc_address_bits(self) -> int:
        """Through both banks."""
        return _log2(2 * self.acc_depth)

    @property
    def load_address_bits(self) -> int:
        """Of the deepest buffer that is loaded."""
        table = self.activation.bits * self.table
        return max(self.act_address_bits, self.weight_address_bits, self.parameter_address_bits, table)

    @property
    def slice_bits(self) -> int:
        return _log2(self.slices)

    @property
    def tile_width_bits(self) -> int:
        """Of a MATRIX's output columns: rows are cut into runs by a counter of all 12 bits."""
        return 12 if self.output_stationary else self.output_bits

    @property
    def pass_bits(self) -> int:
        return 6 if self.output_stationary else self.passes_bits

    @property
    def index_count_bits(self) -> int:
        return self.index_planes.bit_length()

    @property
    def activation_bits(self) -> int:
        return self.activation.bits

    @property
    def clamp_bits(self) -> int:
        """Of a clamp's bound, without its sign."""
        return self.activation.fixed_bits - 1

    @property
    def zero_point_bits(self) -> int:
        """Formats whose steps differ have theirs in the bias."""
        return 10 if self.activation.uniform else 0

    # -- text ---------------------------------------------------------------------------------------------

    def replace(self, **changes: Any) -> AcceleratorConfig:
        try:
            return dataclasses.replace(self, **changes)
        except _Violation as e:
            raise ConfigError(e.explained(set(changes), f"of '{self.name}'")) from None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "configuration") -> AcceleratorConfig:
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"{source}: unknown field '{unknown[0]}'; known are {', '.join(sorted(known))}")
        lists = {
            k: tuple(v) for k, v in values.items() if k in ("patterns", "dataflows") and isinstance(v, list)
        }
        try:
            return cls(**(values | lists))
        except _Violation as e:
            raise ConfigError(e.explained(set(values), "the default")) from None

    @classmethod
    def load(cls, path: str | Path) -> AcceleratorConfig:
        values = read_toml(path, "configuration")
        values.setdefault("name", shown(Path(path).stem))
        return cls.from_dict(values, f"configuration {path}")


class _Violation(ConfigError):
    """A limit that does not hold; it may be the value of another field, named in `limit`, that is out of place."""

    def __init__(self, config: AcceleratorConfig, field: str, limit: str) -> None:
        self.config, self.field, self.limit = config, field, limit
        fields = dataclasses.fields(config)
        super().__init__(
            self.explained({f.name for f in fields if getattr(config, f.name) != f.default}, "the default")
        )

    def explained(self, given: set[str], rest: str) -> str:
        """The message, for someone who has set the fields `given`; `rest` says where the others are from."""
        names = [f.name for f in dataclasses.fields(self.config) if f.name != self.field]
        others = [name for name in names if re.search(rf"\b{name}\b", self.limit)]
        mine = [name for name in others if name in given]
        text = f"configuration '{self.config.name}': {self.field} = {getattr(self.config, self.field)!r}"
        if self.field in given:
            alien = [f"{name} = {getattr(self.config, name)!r}" for name in others if name not in given]
            return f"{text}; it must be {self.limit}" + (f"; {', '.join(alien)}: {rest}" if alien else "")
        remedy = f"; set {self.field} too, or change {' or '.join(mine)}" if mine else ""
        return f"{text} ({rest}); it must be {self.limit}{remedy}"
