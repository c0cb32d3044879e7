"""The array as a part of the configuration, with what its sizes must be together."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from sateen.formats import SparsityPattern, parse_format, parse_sparsity
from sateen.formats.digits import two_digits
from sateen.formats.sparsity import DENSE, PATTERNS
from sateen.machine.isa import Opcode, bits_of
from sateen.machine.settings import Limit, at_most, is_power_of_two, power_of_two, powers, rule, setting

MOST_PASSES = 1 << bits_of("passes", Opcode.MATRIX) - 1
"""Of a word, a power of two."""

WEIGHT_STATIONARY, OUTPUT_STATIONARY = DATAFLOWS = ("weight_stationary", "output_stationary")
DEPTHWISE = "depthwise"
"""Not for every layer, and so beside the dataflows."""


def _read_patterns(names: tuple[str, ...]) -> list[SparsityPattern]:
    return [parse_sparsity(name) for name in names]


def _sets_of_patterns() -> tuple[tuple[str, ...], ...]:
    others = [name for name in PATTERNS if name != DENSE.name]
    sets = (itertools.combinations(others, n) for n in range(len(others) + 1))
    return tuple((DENSE.name, *chosen) for chosen in itertools.chain(*sets))


@dataclass(frozen=True, slots=True)
class Array:
    """The array: `rows` × `cols` processing elements with `lanes` multipliers each.

    An activation word carries one group of `group` elements for each row. A dense word takes `group / lanes` passes.
    """

    rows: int = setting(
        4,
        "rows of the array: groups of the reduction at a time, or pixels if output-stationary",
        at_most(64),
        values=lambda: powers(1, 64),
    )
    cols: int = setting(4, "columns of the array: output channels at a time", power_of_two(256))
    lanes: int = setting(2, "multipliers of a processing element", at_most(16), values=lambda: powers(1, 16))
    group: int = setting(
        2,
        "elements of an activation word that a row has, of which its lanes pick theirs",
        values=lambda: powers(1, 16 * MOST_PASSES),
    )
    split_groups: bool = setting(
        False,
        "each lane picks from its own part of the group, by smaller multiplexers; patterns are of group / lanes "
        "elements at most",
        optional=True,
    )
    patterns: tuple[str, ...] = setting(
        (DENSE.name,),
        "N:M patterns that the elements have indices for; a layer may use any of them",
        Limit('a list with "dense" in it', lambda v: isinstance(v, tuple) and DENSE.name in v),
        reads=_read_patterns,
        values=_sets_of_patterns,
    )
    dataflows: tuple[str, ...] = setting(
        (WEIGHT_STATIONARY,),
        'how the array may be used; with "output_stationary" too, the compiler chooses for each layer',
        Limit(
            'a list with "weight_stationary" and perhaps "output_stationary" in it',
            lambda v: isinstance(v, tuple) and WEIGHT_STATIONARY in v and all(d in DATAFLOWS for d in v),
            ((WEIGHT_STATIONARY,), DATAFLOWS),
        ),
    )

    depthwise: bool = setting(
        False,
        "build the columns as FIR filters too, for convolutions whose output channels read one input channel each",
        optional=True,
    )
    outer_products: bool = setting(
        False,
        "build the elements to keep sums of outer products of pixels too, which are gradients of weights",
        optional=True,
    )
    short_groups: bool = setting(
        False,
        "build OUTER to give each row a smaller part of a word, so that words of few channels keep all rows busy",
        optional=True,
    )
    computed_weights: bool = setting(
        False,
        "a MOVE of activations into the weight buffer, for products of two computed tensors; where the model needs it, "
        "if `specialize`",
        optional=True,
    )
    transpose_words: int = setting(
        1,
        "weight words that a transposing MOVE makes at a time, with `computed_weights`",
        power_of_two(64),
        optional=True,
    )

    computed_patterns: bool = setting(
        False,
        "a MOVE that keeps the n largest of every m of what it makes weights of, with `computed_weights`, for all of "
        "`patterns`; where the model needs it, if `specialize`",
        optional=True,
    )

    @property
    def column_bits(self) -> int:
        """Of a number of columns, 1 to `cols`."""
        return self.cols.bit_length()

    @property
    def elements(self) -> int:
        """Elements of an activation word."""
        return self.rows * self.group

    @property
    def slices(self) -> int:
        """Runs of `cols` elements in an activation word: what one DRAIN writes at once."""
        return self.elements // self.cols

    @property
    def slice_bits(self) -> int:
        return (self.slices - 1).bit_length()

    @property
    def multipliers(self) -> int:
        """Of one array, of `arrays`."""
        return self.rows * self.cols * self.lanes

    @property
    def dense_passes(self) -> int:
        return self.group // self.lanes

    @property
    def sparse_patterns(self) -> tuple[SparsityPattern, ...]:
        """Those of `patterns` that leave something out."""
        return tuple(p for p in _read_patterns(self.patterns) if not p.dense)

    @property
    def choice(self) -> int:
        """Elements that a lane picks from."""
        return self.group // self.lanes if self.split_groups else self.group

    @property
    def sharing_lanes(self) -> int:
        """Lanes that pick from the same elements."""
        return 1 if self.split_groups else self.lanes

    @property
    def index_bits(self) -> int:
        """Bits of a lane's index into what it picks from; 0 where every lane has its own element."""
        return 0 if self.group == self.lanes else math.ceil(math.log2(self.choice))

    @property
    def index_planes(self) -> int:
        """Bits of an index that can be stored: those of the widest pattern's; the others are counted."""
        return max(parse_sparsity(p).index_bits for p in self.patterns)

    @property
    def index_count_bits(self) -> int:
        return self.index_planes.bit_length()

    @property
    def index_row_bits(self) -> int:
        """The indices of a weight word: for each plane one bit of every lane, in the same order."""
        return self.index_planes * self.cols * self.lanes

    @property
    def indexed(self) -> bool:
        """Whether the machine stores indices; one that is built for dense layers alone counts them."""
        return self.index_planes > 0

    @property
    def mappings(self) -> tuple[str, ...]:
        """Ways to compute a layer, those of some layers alone included."""
        return (*self.dataflows, DEPTHWISE) if self.depthwise else self.dataflows

    @property
    def output_stationary(self) -> bool:
        return OUTPUT_STATIONARY in self.dataflows

    @property
    def own_sums(self) -> bool:
        """Whether an element can add to its own sum."""
        return self.output_stationary or self.outer_products


