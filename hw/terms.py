"""What a component of the machine consists of and what its longest paths go through, as estimates see it.

A component says both beside its hardware, in terms of its configuration; all of them make a tree whose root is
`hw.chip.top.MACHINE`. What differs between FPGAs is asked of a `Technology` or of its `Delays` (fpga/estimate).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from amaranth.lib import wiring
from amaranth.utils import ceil_log2

from sateen.machine.config import AcceleratorConfig


@dataclass(frozen=True, slots=True)
class MemoryCells:
    """What a memory becomes."""

    kind: str
    """block, lut or ff"""
    cells: int
    units: int
    """Half block RAMs, LUTs, or flip-flops, in all."""
    ways: int
    """Cells that a bit of a word is in: a multiplexer of so many ways selects what is read."""
    unit: int = 1
    """Bits of a word in a cell."""
    direct: float = 0.0
    """Bits of a word that are in fewer cells, and need no multiplexer."""

    @property
    def blocks(self) -> int:
        """Block RAMs."""
        return self.cells if self.kind == "block" else 0


class Technology(Protocol):
    """A family of FPGAs, as far as components differ between families."""

    @property
    def carry_input(self) -> bool:
        """A carry goes on without LUTs above a number that is never negative."""

    @property
    def least_chain(self) -> int:
        """Flip-flops without a reset, one after the other, that LUTs take as a shift register; 0: none do."""

    def memory(
        self, width: int, depth: int, *, slices: int = 1, rows: int = 1, synchronous: bool = True
    ) -> MemoryCells:
        """The memory of `depth` words of `width` bits, with one read and one write port.

        A write enable is common to width/slices bits; a write is of `rows` words that lie side by side. Block RAM takes
        a read that is `synchronous`.
        """

    def mux(self, ways: int) -> float:
        """LUTs of a bit that is one of so many."""

    def dsps(self, a: int, b: int, *, signed: bool = True) -> int:
        """DSPs of a product of operands of so many bits."""

    def absorbed(self, a: int, b: int, *, signed: bool = True) -> bool:
        """Whether a product's register is the DSP's own."""

    def odd_bits(self, a: int, b: int) -> int:
        """Bits that one bit of the other operand, too many for the DSP, is multiplied with beside it."""


@dataclass(slots=True)
class Terms:
    """Bits by kind, for LUTs and for flip-flops, and what is known exactly.

    A term is a number of bits that take a LUT, or a flip-flop, or a fraction or a small multiple of one: an adder's, a
    multiplexer's, a register's. Memories and DSPs are counted by rule.
    """

    technology: Technology
    lut: dict[str, float] = field(default_factory=dict)
    ff: dict[str, float] = field(default_factory=dict)
    dsp: int = 0
    bram: int = 0
    """Half blocks."""

    def add(self, *, ff: float = 0, **lut: float) -> None:
        for name, n in lut.items():
            self.lut[name] = self.lut.get(name, 0.0) + n
        if ff:
            self.ff["registers"] = self.ff.get("registers", 0.0) + ff

    def store(self, found: MemoryCells, bits: int) -> None:
        """A memory whose word has `bits`."""
        if found.kind == "block":
            self.bram += found.units
            self.add(ff=ceil_log2(found.ways))
        elif found.kind == "lut":
            self.add(memory=found.units, ff=bits)
        else:
            self.add(ff=found.units + bits)
            self.read_registers(bits, found.units // bits)
        if found.ways > 1:
            ways = (bits - found.direct) * self.technology.mux(found.ways)
            self.add(**{f"{found.kind}_ways": ways, f"{found.kind}_decoder": found.ways})

    def read_registers(self, bits: int, depth: int) -> None:
        """What selects a word of a memory that is made of registers."""
        if depth > 1:
            self.add(ff_ways=bits * self.technology.mux(depth))

    def multiply(self, a: int, b: int, count: int = 1, *, signed: bool = True) -> None:
        """Products of equal shapes."""
        n = self.technology.dsps(a, b, signed=signed)
        self.dsp += n * count
        if n and (odd := self.technology.odd_bits(a, b)):
            self.add(odd=count * odd, odd_sums=count * (a + b - 17))
        if n == 0:
            self.add(partial_products=count * a * b, products=count)
        elif n > 1:
            self.add(partial_sums=count * (n - 1) * (a + b - 17))


class Delays(Protocol):
    """ns of the logic that a path goes through."""

    @property
    def register(self) -> float:
        """From the clock to the output of a flip-flop."""

    @property
    def memory(self) -> float:
        """From the clock to what a block RAM reads."""

    @property
    def lut(self) -> float: ...

    @property
    def product(self) -> float:
        """A product, from its operands to a register beside the DSP."""

    def multiply(self, a: int, b: int) -> float:
        """The same to its register, which may be the DSP's own, for operands of so many bits."""

    def carry(self, bits: int) -> float:
        """An adder or a comparison."""

    def select(self, ways: int) -> float:
        """One of so many."""


def _one(config: AcceleratorConfig) -> int:
    return 1


def _no_terms(config: AcceleratorConfig, terms: Terms) -> None:
    """For what is made of its children alone."""


def _no_blocks(config: AcceleratorConfig, technology: Technology) -> int:
    return 0


def _no_paths(config: AcceleratorConfig, delays: Delays) -> dict[str, float]:
    return {}


@dataclass(frozen=True, slots=True)
class Component:
    """A component of the machine, without its children."""

    name: str
    hardware: tuple[type[wiring.Component], ...]
    """Its class, and those of what is in it and has no terms of its own."""
    terms: Callable[[AcceleratorConfig, Terms], None] = _no_terms
    """Adds those of one instance."""
    instances: Callable[[AcceleratorConfig], int] = _one
    """How many its parent has."""
    children: tuple["Component", ...] = ()
    paths: Callable[[AcceleratorConfig, Delays], dict[str, float]] = _no_paths
    """The group of registers that a path ends in (fpga/estimate/clock_data.py) to ns of logic on the longest."""
    blocks: Callable[[AcceleratorConfig, Technology], int] = _no_blocks
    """Block RAMs and DSPs of one instance, where there are enough to stretch a machine's wires."""

    def walk(self, config: AcceleratorConfig, instances: int = 1) -> Iterator[tuple["Component", int]]:
        """It and what is in it, with how many the machine has; also those of which it has none."""
        yield self, instances
        for child in self.children:
            yield from child.walk(config, instances * child.instances(config))

    def everything(self) -> Iterator["Component"]:
        """It and what is in it, whatever the machine."""
        yield self
        for child in self.children:
            yield from child.everything()

    def of(self, config: AcceleratorConfig, technology: Technology) -> Terms:
        """Terms of one instance."""
        terms = Terms(technology)
        self.terms(config, terms)
        return terms
