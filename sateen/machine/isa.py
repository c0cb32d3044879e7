"""The instruction set as data. Everything else that knows an instruction is derived from the tables here:

the layouts (hw/isa.py), the assembler, what the dispatcher refuses, how far a narrow machine counts, the bits that
synthesis keeps (sateen/machine/instruction_use.py), and the tables of docs/isa.md.

An instruction is 512 bits in memory, little endian, its fields from bit 0 on in the order given here. All begin with
the header: the opcode, which also names the unit, and two masks of tokens. Addresses of on-chip buffers count words,
wrap at the buffer's size, and are relative to nothing; addresses in memory count bytes from the base register.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sateen.machine.config import AcceleratorConfig

INSTRUCTION_BITS = 512
INSTRUCTION_BYTES = INSTRUCTION_BITS // 8
CHUNK = 16
"""Instructions in a chunk. A program is fetched chunk by chunk; all but the last begin with the LOAD of the next."""


class Unit(enum.IntEnum):
    """The units that execute instructions, each with a queue of its own."""

    LOAD = 0
    MATRIX = 1
    VECTOR = 2
    STORE = 3

    @property
    def label(self) -> str:
        """Its name in text, in JSON, in ports and in modules."""
        return self.name.lower()


UNITS = tuple(u.label for u in Unit)
BUS = (Unit.LOAD, Unit.STORE)
"""Units on the bus: they may wait for memory, and a run that ends early ends with their bursts."""


class Choice(enum.IntEnum):
    """The values of a field that have names."""

    @property
    def only(self) -> str:
        """Property of the configuration without which a machine lacks it."""
        return ""

    @property
    def optional(self) -> bool:
        """Whether only machines with an option have it; others are made without its name."""
        return False


class Opcode(Choice):
    LOAD = 1
    MATRIX = 4
    FIR = 5
    OUTER = 6
    DRAIN = 8
    POOL = 9
    ROW = 10
    GATE = 11
    STORE = 12
    MOVE = 13
    UPDATE = 14
    END = 15

    @property
    def optional(self) -> bool:
        return bool(LAYOUTS[self].only)


class Target(Choice):
    """Where a LOAD writes."""

    ACTIVATION = 0
    WEIGHT = 1
    PARAMETER = 2
    TABLE = 3
    INSTRUCTION = 4
    INDEX = 5
    EXPONENTIAL = 6

    @property
    def only(self) -> str:
        return {Target.TABLE: "table", Target.INDEX: "indexed", Target.EXPONENTIAL: "softmax"}.get(self, "")

    @property
    def optional(self) -> bool:
        return self is Target.EXPONENTIAL


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an instruction."""

    name: str
    bits: int
    about: str = ""
    signed: bool = False
    enum: type[Choice] | None = None
    count: bool = False
    """0 is not defined: the assembler's `decode` refuses it."""
    checked: bool = False
    """The machine refuses it too, as the unit would never end: a count of 0, or a target that it lacks."""
    below: str = ""
    """Property of the configuration that it must be less than, or the machine refuses the instruction, …"""
    where: tuple[str, int] | None = None
    """… if the field of this name has this value."""
    counted: str = ""
    """Field of the configuration, among LIMITS, that says how far a narrow machine counts."""
    reach: str | int = ""
    """Of the field's low bits, how many reach something in the machine: a property of the configuration, by default
    `counted`; all if there is neither."""
    top: bool = False
    """With `reach`: the highest bit does as well, which tells the sign of a narrow value."""
    only: str = ""
    """Property of the configuration without which the machine has no use for the field, …"""
    optional: bool = False
    """… and is made without its bits; such fields come last."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of one opcode behind the header, and the unit that executes it."""

    opcode: Opcode
    unit: Unit | None
    fields: tuple[Field, ...] = ()
    only: str = ""
    """Property of the configuration without which the machine does not know the opcode."""

    @property
    def all_fields(self) -> tuple[Field, ...]:
        """With the header's."""
        return HEADER + self.fields

    @property
    def bits(self) -> int:
        return sum(f.bits for f in self.all_fields)

    def fields_of(self, config: AcceleratorConfig) -> tuple[Field, ...]:
        """Those that a machine is made with, and those before them, header included."""
        fields = self.all_fields
        built = [n for n, f in enumerate(fields, 1) if not f.optional or getattr(config, f.only)]
        return fields[: built[-1]]

    def bits_of(self, config: AcceleratorConfig) -> int:
        """Of `fields_of`."""
        return sum(f.bits for f in self.fields_of(config))

    def offset(self, name: str) -> int:
        """The lowest bit of a field. KeyError for an unknown one."""
        position = 0
        for f in self.all_fields:
            if f.name == name:
                return position
            position += f.bits
        raise KeyError(f"{self.opcode.name} has no field '{name}'")