@rule("group", first=True)
def indices_for_patterns(group: int, lanes: int, patterns: tuple[str, ...], split_groups: bool) -> str | None:
    """above lanes and a multiple of m, for every N:M of patterns, of m*lanes with split_groups"""
    for pattern in map(parse_sparsity, patterns):
        if pattern.dense:
            continue
        least, of = (pattern.m * lanes, " of each lane") if split_groups else (pattern.m, "")
        if not (group > lanes and group % least == 0):
            return f"above lanes = {lanes} and a multiple of {least}, for {pattern}{of} of patterns"
    return None


@rule("split_groups")
def groups_to_split(split_groups: bool, group: int, lanes: int) -> str | None:
    """false with one lane, or with a group of as many elements as there are lanes"""
    if group > lanes > 1 or not split_groups:
        return None
    return "false with one lane, or with a group of as many elements as there are lanes"


@rule("group")
def whole_passes(group: int, lanes: int) -> str | None:
    """a multiple of lanes"""
    return None if group >= lanes and group % lanes == 0 else f"a multiple of lanes = {lanes}"


@rule("group", about=f"at most {MOST_PASSES}*lanes")
def few_passes(group: int, lanes: int) -> str | None:
    if group // lanes <= MOST_PASSES:
        return None
    return f"at most {MOST_PASSES}*lanes = {MOST_PASSES * lanes}"


@rule("cols")
def whole_slices(cols: int, rows: int, group: int) -> str | None:
    """a divisor of rows*group"""
    return None if rows * group % cols == 0 else f"a divisor of rows*group = {rows * group}"


@rule("rows")
def word_of_a_power_of_two(rows: int, group: int) -> str | None:
    """such that rows*group is a power of two"""
    elements = rows * group
    return None if is_power_of_two(elements) else f"such that rows*group = {elements} is a power of two"


@rule("cols")
def few_slices(cols: int, rows: int, group: int) -> str | None:
    """at least rows*group/64"""
    elements = rows * group
    return None if elements // cols <= 64 else f"at least rows*group/64 = {elements // 64}"


@rule("transpose_words")
def words_of_a_tile(transpose_words: int, rows: int) -> str | None:
    """at most rows"""
    return None if transpose_words <= rows else f"at most rows = {rows}"


@rule("computed_weights")
def weights_like_activations(
    computed_weights: bool, weight_format: str, activation_format: str
) -> str | None:
    """false, unless weights and activations have one format, or an activation is two digits of weights"""
    if not computed_weights or weight_format == activation_format:
        return None
    if two_digits(parse_format(activation_format), parse_format(weight_format)):
        return None
    return (
        f"false, as weight_format = {weight_format!r} is not activation_format = {activation_format!r}, nor are "
        "activations two digits of weights"
    )


@rule("computed_patterns")
def patterns_of_computed_weights(
    computed_patterns: bool,
    computed_weights: bool,
    patterns: tuple[str, ...],
    lanes: int,
    weight_format: str,
    activation_format: str,
) -> str | None:
    """false, unless computed_weights, one format, lanes = 1 and patterns has one of N:M"""
    if not computed_patterns:
        return None
    if computed_weights and weight_format != activation_format:
        return f"false, as weight_format = {weight_format!r} is not activation_format = {activation_format!r}"
    if computed_weights and lanes == 1 and len(set(patterns)) > 1:
        return None
    return "false, unless computed_weights = true, lanes = 1 and patterns has an N:M pattern"


@rule("lanes")
def one_lane(lanes: int, outer_products: bool) -> str | None:
    """1, with outer_products"""
    return None if lanes == 1 or not outer_products else f"1, as outer_products = {outer_products}"


@rule("outer_products")
def pixels_like_weights(outer_products: bool, weight_format: str, activation_format: str) -> str | None:
    """false, unless weights and activations have one format"""
    if not outer_products or weight_format == activation_format:
        return None
    return f"false, as weight_format = {weight_format!r} is not activation_format = {activation_format!r}"


@rule("short_groups")
def parts_of_words(short_groups: bool, outer_products: bool, group: int) -> str | None:
    """false without outer_products, or with a group of 1"""
    return (
        "false without outer_products, or with a group of 1"
        if short_groups and not (outer_products and group > 1)
        else None
    )


@rule("arrays")
def one_array_to_train(arrays: int, update: bool, outer_products: bool) -> str | None:
    """1, with update or outer_products"""
    if arrays == 1 or not (update or outer_products):
        return None
    unit = "update" if update else "outer_products"
    return f"1, as {unit} = true: what training adds up over samples would stay in each array"


RULES = (
    indices_for_patterns, whole_passes, few_passes, whole_slices, word_of_a_power_of_two, few_slices, words_of_a_tile,
    weights_like_activations, patterns_of_computed_weights, one_lane, pixels_like_weights,
    parts_of_words, groups_to_split, one_array_to_train,
)  # fmt: skip
