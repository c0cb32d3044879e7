"""Products, their registers and the sums they go to, made DSP48E2 in the netlist, where Yosys keeps them outside.

The netlist is of words: $mul, $add and registers, before synthesis maps them. A register of a sum of products becomes
one DSP for each product: the first ones add theirs up the cascade, into the register of the sum of lanes; the last
takes its operands a cycle later, so that its product comes beside that sum, and adds both to what is on C:

    total <= product_0 + product_1;  if (accumulate) psum <= psum_in + total;

With one product there is no sum of lanes, and a partial sum that comes from the DSP above comes by the cascade.
Products that are not summed here take their register, and that of an operand, alone.
Ref: AMD UG579, UltraScale Architecture DSP Slice, figure 2-1 and tables 2-2 to 2-6.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sateen.fpga.flow.dsp48e2 import A_BITS, B_BITS, P_BITS, Bit, Control, Dsp, Word, binary, number, plain

Module = dict[str, Any]
"""A module of the JSON that Yosys writes."""
Cells = dict[str, Any]

LEAST = 9
"""Bits of the least product that synthesis gives a DSP (Yosys, synth_xilinx)."""
LANES = 4
"""Most products of a sum: the sums of all but two go through their adders in one cycle."""
_REGISTERS = ("$dff", "$dffe", "$sdff", "$sdffe")


@dataclass(frozen=True, slots=True)
class Kept:
    """A word that registers hold."""

    q: Word
    d: Word
    control: Control


@dataclass(slots=True)
class Product:
    """A multiplication that one DSP makes."""

    cell: str
    a: Word
    b: Word
    y: Word
    register: Kept | None = None


@dataclass(slots=True)
class Sum:
    """A register of a sum: of products, in the order of their DSPs, and of `addend`."""

    register: Kept
    products: list[Product]
    addend: Word
    adders: set[str] = field(default_factory=set)
    total: Kept | None = None
    """The register of the products' sum, where there are several."""
    exact: bool = True
    """It never wraps: its word is the sum, not the sum modulo a power of two."""


PACKING = ("xcup",)
"""Architectures whose netlists can go through here."""


def pack_in_file(path: Path) -> int:
    """`pack_sums` for each module of a netlist, the content of Yosys's JSON; the file is written anew."""
    netlist = json.loads(path.read_text(encoding="utf-8"))
    made = sum(pack_sums(module) for module in netlist["modules"].values())
    path.write_text(json.dumps(netlist), encoding="utf-8")
    return made


def pack_sums(module: Module) -> int:
    """Make DSPs of a module's products with their registers and sums; how many. `module` is changed."""
    return _Packer(module).run()