HEADER = (
    Field("opcode", 4, enum=Opcode),
    Field("wait", len(Unit), "bit u: take one token that unit u gave to this unit, before starting"),
    Field("signal", len(Unit), "bit u: give one token to unit u, when done"),
)

_ACT = "act_address_bits"


def _window(width_reach: str = "output_bits") -> tuple[Field, ...]:
    """A walk over an (in_h, in_w) plane of words: output pixel (oy, ox), tap (ky, kx) and channel word c read

        y = y0 + oy*stride_y + ky*dilation_y,  x = x0 + ox*stride_x + kx*dilation_x
        word = base + oy*step_y + ox*step_x + ky*step_ky + kx*step_kx + c        (modulo the buffer's size)

    and padding where (y, x) lies outside. `base` is thus the word of (y0, x0), which may lie outside the tensor.
    """
    return (
        Field("base", 24, "word of (y0, x0), which may lie outside the tensor", reach=_ACT),
        Field("step_x", 24, "words from an output pixel to the next", reach=_ACT),
        Field("step_y", 24, "and from a row of them to the next", reach=_ACT),
        Field("step_kx", 24, "words from a tap to the next", reach=_ACT),
        Field("step_ky", 24, "and from a row of them to the next", reach=_ACT),
        Field("x0", 14, "column of the first tap of the first pixel", signed=True, reach="position_bits"),
        Field("y0", 14, "and its row", signed=True, reach="position_bits"),
        Field("in_w", 14, "columns of the plane", counted="plane_bits"),
        Field("in_h", 14, "rows of the plane", counted="plane_bits"),
        Field("stride_x", 6, counted="stride_bits"),
        Field("stride_y", 6, counted="stride_bits"),
        Field("dilation_x", 8, counted="dilation_bits"),
        Field("dilation_y", 8, counted="dilation_bits"),
        Field("kernel_w", 9, "taps of a row", count=True, counted="kernel_bits"),
        Field("kernel_h", 9, "rows of taps", count=True, counted="kernel_bits"),
        Field("channel_words", 12, "words of a pixel that are read", count=True, counted="channel_bits"),
        Field("out_w", 12, "output columns", count=True, counted="plane_bits", reach=width_reach),
        Field("out_h", 12, "output rows", count=True, counted="plane_bits", reach="output_bits"),
    )


LOAD = Layout(
    Opcode.LOAD,
    Unit.LOAD,
    (
        Field("target", 3, "the buffer", enum=Target, checked=True),
        Field(
            "destination", 23, "first word in the target; ignored for INSTRUCTION", reach="load_address_bits"
        ),
        Field("source", 32, "bytes, a multiple of the bus width", reach="memory_bits"),
        Field("words", 24, "words of the target", count=True, checked=True, counted="word_bits", reach=24),
        Field(
            "last_plane",
            2,
            "INDEX: every last_plane + 1 words belong to one block of weight words",
            below="index_planes",
            where=("target", Target.INDEX),
        ),
    ),
)

STORE = Layout(
    Opcode.STORE,
    Unit.STORE,
    (
        Field("source", 24, "first word in the activation buffer", reach=_ACT),
        Field("destination", 32, "bytes, a multiple of the bus width", reach="memory_bits"),
        Field("words", 24, "words of the buffer", count=True, checked=True, counted="word_bits", reach=24),
    ),
)

