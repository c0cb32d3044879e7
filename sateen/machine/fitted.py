"""What a machine fits of one program: how far it counts, and what its program never does."""

from __future__ import annotations

from dataclasses import dataclass

from sateen.machine.isa import LIMITS, TOKEN_PAIRS
from sateen.machine.settings import Limit, between, rule, setting


def _counted(name: str) -> Limit:
    """As the instruction set says."""
    least, most = next((least, most) for counted, least, most in LIMITS if counted == name)
    return between(least, most, f"from {least} to {most}")


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the compiler sets with `narrow`, to what the program needs; by default what any program may ask for.

    A person leaves it alone. On a machine that is not `narrow` the compiler checks that it is enough.
    """

    plane_bits: int = setting(14, "bits of a plane's height and width, in and out", _counted("plane_bits"))
    position_bits: int = setting(
        20, "bits of a position in or around a plane, which may be negative", _counted("position_bits")
    )
    kernel_bits: int = setting(9, "bits of a kernel's height and width", _counted("kernel_bits"))
    channel_bits: int = setting(12, "bits of the words of a pixel", _counted("channel_bits"))
    stride_bits: int = setting(6, "bits of a stride", _counted("stride_bits"))
    dilation_bits: int = setting(8, "bits of a dilation", _counted("dilation_bits"))
    memory_bits: int = setting(
        32,
        "bits of a byte's address in memory; with less than 32, addresses on the bus have no more, either",
        _counted("memory_bits"),
    )
    word_bits: int = setting(24, "bits of the words that a LOAD or STORE moves", _counted("word_bits"))
    token_bits: int = setting(6, "bits of a count of tokens", _counted("token_bits"))
    token_pairs: int = setting(
        (1 << TOKEN_PAIRS) - 1,
        "which unit may give tokens to which: bit 4*giver + taker, as `machine.isa.Unit` numbers them",
        between(1, (1 << TOKEN_PAIRS) - 1, f"below 2**{TOKEN_PAIRS}"),
    )
    residual: bool = setting(True, "whether the vector unit can add a residual")

    @property
    def output_bits(self) -> int:
        """Of an output's height and width, 12 in an instruction."""
        return min(12, self.plane_bits)

    @property
    def bus_address_bits(self) -> int:
        return 64 if self.memory_bits == 32 else self.memory_bits


@rule("position_bits")
def beyond_a_plane(position_bits: int, plane_bits: int) -> str | None:
    """above plane_bits"""
    return None if position_bits > plane_bits else f"above plane_bits = {plane_bits}"


RULES = (beyond_a_plane,)
