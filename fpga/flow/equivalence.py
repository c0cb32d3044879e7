"""Proof that a design and its netlist are equal: for all inputs, at all times, from the state after configuration.

Registers are matched by name, for synthesis keeps theirs, and one step of induction does the rest: wherever all
registers are equal, all outputs are, and all registers are again in the next cycle; and they begin equal. Nothing
else is matched, as synthesis may give the name of a combinational signal to another function.

Multiplications can be cut out, for no solver here can compare two of 16 bits. Where the netlist multiplies, the
operands become outputs, proved equal to the design's, and the product becomes an input of both sides, free to be
anything. A product depends on its operands alone, so what is equal for any product is equal for the real one. The
design is first written as a sum of the products that a DSP makes; see products.v.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from sateen.errors import BuildError
from sateen.fpga.flow.synthesis import error_in, run_yosys

SUMS = ("ecp5", "ice40")
"""Architectures that products.v has a sum for."""

_PRODUCT = "(* blackbox *) module product(input [18:0] a, b, output [37:0] p); endmodule\n"
_MATCHED = "x:* t:$_*DFF* %co1:+[Q] w:* %i %u"  # ports, and what flip-flops drive


def prove_equal(
    verilog: str, gates: str, top: str, *, products: str | None = None, order: Sequence[int] | None = None
) -> None:
    """Prove that a design and its netlist behave alike; see the module's docstring.

    Parameters
    ----------
    products : str, optional
        The architecture, of SUMS, whose DSPs' multiplications are cut out.
    order : sequence of int, optional
        Which of the design's products each of the netlist's is, where both are in the order of their names.

    Raises
    ------
    BuildError
        The proof fails, which need not mean that they differ.
    """
    with tempfile.TemporaryDirectory(prefix="sateen-equal-") as name:
        folder = Path(name)
        (folder / "product.v").write_text(_PRODUCT, encoding="utf-8")
        rules = (files("sateen.fpga.flow") / "products.v").read_text(encoding="utf-8")
        for side, text, rule in (("gold", verilog, products), ("gate", gates, "whole")):
            (folder / f"{side}.v").write_text(text, encoding="utf-8")
            marked = re.sub(rf"^module {rule}\b", '(* techmap_celltype = "$mul" *) \\g<0>', rules, flags=re.M)
            (folder / f"{side}_map.v").write_text(marked, encoding="utf-8")
            script = f"read_verilog {side}.v; hierarchy -top {top}; proc; flatten; opt_expr; opt_clean; "
            if products:
                # Verilog extends operands to the width of the result
                script += "wreduce t:$mul; " if side == "gold" else ""
                script += f"read_verilog product.v; techmap -map {side}_map.v; opt_expr; opt_clean; "
            _yosys(folder, f"{script} write_rtlil {side}.il", top)
        cells = [
            _name_products(folder / f"{side}.il", order if side == "gate" else None)
            for side in ("gold", "gate")
        ]
        if cells[0] != cells[1]:
            raise BuildError(f"{top}: {cells[0]} products in the design, {cells[1]} in the netlist")
        script = ""
        for side in ("gold", "gate"):
            script += f"read_rtlil {side}.il; " + (
                "expose -evert t:product; delete =product; " if products else ""
            )
            # a register without a stated beginning starts at 0
            script += "memory_map; async2sync; techmap; setundef -init -zero; opt_clean; splitnets -ports; "
            if side == "gold":
                script += f"select -set matched {_MATCHED}; rename -hide w:* @matched %d{_absent(gates)}; "
            script += f"rename {top} {side}; design -stash {side}; "
        both = "design -copy-from gold -as gold gold; design -copy-from gate -as gate gate; "
        script += f"{both} equiv_make -make_assert gold gate start; hierarchy -top start; opt_clean; "
        script += "sat -verify -prove-asserts -tempinduct-baseonly -maxsteps 1 start; design -reset; "
        script += f"{both} equiv_make gold gate equiv; hierarchy -top equiv; opt_clean -purge; "
        script += "equiv_induct -seq 1; equiv_status -assert"
        _yosys(folder, script, top)


def _absent(gates: str) -> str:
    """Removes from a selection what the netlist has by name only, such as a register inside a DSP."""
    undriven = re.compile(r"^  assign (\\\S+|\w+) ?(?:\[(\d+)(?::(\d+))?\])? = \d+'hx+;$", re.M)
    selection = ""
    for name, high, low in undriven.findall(gates):
        for n in range(int(low or high), int(high) + 1) if high else ():
            bit = re.sub(r"([\[\]*?])", r"\\\1", f"{name.removeprefix(chr(92))}[{n}]")
            selection += f" w:{bit} %u"
    return selection


def _name_products(path: Path, order: Sequence[int] | None) -> int:
    """Number the products, in the order of their names or in that which is given; how many there are."""
    text = path.read_text(encoding="utf-8")
    names = sorted(re.findall(r"^  cell \\product (\S+)$", text, re.M), key=_natural)
    for place, name in zip(order or range(len(names)), names, strict=True):
        text = text.replace(f"cell \\product {name}\n", f"cell \\product \\cut_product_{place}\n")
    path.write_text(text, encoding="utf-8")
    return len(names)


def _natural(name: str) -> list[str | int]:
    """Numbers in it count as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _yosys(folder: Path, script: str, top: str) -> None:
    code, tail = run_yosys(script, folder)
    if code != 0:
        raise BuildError(f"{top}: netlist and design not proved equal: {error_in(tail)}")