class _Packer:
    def __init__(self, module: Module):
        self.module = module
        self.cells: Cells = module["cells"]
        self.driver: dict[Bit, tuple[str, int]] = {}
        """Of a cell's output: the cell, and the place in its word."""
        self.readers: dict[Bit, set[str]] = defaultdict(set)
        """The cells that a bit goes to; "" for an output of the module."""
        self.initial: dict[Bit, str] = {}
        self.next = 2
        self.claimed: set[Bit] = set()
        """Registers that a DSP has as its M or P."""
        self._late: dict[Bit, Bit] = {}
        self._made: dict[Word, tuple[Dsp, bool]] = {}
        """Sum that a DSP holds, to the DSP, and whether all bits of P are that number."""
        self._index()

    def run(self) -> int:
        products = [p for name in list(self.cells) if (p := self._product(name)) is not None]
        for product in products:
            product.register = self._behind(product.y, product.cell)
        kept = {plain(p.register.q): p for p in products if p.register is not None}
        sums = self._apart([s for name in self.cells if (s := self._sum(name, kept)) is not None])
        summed = {p.cell for s in sums for p in s.products}
        alone = [p for p in products if p.cell not in summed and p.register is not None]
        inside = [k for s in sums for k in (s.register, s.total, *(p.register for p in s.products))]
        inside += [p.register for p in alone]
        self.claimed = {bit for kept in inside if kept is not None for bit in kept.q} - {"0"}
        holds = {plain(s.register.q): s for s in sums}
        done: set[Word] = set()

        def place(s: Sum) -> None:
            """What it comes from first."""
            if s.register.q in done:
                return
            done.add(s.register.q)
            if (above := holds.get(s.addend)) is not None:
                place(above)
            self._place(s)

        for s in sums:
            place(s)
        for product in alone:
            self._place_alone(product)
        return sum(len(s.products) for s in sums) + len(alone)

    def _apart(self, sums: list[Sum]) -> list[Sum]:
        """Those that share nothing, of many products rather than of one."""
        taken: set[str] = set()
        found = []
        for s in sorted(sums, key=lambda s: -len(s.products)):
            mine = {p.cell for p in s.products} | s.adders
            if taken.isdisjoint(mine):
                taken |= mine
                found.append(s)
        return found

    # -- what is there ---------------------------------------------------------------------------------------

    def _index(self) -> None:
        for name, cell in self.cells.items():
            for port, bits in cell["connections"].items():
                self._see(bits)
                for n, bit in enumerate(bits):
                    if cell["port_directions"].get(port) == "output":
                        self.driver[bit] = (name, n)
                    else:
                        self.readers[bit].add(name)
        for port in self.module["ports"].values():
            self._see(port["bits"])
            if port["direction"] != "input":
                for bit in port["bits"]:
                    self.readers[bit].add("")
        for net in self.module["netnames"].values():
            self._see(net["bits"])
            if (text := net["attributes"].get("init")) is not None:
                for bit, value in zip(net["bits"], reversed(text), strict=False):
                    if value in "01":
                        self.initial[bit] = value

    def _see(self, bits: Iterable[Bit]) -> None:
        self.next = max([self.next, *(bit + 1 for bit in bits if isinstance(bit, int))])

    def _new(self, bits: int) -> list[Bit]:
        self.next += bits
        return list(range(self.next - bits, self.next))

    def _operand(self, name: str, port: str) -> Word:
        cell = self.cells[name]
        bits = list(cell["connections"][port])
        if not self._signed(cell):
            bits.append("0")
        return plain(bits)

    @staticmethod
    def _signed(cell: dict[str, Any]) -> bool:
        """Of two operands, one that is unsigned makes both so."""
        return all(number(cell["parameters"][f"{port}_SIGNED"]) for port in "AB")

    def _product(self, name: str) -> Product | None:
        """A multiplication that one DSP can make, with a result that keeps all of it."""
        cell = self.cells[name]
        if cell["type"] != "$mul":
            return None
        a, b = self._operand(name, "A"), self._operand(name, "B")
        y = list(cell["connections"]["Y"])
        widths = [len(cell["connections"][port]) for port in "AB"]
        whole = len(y) >= sum(widths)
        large = min(widths) > 1 and len(y) >= LEAST
        if not self._signed(cell):
            y.append("0")
        if len(b) > len(a):
            a, b = b, a
        fits = len(a) <= A_BITS and len(b) <= B_BITS and large
        return Product(name, a, b, plain(y)) if fits and whole else None

    def _register(self, q: Sequence[Bit]) -> Kept | None:
        """The registers whose word this is, if they have one control, begin as zero and are reset to it."""
        d: list[Bit] = []
        controls = set()
        for bit in q:
            if bit == "0":  # of a number that is never negative
                d.append(bit)
                continue
            name, place = self.driver.get(bit, ("", 0))
            cell = self.cells.get(name)
            if cell is None or cell["type"] not in _REGISTERS or self.initial.get(bit, "0") != "0":
                return None
            nets, given = cell["connections"], cell["parameters"]
            high = all(number(given.get(f"{p}_POLARITY", "1")) for p in ("CLK", "EN", "SRST"))
            if not high or "1" in given.get("SRST_VALUE", ""):
                return None
            controls.add(Control(nets["CLK"][0], nets.get("EN", ["1"])[0], nets.get("SRST", ["0"])[0]))
            d.append(nets["D"][place])
        return Kept(tuple(q), tuple(d), controls.pop()) if len(controls) == 1 else None

    def _behind(self, y: Word, reader: str) -> Kept | None:
        """The registers that a word goes to and nothing else does, but for the sign's copies."""
        q: list[Bit] = []
        for bit in y:
            if bit == "0":
                q.append(bit)
                continue
            found = self.readers[bit]
            if len(found) != 1 or self.cells.get(name := next(iter(found)), {}).get("type") not in _REGISTERS:
                return None
            nets = self.cells[name]["connections"]
            places = [n for n, d in enumerate(nets["D"]) if d == bit]
            if bit in nets.get("EN", []) + nets.get("SRST", []) or len(places) != 1:
                return None
            q.append(nets["Q"][places[0]])
        return self._register(q)

    def _only(self, word: Word, readers: set[str]) -> bool:
        """Whether nothing else reads it."""
        return all(self.readers[bit] <= readers for bit in word if bit != "0")

    def _sum(self, name: str, kept: dict[Word, Product]) -> Sum | None:
        """The register of this cell, if what it holds is such a sum."""
        cell = self.cells[name]
        if cell["type"] not in _REGISTERS:
            return None
        q = tuple(cell["connections"]["Q"])
        register = self._register(q)
        if register is None or len(q) > P_BITS:
            return None
        return self._added(register, name, kept) or self._first(register, name, kept)

    def _adder(self, y: Sequence[Bit]) -> str | None:
        """The adder whose whole result this is."""
        name, _ = self.driver.get(y[0], ("", 0))
        cell = self.cells.get(name, {"type": ""})
        return name if cell["type"] == "$add" and tuple(cell["connections"]["Y"]) == tuple(y) else None

    def _exact(self, adder: str) -> bool:
        widest = max(len(self._operand(adder, port)) for port in "AB")
        return len(self.cells[adder]["connections"]["Y"]) > widest

    def _added(self, register: Kept, name: str, kept: dict[Word, Product]) -> Sum | None:
        """What comes from elsewhere, and products."""
        y = self._unextended(plain(register.d)) if self.driver.get(register.d[0]) else register.d
        adder = self._adder(y)
        if adder is None or not self._only(register.d, {name}):
            return None
        exact = self._exact(adder)
        if len(y) < len(register.d) and not exact:
            return None
        a, b = self._operand(adder, "A"), self._operand(adder, "B")
        for mine, other in ((a, b), (b, a)):
            if (found := self._products(mine, {adder}, kept, register)) is not None:
                products, adders, total = found
                return Sum(register, products, other, adders | {adder}, total, exact)
        return None

    def _first(self, register: Kept, name: str, kept: dict[Word, Product]) -> Sum | None:
        """Products alone: nothing comes from above."""
        found = self._products(plain(register.d), {name}, kept, register)
        return None if found is None else Sum(register, found[0], (), found[1], found[2])

    def _products(
        self, word: Word, readers: set[str], kept: dict[Word, Product], register: Kept
    ) -> tuple[list[Product], set[str], Kept | None] | None:
        """The products that a word is the sum of, the adders in it, and the register that it comes from."""
        if not self._only(word, readers):
            return None
        if (product := kept.get(word)) is not None:
            assert product.register is not None
            same = product.register.control.clock == register.control.clock
            return ([product], set(), None) if same else None
        total = self._register(word)
        if total is None or not total.control.free or total.control.clock != register.control.clock:
            return None
        adder = self._adder(total.d)
        holders = {self.driver[bit][0] for bit in word if bit != "0"}
        if adder is None or not self._only(total.d, holders):
            return None
        products: list[Product] = []
        adders: set[str] = set()
        if not self._tree(adder, kept, products, adders) or not 2 <= len(products) <= LANES:
            return None
        controls = {p.register.control for p in products if p.register is not None}
        fits = len(controls) == 1 and next(iter(controls)).enable == "1"
        clocks = {c.clock for c in controls} | {register.control.clock}
        return (products, adders, total) if fits and len(clocks) == 1 else None

    def _tree(self, adder: str, kept: dict[Word, Product], products: list[Product], adders: set[str]) -> bool:
        """Whether an adder's result is an exact sum of different products; they are collected."""
        adders.add(adder)
        first = len(products)
        for word in (self._operand(adder, port) for port in "AB"):
            if not self._only(word, {adder}):
                return False
            product = kept.get(word)
            below = None if product else self._adder(self._unextended(word))
            if product is not None and product not in products:
                products.append(product)
            elif below is None or not self._tree(below, kept, products, adders):
                return False
        found = products[first:]
        widest = max(len(p.register.q) for p in found if p.register is not None)
        return len(self.cells[adder]["connections"]["Y"]) >= widest + (len(found) - 1).bit_length()

    def _unextended(self, word: Word) -> Word:
        """The whole result of the cell that it comes from, which has a sign of its own."""
        name, _ = self.driver.get(word[0], ("", 0))
        y = tuple(self.cells[name]["connections"].get("Y", ())) if name else ()
        return y if y and plain(y) == word else word

    # -- what is made ----------------------------------------------------------------------------------------

    def _place(self, s: Sum) -> None:
        control = s.register.control
        cascade: list[Bit] = []
        for n, product in enumerate(s.products[:-1]):
            dsp = self._dsp(product, control.clock)
            # the last but one holds the sum of lanes; those before it add in the same cycle
            if n == len(s.products) - 2:
                dsp.keep(Control(control.clock))
            if cascade:
                dsp.add_cascade(cascade)
            cascade = dsp.cascade()
        last = self._dsp(s.products[-1], control.clock, late=len(s.products) > 1)
        last.keep(control)
        above, whole = self._made.get(s.addend, (None, True)) if not cascade else (None, True)
        reaches = whole or len(s.addend) >= len(s.register.q)
        if above is not None and reaches and not above.cascades:
            cascade = above.cascade()
            s.exact = s.exact and whole
        elif s.addend not in ((), ("0",)):
            last.add_c(s.addend)
        if cascade:
            last.add_cascade(cascade)
        last.result(s.register.q)
        for name in s.adders:
            del self.cells[name]
        for kept in (s.total, s.register):
            if kept is not None:
                self._drop(kept.q)
        self._made[plain(s.register.q)] = last, s.exact

    def _place_alone(self, product: Product) -> None:
        assert product.register is not None
        dsp = self._dsp(product, product.register.control.clock)
        dsp.result(product.register.q)

    def _dsp(self, product: Product, clock: Bit, late: bool = False) -> Dsp:
        """A DSP with the registers of a product and of its operands; `late`: the operands wait a cycle more."""
        dsp = Dsp(clock, self._new)
        self.cells[f"$dsp${product.cell}"] = dsp.cell
        assert product.register is not None
        control = product.register.control
        operands = {"A": product.a, "B": product.b}
        registers = {port: self._before(product, word, clock, late) for port, word in operands.items()}
        for port, word in operands.items():
            found = registers[port]
            dsp.operand(port, found.d if found else word, found.control if found else None, late)
            self._drop(found.q if found else ())
        reset = self._delayed(control.reset, clock) if late else control.reset
        dsp.multiply(Control(clock, control.enable, reset))
        self._drop(product.register.q)
        del self.cells[product.cell]
        return dsp

    def _before(self, product: Product, word: Word, clock: Bit, late: bool) -> Kept | None:
        """The registers of an operand that a DSP can have instead: nothing else reads them."""
        found = self._register(word)
        if found is None or not self._only(word, {product.cell}) or not self.claimed.isdisjoint(word):
            return None
        fits = found.control.clock == clock and (found.control.reset == "0" or not late)
        return found if fits else None

    def _delayed(self, bit: Bit, clock: Bit) -> Bit:
        """The same bit a cycle later; its register begins as zero."""
        if isinstance(bit, str):
            return bit
        if bit not in self._late:
            (self._late[bit],) = self._new(1)
            self.module["netnames"][f"$late${bit}"] = {
                "hide_name": 1,
                "bits": [self._late[bit]],
                "attributes": {"init": "0"},
            }
            self.cells[f"$late_register${bit}"] = {
                "hide_name": 1,
                "type": "$dff",
                "parameters": {"WIDTH": binary(1), "CLK_POLARITY": binary(1)},
                "attributes": {},
                "port_directions": {"CLK": "input", "D": "input", "Q": "output"},
                "connections": {"CLK": [clock], "D": [bit], "Q": [self._late[bit]]},
            }
        return self._late[bit]

    def _drop(self, q: Sequence[Bit]) -> None:
        """Take bits out of their registers."""
        gone = set(q)
        for name in {self.driver[bit][0] for bit in q if bit in self.driver}:
            cell = self.cells.get(name)
            if cell is None or cell["type"] not in _REGISTERS:
                continue
            nets = cell["connections"]
            left = [n for n, bit in enumerate(nets["Q"]) if bit not in gone]
            if not left:
                del self.cells[name]
                continue
            for port in "DQ":
                nets[port] = [nets[port][n] for n in left]
            cell["parameters"]["WIDTH"] = binary(len(left))
            if (value := cell["parameters"].get("SRST_VALUE")) is not None:
                cell["parameters"]["SRST_VALUE"] = "".join(reversed([value[::-1][n] for n in left]))
            for place, bit in enumerate(nets["Q"]):
                self.driver[bit] = (name, place)
        for net in self.module["netnames"].values():
            if gone.isdisjoint(net["bits"]):
                continue
            attributes = net["attributes"]
            attributes.pop("keep", None)  # a name that nothing holds any more
            if (text := attributes.get("init")) is not None:
                values = ["x" if bit in gone else v for bit, v in zip(net["bits"], text[::-1], strict=False)]
                attributes["init"] = "".join(reversed(values))
