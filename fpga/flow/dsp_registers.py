"""Registers of multipliers moved into ECP5's DSPs, which Yosys leaves beside them.

A product then leaves the DSP at the clock: one wire less on what is the longest path of an array.
Ref: Lattice FPGA-TN-02205, ECP5 sysDSP usage guide, MULT18X18D.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ABSORBING = ("ecp5",)
"""Architectures whose netlists go through here: before place and route, before simulation and before counting."""
MULTIPLIER, REGISTER = "MULT18X18D", "TRELLIS_FF"
BITS = 36

Module = dict[str, Any]
"""A module of the JSON that Yosys writes."""


def absorb_registers(module: Module) -> int:
    """Take product registers of a netlist into the multipliers that feed them; how many flip-flops that makes fewer.

    A multiplier takes its registers if each bit of its product that is read goes to a flip-flop and nowhere else, and
    those share clock, enable and reset, begin as zero and are set to zero. `module` is changed.
    """
    cells: dict[str, Any] = module["cells"]
    readers = _readers(module)
    gone: list[str] = []
    for cell in cells.values():
        if cell["type"] != MULTIPLIER or cell["parameters"].get("REG_OUTPUT_CLK", "NONE") != "NONE":
            continue
        products = [
            (p, bits[0]) for p in map("P{}".format, range(BITS)) if (bits := cell["connections"].get(p))
        ]
        read = {p: readers[bit] for p, bit in products if readers[bit]}
        if not read or any(len(found) != 1 or found[0][1] != "DI" for found in read.values()):
            continue
        registers = {p: found[0][0] for p, found in read.items()}
        controls = {_control(cells[name]) for name in registers.values()}
        if len(controls) != 1 or (control := controls.pop()) is None:
            continue
        clock, enable, reset = control
        cell["connections"] |= {p: cells[name]["connections"]["Q"] for p, name in registers.items()}
        cell["connections"] |= {"CLK0": [clock], "CE0": [enable], "RST0": [reset]}
        cell["port_directions"] |= {"CLK0": "input", "CE0": "input", "RST0": "input"}
        cell["parameters"] |= {
            "REG_OUTPUT_CLK": "CLK0",
            "REG_OUTPUT_CE": "CE0",
            "REG_OUTPUT_RST": "RST0",
            "RESETMODE": "SYNC",
        }
        gone += registers.values()
    for name in gone:
        del cells[name]
    return len(gone)


def absorb(netlist: dict[str, Any]) -> dict[str, int]:
    """The same for each module of a netlist, the content of Yosys's JSON; module to flip-flops."""
    return {name: absorb_registers(module) for name, module in netlist["modules"].items()}


def absorb_in_file(path: Path) -> dict[str, int]:
    """The same, and the file is written anew."""
    netlist = json.loads(path.read_text(encoding="utf-8"))
    fewer = absorb(netlist)
    path.write_text(json.dumps(netlist), encoding="utf-8")
    return fewer


def _readers(module: Module) -> dict[Any, list[tuple[str, str]]]:
    """Bit of a net to the inputs that it goes to, as (cell, port); an output of the module is one as well."""
    found: dict[Any, list[tuple[str, str]]] = defaultdict(list)
    for name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"].get(port) != "output":
                for bit in bits:
                    found[bit].append((name, port))
    for name, port in module["ports"].items():
        if port["direction"] != "input":
            for bit in port["bits"]:
                found[bit].append(("", name))
    return found


def _control(register: Mapping[str, Any]) -> tuple[Any, Any, Any] | None:
    """Clock, enable and reset of a flip-flop, constants as "0" and "1"; None for one that a DSP cannot be."""
    p, nets = register["parameters"], register["connections"]

    def choice(port: str) -> Any:
        """The net, or a constant where the multiplexer chooses one; None where it inverts."""
        mux = p.get(f"{port}MUX", port).strip()  # Yosys writes the text "1" as "1 ", apart from a number
        return nets[port][0] if mux == port and nets.get(port) else mux if mux in ("0", "1") else None

    clock, enable = choice("CLK"), choice("CE")
    reset = choice("LSR") if nets.get("LSR") else "0"
    plain = p.get("REGSET", "RESET") == "RESET" and p.get("SRMODE", "LSR_OVER_CE") == "LSR_OVER_CE"
    if not plain or clock is None or enable is None or reset is None:
        return None
    return clock, enable, reset
