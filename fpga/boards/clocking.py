"""Clock synthesis: the dividers of a part's PLL, and the primitive as Amaranth instantiates it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Const, Instance, Module, Signal, Value

from sateen.errors import ConfigError

TOLERANCE = 0.005
"""How far the clock may be from what was asked for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a PLL, in Hz. The phase detector gets `input / divider`; the oscillator is its `multiplier`-fold times the
    output divider where the feedback comes from the output, else the output divider divides it."""

    detector: tuple[float, float]
    oscillator: tuple[float, float]
    dividers: range
    multipliers: range
    outputs: tuple[int, ...]
    feedback_from_output: bool


LIMITS = {
    # Ref: Lattice FPGA-DS-02012 (ECP5), sysCLOCK PLL timing; FPGA-TN-02200 for the dividers. The feedback takes an
    # output of its own, whose divider makes the multiplier larger and leaves the machine's any value.
    "ecp5": Limits((10e6, 400e6), (400e6, 800e6), range(1, 129), range(2, 81), tuple(range(2, 129)), False),
    # Ref: Lattice FPGA-DS-02008 (iCE40 UltraPlus), PLL timing; FPGA-TN-02052 for the dividers.
    "ice40": Limits(
        (10e6, 133e6), (533e6, 1066e6), range(1, 17), range(1, 129), (2, 4, 8, 16, 32, 64), False
    ),
    # Ref: Gowin DS117 (GW1NR) and DS226 (GW2AR), PLL switching characteristics, what both allow; UG286.
    "gowin": Limits(
        (3e6, 400e6),
        (500e6, 1200e6),
        range(1, 65),
        range(1, 65),
        (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128),
        True,
    ),
}


@dataclass(frozen=True, slots=True)
class Dividers:
    """One way to make a clock."""

    input: int
    feedback: int
    output: int
    hz: float
    detector_hz: float


def dividers(architecture: str, input_hz: int, output_hz: int) -> Dividers:
    """Those whose clock is nearest. Raises ConfigError."""
    limits = LIMITS[architecture]
    found = min(
        _candidates(limits, input_hz, output_hz), key=lambda d: (abs(d.hz - output_hz), d.input), default=None
    )
    if found is None or abs(found.hz - output_hz) > TOLERANCE * output_hz:
        nearest = f"; the nearest is {found.hz / 1e6:.3f} MHz" if found else ""
        raise ConfigError(
            f"clock of {output_hz / 1e6:g} MHz: the PLL of {architecture} cannot make it from {input_hz / 1e6:g} MHz"
            f"{nearest}; choose another with --clock"
        )
    return found


def highest_below(architecture: str, input_hz: int, limit_hz: float) -> Dividers | None:
    """Those that make the highest clock of no more than the limit; None where there is none."""
    candidates = (d for d in _candidates(LIMITS[architecture], input_hz, limit_hz) if d.hz <= limit_hz)
    return max(candidates, key=lambda d: (round(d.hz), -d.input), default=None)


def _candidates(limits: Limits, input_hz: int, output_hz: float) -> Iterator[Dividers]:
    low, high = limits.oscillator
    for divider in limits.dividers:
        detector = input_hz / divider
        if not limits.detector[0] <= detector <= limits.detector[1]:
            continue
        for output in limits.outputs:
            ratio = output_hz / detector * (1 if limits.feedback_from_output else output)
            for multiplier in {math.floor(ratio), math.ceil(ratio)} & set(limits.multipliers):
                oscillator = detector * multiplier * (output if limits.feedback_from_output else 1)
                if low <= oscillator <= high:
                    yield Dividers(divider, multiplier, output, oscillator / output, detector)


def pll(m: Module, architecture: str, d: Dividers, source: Value, family: str = "") -> tuple[Signal, Signal]:
    """Add the PLL to a module: its clock, and whether it is locked."""
    clk, locked = Signal(), Signal()
    m.submodules.pll = _PRIMITIVES[architecture](d, source, clk, locked, family)
    return clk, locked


def redivide(cells: dict[str, Any], architecture: str, d: Dividers) -> None:
    """Change a placed design, the cells of the JSON that nextpnr writes, to divide otherwise."""
    placed, fields = _PLACED[architecture], _FIELDS[architecture](d)
    (pll,) = (cell for cell in cells.values() if cell["type"] == placed)
    for name, value in fields.items():
        if isinstance(value, int):
            pll["parameters"][name] = f"{value:0{len(pll['parameters'][name])}b}"


def _ecp5_fields(d: Dividers) -> dict[str, int | str]:
    divider = next(n for n in range(2, d.feedback + 1) if d.feedback % n == 0)
    return {
        "CLKI_DIV": d.input,
        "CLKFB_DIV": d.feedback // divider,
        "FEEDBK_PATH": "CLKOS",
        "CLKOS_ENABLE": "ENABLED",
        "CLKOS_DIV": divider,
        "CLKOS_CPHASE": divider // 2,
        "CLKOP_ENABLE": "ENABLED",
        "CLKOP_DIV": d.output,
        "CLKOP_CPHASE": d.output // 2,
    }


def _ecp5(d: Dividers, source: Value, clk: Signal, locked: Signal, family: str) -> Instance:
    back = Signal()
    return Instance(
        "EHXPLLL",
        # Charge pump and loop filter as Lattice's tools set them for any clock.
        a_ICP_CURRENT="12",
        a_LPF_RESISTOR="8",
        a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        **{f"p_{name}": value for name, value in _ecp5_fields(d).items()},
        i_CLKI=source,
        i_CLKFB=back,
        o_CLKOS=back,
        i_RST=Const(0),
        i_STDBY=Const(0),
        o_CLKOP=clk,
        o_LOCK=locked,
    )


_ICE40_BITS = {"DIVR": 4, "DIVF": 7, "DIVQ": 3, "FILTER_RANGE": 3}


def _ice40_fields(d: Dividers) -> dict[str, int | str]:
    # Ref: FPGA-TN-02052, FILTER_RANGE by the phase detector's frequency.
    filter_range = next(
        (r for r, limit in enumerate((17e6, 26e6, 44e6, 66e6, 101e6), 1) if d.detector_hz < limit), 6
    )
    return {
        "DIVR": d.input - 1,
        "DIVF": d.feedback - 1,
        "DIVQ": d.output.bit_length() - 1,
        "FILTER_RANGE": filter_range,
    }


def _ice40(d: Dividers, source: Value, clk: Signal, locked: Signal, family: str) -> Instance:
    fields = _ice40_fields(d)
    return Instance(
        "SB_PLL40_PAD",
        p_FEEDBACK_PATH="SIMPLE",
        **{f"p_{name}": Const(fields[name], bits) for name, bits in _ICE40_BITS.items()},
        i_PACKAGEPIN=source,
        i_RESETB=Const(1),
        i_BYPASS=Const(0),
        o_PLLOUTGLOBAL=clk,
        o_LOCK=locked,
    )


def _gowin_fields(d: Dividers) -> dict[str, int | str]:
    return {
        "FCLKIN": f"{d.detector_hz * d.input / 1e6:g}",
        "IDIV_SEL": d.input - 1,
        "FBDIV_SEL": d.feedback - 1,
        "ODIV_SEL": d.output,
    }


def _gowin(d: Dividers, source: Value, clk: Signal, locked: Signal, family: str) -> Instance:
    ports = {
        f"i_{name}": Const(0, width)
        for name, width in {
            "CLKFB": 1,
            "RESET": 1,
            "RESET_P": 1,
            "FBDSEL": 6,
            "IDSEL": 6,
            "ODSEL": 6,
            "PSDA": 4,
            "DUTYDA": 4,
            "FDLY": 4,
        }.items()
    }
    return Instance(
        "rPLL",
        p_DEVICE=family,
        **{f"p_{name}": value for name, value in _gowin_fields(d).items()},
        p_DYN_IDIV_SEL="false",
        p_DYN_FBDIV_SEL="false",
        p_DYN_ODIV_SEL="false",
        p_CLKFB_SEL="internal",
        p_CLKOUT_BYPASS="false",
        i_CLKIN=source,
        o_CLKOUT=clk,
        o_LOCK=locked,
        **ports,
    )


_PRIMITIVES = {"ecp5": _ecp5, "ice40": _ice40, "gowin": _gowin}
_FIELDS = {"ecp5": _ecp5_fields, "ice40": _ice40_fields, "gowin": _gowin_fields}
_PLACED = {"ecp5": "EHXPLLL", "ice40": "ICESTORM_PLL", "gowin": "rPLL"}
"""As nextpnr calls the primitive once it is packed."""
