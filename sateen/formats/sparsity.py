"""N:M sparsity along the reduction dimension (docs/architecture.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sateen.errors import FormatError


@dataclass(frozen=True, slots=True)
class SparsityPattern:
    """At most `n` nonzeros in each group of `m` consecutive elements of the reduction; dense is n = m."""

    n: int
    m: int

    def __post_init__(self) -> None:
        for field in ("n", "m"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise FormatError(f"SparsityPattern: {field} = {value!r}; it must be an integer above 0")
        if self.n > self.m:
            raise FormatError(
                f"SparsityPattern {self.n}:{self.m}: n must be at most m; dense is {self.m}:{self.m}"
            )
        if self.m > 1 << 8:
            raise FormatError(f"SparsityPattern {self.n}:{self.m}: m must be at most 256")

    @property
    def dense(self) -> bool:
        return self.n == self.m

    @property
    def name(self) -> str:
        return "dense" if self.dense else f"{self.n}:{self.m}"

    @property
    def index_bits(self) -> int:
        """Bits of a stored element's place in its group; dense elements store none."""
        return 0 if self.dense else (self.m - 1).bit_length()

    @property
    def density(self) -> float:
        """Fraction of elements that may be nonzero."""
        return self.n / self.m

    @classmethod
    def parse(cls, name: str) -> SparsityPattern:
        """As `parse_sparsity`."""
        return parse_sparsity(name)

    def __str__(self) -> str:
        return self.name


DENSE = SparsityPattern(1, 1)

PATTERNS: dict[str, SparsityPattern] = {
    p.name: p
    for p in (
        DENSE,
        SparsityPattern(1, 2),
        SparsityPattern(2, 4),
        SparsityPattern(1, 4),
        SparsityPattern(4, 8),
        SparsityPattern(2, 8),
        SparsityPattern(1, 8),
        SparsityPattern(2, 16),
    )
}


def parse_sparsity(name: str) -> SparsityPattern:
    """ "dense" or one of the catalogue's "N:M"; FormatError with the catalogue for anything else."""
    text = name.strip().lower() if isinstance(name, str) else ""
    if re.fullmatch(r"(\d+):\1", text):
        text = "dense"
    if text not in PATTERNS:
        raise FormatError(f"unknown sparsity {name!r}; patterns are {', '.join(PATTERNS)}")
    return PATTERNS[text]