MOVE = Layout(
    Opcode.MOVE,
    Unit.STORE,
    (
        Field("base", 24, "word of the first pixel", reach=_ACT),
        Field("step", 24, "words from a pixel to the next", reach=_ACT),
        Field("destination", 24, "first weight word", reach="weight_address_bits"),
        Field(
            "words", 12, "activation words that the reduction fills", count=True, counted="channel_bits",
        ),
        Field("reduction", 16, "elements of the reduction that there are; the others are 0", count=True),
        Field("transposed", 1, "1: a pixel is a column of the tile, else an element of the reduction"),
        Field("columns", 9, "transposed: columns that there are; the others are 0", reach="column_bits"),
        Field("slice", 6, "not transposed: run of `cols` elements of the word that is read", reach="slice_bits"),
        Field(
            "index_bits", 3, "log2(m) of a pattern, of which the n largest of every m are kept; 0: all elements",
            reach="index_count_bits", only="computed_patterns", optional=True,
        ),
        Field(
            "index_shift", 3, "log2(m/n)", reach="index_count_bits", only="computed_patterns", optional=True
        ),
        Field("high", 1, "1: of each code the high digit, 0: the low one", only="computed_digits", optional=True),
    ),
    only="computed_weights",
)  # fmt: skip

MATRIX = Layout(
    Opcode.MATRIX,
    Unit.MATRIX,
    (
        *_window("tile_width_bits"),
        Field(
            "passes", 6, "weight tiles for an activation word: group/lanes if dense, ceil(n/lanes) if N:M", count=True,
            reach="pass_bits",
        ),
        Field("weight_base", 24, "first row of the first weight tile", reach="weight_address_bits"),
        # Lane l of pass p picks element (p*lanes + l) << index_shift, its low index_bits bits as stored.
        Field("index_bits", 3, "bits of an index that are stored; 0: none", reach="index_count_bits", only="indexed"),
        Field(
            "index_shift", 3, "log2(m/n) where n of each m elements are kept", reach="index_count_bits", only="indexed"
        ),
        Field("acc_base", 16, "first accumulator, counted through both banks", reach="acc_address_bits"),
        Field("accumulate", 1, "0: the first weight tile overwrites; 1: it adds too"),
        Field("padding", 8, "the activation code that padding reads", reach="activation_bits"),
        Field(
            "output_stationary", 1, "1: a row of the array computes a pixel, else a part of the reduction",
            only="output_stationary",
        ),
        Field(
            "slide", 1, "1: a pixel's tap is its neighbour's next (stride_x = dilation_x), so each is read once",
            only="output_stationary",
        ),
        Field(
            "last_steps", 12, "weight words of a tap's last channel word, if output_stationary",
            only="output_stationary",
        ),
        Field(
            "shifted", 1, "1: what the first weight tile adds to counts 2**weight.bits times", only="computed_digits",
            optional=True,
        ),
        Field("gradient", 1, "1: words hold gradients, in their own format", only="own_gradients", optional=True),
    ),
)  # fmt: skip

_MATRIX_ALONE = ("output_stationary", "computed_digits", "own_gradients")

FIR = Layout(
    Opcode.FIR,
    Unit.MATRIX,
    (
        *(f for f in MATRIX.fields if f.only not in _MATRIX_ALONE),
        Field("slice", 6, "run of `cols` elements of the word, of which each column has its own", reach="slice_bits"),
        Field(
            "line", 12, "words that are read of a line of the window's plane, at least out_w", count=True,
            counted="plane_bits", reach="output_bits",
        ),
        Field(
            "lines", 12, "lines of them, at least out_h", count=True, counted="plane_bits", reach="output_bits"
        ),
    ),
    only="depthwise",
)  # fmt: skip

OUTER = Layout(
    Opcode.OUTER,
    Unit.MATRIX,
    (
        *(f for f in MATRIX.fields if f.only not in _MATRIX_ALONE),
        Field(
            "weight_step", 24, "weight words from a pixel to the next in the order of the reads",
            reach="weight_address_bits",
        ),
        Field(
            "short", 3, "log2 of by how much the part of a word that a row takes is smaller than a group",
            only="short_groups", optional=True,
        ),
    ),
    only="outer_products",
)  # fmt: skip

