"""Clock synthesis: the dividers of a part's PLL, and the primitive as Amaranth instantiates it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

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
    """One way to make a clock; without any, the input is the clock."""

    input: int
    feedback: int
    output: int
    hz: float
    detector_hz: float


def dividers(architecture: str, input_hz: int, output_hz: int) -> Dividers | None:
    """Those whose clock is nearest; None if the input will do. Raises ConfigError."""
    if input_hz == output_hz:
        return None
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


def _candidates(limits: Limits, input_hz: int, output_hz: int) -> Iterator[Dividers]:
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


def _ecp5(d: Dividers, source: Value, clk: Signal, locked: Signal, family: str) -> Instance:
    divider = next(n for n in range(2, d.feedback + 1) if d.feedback % n == 0)
    back = Signal()
    return Instance(
        "EHXPLLL",
        # Charge pump and loop filter as Lattice's tools set them for any clock.
        a_ICP_CURRENT="12",
        a_LPF_RESISTOR="8",
        a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        p_CLKI_DIV=d.input,
        p_CLKFB_DIV=d.feedback // divider,
        p_FEEDBK_PATH="CLKOS",
        p_CLKOS_ENABLE="ENABLED",
        p_CLKOS_DIV=divider,
        p_CLKOS_CPHASE=divider // 2,
        p_CLKOP_ENABLE="ENABLED",
        p_CLKOP_DIV=d.output,
        p_CLKOP_CPHASE=d.output // 2,
        i_CLKI=source,
        i_CLKFB=back,
        o_CLKOS=back,
        i_RST=Const(0),
        i_STDBY=Const(0),
        o_CLKOP=clk,
        o_LOCK=locked,
    )


def _ice40(d: Dividers, source: Value, clk: Signal, locked: Signal, family: str) -> Instance:
    # Ref: FPGA-TN-02052, FILTER_RANGE by the phase detector's frequency.
    filter_range = next(
        (r for r, limit in enumerate((17e6, 26e6, 44e6, 66e6, 101e6), 1) if d.detector_hz < limit), 6
    )
    return Instance(
        "SB_PLL40_PAD",
        p_FEEDBACK_PATH="SIMPLE",
        p_DIVR=Const(d.input - 1, 4),
        p_DIVF=Const(d.feedback - 1, 7),
        p_DIVQ=Const(d.output.bit_length() - 1, 3),
        p_FILTER_RANGE=Const(filter_range, 3),
        i_PACKAGEPIN=source,
        i_RESETB=Const(1),
        i_BYPASS=Const(0),
        o_PLLOUTGLOBAL=clk,
        o_LOCK=locked,
    )


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
        p_FCLKIN=f"{d.detector_hz * d.input / 1e6:g}",
        p_IDIV_SEL=d.input - 1,
        p_FBDIV_SEL=d.feedback - 1,
        p_ODIV_SEL=d.output,
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
