"""A DSP48E2 while it is put together, as a cell of the JSON that Yosys writes, and words of such a netlist.

Ref: AMD UG579, UltraScale Architecture DSP Slice, figure 2-1 and tables 2-2 to 2-6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Bit = int | str
"""A net's number, or a constant: "0", "1", "x"."""
Word = tuple[Bit, ...]
"""A number in two's complement, from its lowest bit; the highest is the sign, and no other equals it."""
A_BITS, B_BITS, P_BITS = 27, 18, 48
_OPMODE_M, _OPMODE_PCIN, _OPMODE_C = 0b000000101, 0b000010000, 0b110000000


@dataclass(frozen=True, slots=True)
class Control:
    """What a register is clocked, enabled and set to zero by."""

    clock: Bit
    enable: Bit = "1"
    reset: Bit = "0"

    @property
    def free(self) -> bool:
        return self.enable == "1" and self.reset == "0"


class Dsp:
    """A DSP48E2 with nothing in use but its multiplier; `new` makes so many bits that no net has yet."""

    def __init__(self, clock: Bit, new: Callable[[int], list[Bit]]):
        self._new = new
        self._opmode = _OPMODE_M
        zero = {"A": 30, "B": 18, "C": 48, "D": 27, "ACIN": 30, "BCIN": 18, "PCIN": 48, "INMODE": 5}
        zero |= {"ALUMODE": 4, "CARRYINSEL": 3, "CARRYIN": 1, "CARRYCASCIN": 1, "MULTSIGNIN": 1}
        self._nets: dict[str, list[Bit]] = {port: ["0"] * bits for port, bits in zero.items()}
        enables = ("A1", "A2", "AD", "ALUMODE", "B1", "B2", "C", "CARRYIN", "CTRL", "D", "INMODE", "M", "P")
        resets = ("A", "ALLCARRYIN", "ALUMODE", "B", "C", "CTRL", "D", "INMODE", "M", "P")
        for port in [*(f"CE{port}" for port in enables), *(f"RST{port}" for port in resets)]:
            self._nets[port] = ["0"]
        self._nets["CLK"] = [clock]
        registers = ["A", "ACASC", "AD", "ALUMODE", "B", "BCASC", "C", "CARRYIN", "CARRYINSEL", "D"]
        registers += ["INMODE", "M", "OPMODE", "P"]
        self._parameters = {f"{name}REG": binary(0) for name in registers}
        self.cell: dict[str, Any] = {
            "hide_name": 1,
            "type": "DSP48E2",
            "parameters": self._parameters,
            "attributes": {},
            "port_directions": dict.fromkeys([*self._nets, "OPMODE"], "input"),
            "connections": self._nets,
        }
        self._mode(0)

    def _mode(self, bits: int) -> None:
        self._opmode |= bits
        self._nets["OPMODE"] = [str(self._opmode >> n & 1) for n in range(9)]

    def operand(self, port: str, word: Word, control: Control | None, late: bool) -> None:
        """A or B, with a register of its own and, if `late`, a free one behind it."""
        self._nets[port] = extended(word, len(self._nets[port]))
        stages = ([control] if control else []) + [Control(self._nets["CLK"][0])] * late
        for n, stage in enumerate(stages):
            self._nets[f"CE{port}{n + 3 - len(stages)}"] = [stage.enable]  # the last one is always 2
            if stage.reset != "0":
                self._nets[f"RST{port}"] = [stage.reset]
        self._parameters |= {f"{port}REG": binary(len(stages)), f"{port}CASCREG": binary(len(stages))}

    def multiply(self, control: Control) -> None:
        self._parameters["MREG"] = binary(1)
        self._nets |= {"CEM": [control.enable], "RSTM": [control.reset]}

    def keep(self, control: Control) -> None:
        """The register of the result."""
        self._parameters["PREG"] = binary(1)
        self._nets |= {"CEP": [control.enable], "RSTP": [control.reset]}

    def add_c(self, word: Word) -> None:
        self._nets["C"] = extended(word, P_BITS)
        self._mode(_OPMODE_C)

    def add_cascade(self, bits: list[Bit]) -> None:
        self._nets["PCIN"] = bits
        self._mode(_OPMODE_PCIN)

    @property
    def cascades(self) -> bool:
        """The DSP above it is taken."""
        return "PCOUT" in self._nets

    def cascade(self) -> list[Bit]:
        """What goes up, once."""
        return self._output("PCOUT", self._new(P_BITS))

    def result(self, q: Sequence[Bit]) -> None:
        """P, from its lowest bit; constants among them are bits that nobody reads."""
        bits = [bit if isinstance(bit, int) else self._new(1)[0] for bit in q]
        self._output("P", bits + self._new(P_BITS - len(bits)))

    def _output(self, port: str, bits: list[Bit]) -> list[Bit]:
        self._nets[port] = bits
        self.cell["port_directions"][port] = "output"
        return bits


def number(text: str | int) -> int:
    """A parameter of Yosys's JSON."""
    return text if isinstance(text, int) else int(text, 2)


def binary(value: int) -> str:
    return f"{value:032b}"


def plain(bits: Sequence[Bit]) -> Word:
    """The same number without copies of its sign."""
    end = len(bits)
    while end > 1 and bits[end - 1] == bits[end - 2]:
        end -= 1
    return tuple(bits[:end])


def extended(word: Word, bits: int) -> list[Bit]:
    return list(word[:bits]) + [word[-1]] * (bits - len(word))