DRAIN = Layout(
    Opcode.DRAIN,
    Unit.VECTOR,
    (
        Field("acc_base", 16, "first accumulator, counted through both banks", reach="acc_address_bits"),
        Field("out_w", 12, "output columns", count=True, counted="plane_bits", reach="output_bits"),
        Field("out_h", 12, "output rows", count=True, counted="plane_bits", reach="output_bits"),
        Field("parameter_base", 16, "first word of the tile's parameters", reach="parameter_address_bits"),
        Field("base", 24, "word of the first pixel", reach=_ACT),
        Field("step_x", 24, "words from a pixel to the next", reach=_ACT),
        Field("step_y", 24, "and from a row of them to the next", reach=_ACT),
        Field(
            "slice", 6, "run of `cols` elements of the word that is written, and read from the residual",
            reach="slice_bits",
        ),
        Field("residual", 1, "add one, or multiply by one", only="residual"),
        Field("residual_base", 24, "word of its first pixel", reach=_ACT, only="residual"),
        Field("residual_step_x", 24, "words from a pixel of it to the next", reach=_ACT, only="residual"),
        Field("residual_step_y", 24, "and from a row of them to the next", reach=_ACT, only="residual"),
        Field("residual_multiplier", 16, "of the residual; 0: multiply by it", only="residual"),
        Field("residual_shift", 7, "s0: the residual is shifted left by shift_c - s0", only="residual"),
        Field(
            "residual_zero", 10, "its zero point", signed=True, reach="zero_point_bits", only="residual"
        ),
        Field("zero_point", 10, "added before the clamp", signed=True, reach="zero_point_bits"),
        Field("low", 40, "clamp, in units of the format's fixed point", signed=True, reach="clamp_bits", top=True),
        Field("high", 40, "likewise", signed=True, reach="clamp_bits", top=True),
        Field("table", 1, "look the code up in the activation table", only="table"),
        Field("raw", 1, "write bits [raw_shift, raw_shift + activation bits) of acc + bias instead"),
        Field("raw_shift", 7, "of a raw output's digit"),
        Field(
            "gradient", 1, "1: the result and the residual are gradients, in their own format", only="own_gradients",
            optional=True,
        ),
    ),
)  # fmt: skip

POOL = Layout(
    Opcode.POOL,
    Unit.VECTOR,
    (
        *_window(),
        Field("out_base", 24, "word of the first output pixel", reach=_ACT),
        Field("out_step_x", 24, "words from an output pixel to the next", reach=_ACT),
        Field("out_step_y", 24, "and from a row of them to the next", reach=_ACT),
    ),
)

GATE = Layout(
    Opcode.GATE,
    Unit.VECTOR,
    (
        *POOL.fields,
        Field("second_base", 24, "word of the first pixel of the gradient; if `equal`, of the result", reach=_ACT),
        Field("second_step_x", 24, "words from a pixel of it to the next", reach=_ACT),
        Field("second_step_y", 24, "and from a row of them to the next", reach=_ACT),
        Field("equal", 1, "1: elements that equal the result's; 0: those between the bounds"),
        Field("distance", 24, "if `equal`, words from the result to the gradient", reach=_ACT),
        Field("above", 1, "there is a lower bound"),
        Field("low", 8, "code of the lower bound, excluded", reach="activation_bits"),
        Field("below", 1, "there is an upper bound"),
        Field("high", 8, "code of the upper bound, excluded", reach="activation_bits"),
    ),
    only="gates",
)  # fmt: skip

ROW = Layout(
    Opcode.ROW,
    Unit.VECTOR,
    (
        Field("base", 24, "word of the first row's first pixel", reach=_ACT),
        Field("step_x", 24, "words from a row to the next", reach=_ACT),
        Field("step_y", 24, "and from a line of rows to the next", reach=_ACT),
        Field("out_w", 12, "rows of a line", count=True, counted="plane_bits", reach="output_bits"),
        Field("out_h", 12, "lines of rows", count=True, counted="plane_bits", reach="output_bits"),
        Field("step_kx", 24, "words from a row's pixel to its next", reach=_ACT),
        Field("step_ky", 24, "and from a line of them to the next", reach=_ACT),
        Field("row_w", 12, "pixels of a row's line", count=True, counted="plane_bits", reach="output_bits"),
        Field("row_h", 12, "lines of pixels of a row", count=True, counted="plane_bits", reach="output_bits"),
        Field("channel_words", 12, "words of a pixel", count=True, counted="channel_bits"),
        Field("first", 16, "element of these words with which the row begins"),
        Field("last", 16, "and the one behind its end; others are copied"),
        Field("distance", 24, "words from what is read to where its result is written", reach=_ACT),
        Field("parameter_base", 16, "word of the first parameters", reach="parameter_address_bits"),
        Field("per_channel", 1, "1: `vector_lanes` elements of a pixel have a word of parameters; 0: all have one"),
        Field("normalize", 1, "1: normalization; 0: softmax"),
        Field("centred", 1, "1: less the mean", only="normalize"),
        Field("count", 16, "n: the row's elements, or 1 for its norm", only="normalize"),
        Field("zero", 40, "zero point of what is read", signed=True, reach="clamp_bits", top=True, only="normalize"),
        Field("epsilon", 72, "in units of n**2 * 2**-8", reach="epsilon_bits", only="normalize"),
        Field("zero_point", 10, "added before the clamp", signed=True, reach="zero_point_bits"),
        Field("low", 40, "clamp, in units of the format's fixed point", signed=True, reach="clamp_bits", top=True),
        Field("high", 40, "likewise", signed=True, reach="clamp_bits", top=True),
    ),
    only="row_unit",
)  # fmt: skip

