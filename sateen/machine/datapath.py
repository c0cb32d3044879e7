"""The formats and the vector unit as parts of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from sateen.formats import Format, parse_format
from sateen.formats.catalog import all_formats
from sateen.formats.rows import epsilon_bits
from sateen.formats.sparsity import DENSE
from sateen.machine.settings import between, one_of, powers, rule, setting


def _names_of_formats() -> list[str]:
    return [f.name for f in all_formats()]


@dataclass(frozen=True, slots=True)
class Formats:
    """What numbers are made of, from the operands of a product to its sum."""

    weight_format: str = setting(
        "int8", "number format of the weights", reads=parse_format, values=_names_of_formats
    )
    activation_format: str = setting(
        "int8", "number format of the activations", reads=parse_format, values=_names_of_formats
    )
    gradient_format: str = setting(
        "",
        "number format of gradients in training, of as many bits as activation_format; empty: that of activations",
        reads=lambda name: parse_format(name) if name else None,
        values=lambda: ["", *_names_of_formats()],
        optional=True,
    )
    acc_bits: int = setting(
        32, "bits of an accumulator; what the model needs, if `specialize`", between(8, 127)
    )
    multiplier: str = setting(
        "fixed",
        'how a product is made: "fixed" multiplies fixed-point operands, "shift" significands, then shifts',
        one_of("fixed", "shift"),
    )
    multipliers_in: str = setting(
        "dsp",
        'what multiplies: "dsp" is what synthesis makes of a product, "lut" a circuit of LUTs; with "mixed" '
        "every second column has that",
        one_of("dsp", "lut", "mixed"),
        optional=True,
    )

    @property
    def weight(self) -> Format:
        return parse_format(self.weight_format)

    @property
    def activation(self) -> Format:
        return parse_format(self.activation_format)

    @property
    def gradient(self) -> Format:
        return parse_format(self.gradient_format or self.activation_format)

    @property
    def own_gradients(self) -> bool:
        """Whether gradients have a format that activations do not have."""
        return self.gradient != self.activation

    @property
    def results(self) -> tuple[Format, ...]:
        """What sums are rounded to: the format of activations, and that of gradients where it is another."""
        return (self.activation, self.gradient) if self.own_gradients else (self.activation,)

    @property
    def activation_bits(self) -> int:
        return self.activation.bits

    @property
    def clamp_bits(self) -> int:
        """Of a clamp's bound, without its sign."""
        return max(fmt.fixed_bits for fmt in self.results) - 1

    @property
    def zero_point_bits(self) -> int:
        """Formats whose steps differ have theirs in the bias."""
        return 10 if self.activation.uniform else 0

    @property
    def epsilon_bits(self) -> int:
        """Of a normalization's epsilon."""
        return epsilon_bits(self.activation)

    @property
    def parameter_bits(self) -> int:
        """One channel's (bias, multiplier, shift), see isa.parameter_layout."""
        return self.acc_bits + 16 + 7


@dataclass(frozen=True, slots=True)
class Vector:
    """The vector unit, which requantizes sums and pools."""

    vector_lanes: int = setting(4, "channels that are requantized in a cycle", values=lambda: powers(1, 256))
    table: bool = setting(
        True, "a table for activation functions; only if the model uses one, if `specialize`"
    )
    product: bool = setting(
        False,
        "whether a DRAIN can multiply by its residual, for products of two computed tensors; where the model needs it, "
        "if `specialize`",
        optional=True,
    )
    softmax: bool = setting(
        False,
        "whether there is a unit for the softmax of rows (ROW); where the model needs it, if `specialize`",
        optional=True,
    )
    normalize: bool = setting(
        False,
        "the same for normalization by statistics of the sample, LayerNormalization and its kin",
        optional=True,
    )

    gates: bool = setting(
        False,
        "whether there is a unit for gates of gradients (GATE), those of Relu, Clip and max pools",
        optional=True,
    )
    update: bool = setting(
        False, "whether there is a unit that updates weights in training (UPDATE)", optional=True
    )
    update_lanes: int = setting(
        1,
        "weights that it works on at a time, three cycles each",
        values=lambda: powers(1, 64),
        optional=True,
    )
    pruned_decay: bool = setting(
        False,
        "whether UPDATE can decay weights that the pattern of their old codes leaves out by another factor (SR-STE)",
        optional=True,
    )

    @property
    def row_unit(self) -> bool:
        """Whether there is a ROW."""
        return self.softmax or self.normalize


@rule("vector_lanes")
def whole_lanes(vector_lanes: int, cols: int) -> str | None:
    """a divisor of cols"""
    return None if cols % vector_lanes == 0 else f"a divisor of cols = {cols}"


@rule("parameter_depth")
def two_tiles_of_parameters(parameter_depth: int, cols: int, vector_lanes: int) -> str | None:
    """at least 2*cols/vector_lanes"""
    least = 2 * cols // vector_lanes
    return None if parameter_depth >= least else f"at least 2*cols/vector_lanes = {least}"


@rule("product")
def reads_residuals(product: bool, residual: bool) -> str | None:
    """false without residual"""
    return None if residual or not product else "false without residual"


@rule("update")
def whole_integers(
    update: bool, rows: int, group: int, activation_format: str, update_lanes: int
) -> str | None:
    """false, unless codes have 1, 2, 4 or 8 bits and a word holds update_lanes integers of 32"""
    bits = parse_format(activation_format).bits
    held = rows * group * bits // 32
    if not update or (32 % bits == 0 and held and held % update_lanes == 0):
        return None
    return (
        f"false, unless activation_format has 1, 2, 4 or 8 bits (it has {bits}) and update_lanes divides the "
        f"{held} integers of 32 bits of a word of rows*group elements"
    )


@rule("pruned_decay")
def knows_patterns(pruned_decay: bool, update: bool, patterns: tuple[str, ...]) -> str | None:
    """false, unless update is set and patterns has one beside dense"""
    sparse = [p for p in patterns if p != DENSE.name]
    return (
        None
        if not pruned_decay or (update and sparse)
        else "false, unless update is set and patterns has one beside dense"
    )


@rule("gradient_format")
def codes_of_one_size(
    gradient_format: str,
    activation_format: str,
    weight_format: str,
    outer_products: bool,
) -> str | None:
    """empty, or with outer_products a format of weight_format's and activation_format's bits, with their zero"""
    if not gradient_format:
        return None
    own, fmt = parse_format(gradient_format), parse_format(activation_format)
    if not outer_products:
        return "empty without outer_products"
    if parse_format(weight_format) != fmt:
        return f"empty unless weight_format = {weight_format} is activation_format = {activation_format}"
    if (own.bits, own.zero_code, own.signed) != (fmt.bits, fmt.zero_code, fmt.signed):
        return f"a format of {fmt.bits} bits, with the sign and the code of zero of activation_format = {fmt.name}"
    return None


RULES = (
    codes_of_one_size,
    knows_patterns,
    whole_lanes,
    two_tiles_of_parameters,
    reads_residuals,
    whole_integers,
)