UPDATE = Layout(
    Opcode.UPDATE,
    Unit.VECTOR,
    (
        Field("velocity", 24, "first word of velocities, int32, which are replaced", reach=_ACT),
        Field("master", 24, "first word of master weights, likewise", reach=_ACT),
        Field("gradient", 24, "first word of the lowest digits of the gradient's sums", reach=_ACT),
        Field("plane", 24, "words from a digit to the next", reach=_ACT),
        Field("codes", 24, "first word of codes that is written", reach=_ACT),
        Field("words", 24, "words of codes", count=True, counted="word_bits", reach=24),
        Field("momentum", 16, "of the velocity"),
        Field("momentum_shift", 6, "the factor is momentum * 2**-momentum_shift; at most 61"),
        Field("decay", 16, "of the master weight"),
        Field("decay_shift", 6, "likewise"),
        Field("rate", 16, "of the gradient"),
        Field("rate_shift", 6, "likewise"),
        Field("multiplier", 16, "of a master weight in fixed-point units of the format"),
        Field("shift", 7, "the factor is multiplier * 2**-shift"),
        Field(
            "step",
            24,
            "words from a word of codes to the next",
            reach=_ACT,
            only="pruned_decay",
            optional=True,
        ),
        Field(
            "index_bits",
            3,
            "log2(m) of the pattern that the old codes keep; 0: all",
            only="pruned_decay",
            optional=True,
        ),
        Field("index_shift", 3, "its log2(m/n)", only="pruned_decay", optional=True),
        Field(
            "pruned", 16, "in the place of decay for what it leaves out", only="pruned_decay", optional=True
        ),
    ),
    only="update",
)

END = Layout(Opcode.END, None)

_ALL = (LOAD, MATRIX, FIR, OUTER, DRAIN, POOL, GATE, ROW, STORE, MOVE, UPDATE, END)
LAYOUTS = {layout.opcode: layout for layout in _ALL}

EXECUTED = tuple(layout for layout in LAYOUTS.values() if layout.unit is not None)
"""All but END, which the dispatcher keeps."""


def instructions_of(unit: Unit, config: AcceleratorConfig) -> tuple[Layout, ...]:
    """Those that the machine has."""
    mine = (layout for layout in EXECUTED if layout.unit is unit)
    return tuple(layout for layout in mine if not layout.only or getattr(config, layout.only))


def bits_of(field: str, opcode: Opcode = Opcode.MATRIX) -> int:
    """KeyError for an unknown field."""
    return {f.name: f.bits for f in LAYOUTS[opcode].all_fields}[field]


def _most(name: str) -> int:
    return max(f.bits for layout in EXECUTED for f in layout.fields if f.counted == name)


LIMITS: tuple[tuple[str, int, int], ...] = (
    ("plane_bits", 1, _most("plane_bits")),
    # y0 + (out_h-1)*stride_y + (kernel_h-1)*dilation_y <= 8191 + 4094*63 + 510*255 < 2**19 for any field values
    ("position_bits", 2, 20),
    ("kernel_bits", 1, _most("kernel_bits")),
    ("channel_bits", 1, _most("channel_bits")),
    ("stride_bits", 1, _most("stride_bits")),
    ("dilation_bits", 1, _most("dilation_bits")),
    ("memory_bits", 13, bits_of("source", Opcode.LOAD)),
    ("word_bits", 1, _most("word_bits")),
    ("token_bits", 1, 6),
)
"""Fields of the configuration that say how far a machine counts: least and most bits."""

TOKEN_PAIRS = len(Unit) ** 2
"""Ordered pairs of units: bits of `token_pairs`, of which len(Unit)*giver + taker is one."""
