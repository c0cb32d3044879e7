"""Boards that a bitstream can be made for: the part, the pins, the clock. Data, and the constraints made of it.

The machine that fits a board is the preset of the same name.

Pins, clock and I/O standards are those of amaranth-boards; a board that it does not have has its own here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sateen.errors import ConfigError, missing
from sateen.fpga.flow.place_and_route import Part
from sateen.fpga.flow.vivado import VENDOR_BOARDS

PORTS = ("clk", "rx", "tx")
"""Of the chip's top module."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A ball or pin of the package, and the attributes of its I/O cell."""

    name: str
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Pins:
    """What the chip is connected to, as the FPGA sees it: it listens on `rx` and drives `tx`."""

    clk: Pin
    clk_hz: int
    rx: Pin
    tx: Pin


@dataclass(frozen=True, slots=True)
class Board:
    """A board.

    Attributes
    ----------
    name, title : str
    part : Part
    pins : str or Pins
        "module.Class" of its platform in amaranth-boards, or the pins themselves.
    clock_hz : int
        What the machine of the preset with this name closes timing at.
    flash : str
        The command that loads {file} into the FPGA, or where that cannot be into its flash memory.
    uart : tuple of str, optional
        Where the platform names no serial port: connector, and on it the pins for rx and tx.
    pack : tuple of str
        Options of the program that makes the bitstream.
    note : str
        What its user must know.
    """

    name: str
    title: str
    part: Part
    pins: str | Pins
    clock_hz: int
    flash: str
    uart: tuple[str, str, str] | None = None
    pack: tuple[str, ...] = ()
    note: str = ""
    single_port: bool = False
    """Whether the chip's memory is RAM with one port, which has no contents at power-up: the host writes them."""

    @property
    def family(self) -> str:
        """Gowin's name of the part's family; empty elsewhere."""
        return dict(zip(self.pack, self.pack[1:], strict=False)).get("-d", "")

    def resolve(self) -> Pins:
        """The pins, from amaranth-boards where they are not here."""
        return self.pins if isinstance(self.pins, Pins) else _from_platform(self.pins, self.uart)


def _ecp5(device: str, package: str, speed: str) -> Part:
    return Part("ecp5", device, package, speed)


_LVCMOS33 = MappingProxyType({"IO_TYPE": "LVCMOS33"})
_NO_UART = (
    "has no USB serial converter: connect one (3.3 V) to pins {rx} (its TX) and {tx} (its RX) of the header"
)

BOARDS: dict[str, Board] = {
    b.name: b
    for b in (
        Board(
            name="ulx3s-85f",
            title="Radiona ULX3S, LFE5U-85F",
            part=_ecp5("85k", "CABGA381", "6"),
            pins="ulx3s.ULX3S_85F_Platform",
            clock_hz=80_000_000,
            flash="openFPGALoader -b ulx3s {file}",
        ),
        Board(
            name="orangecrab-25f",
            title="OrangeCrab r0.2, LFE5U-25F",
            part=_ecp5("25k", "CSFBGA285", "8"),
            pins="orangecrab_r0_2.OrangeCrabR0_2_25FPlatform",
            clock_hz=80_000_000,
            flash="dfu-util -a 0 -D {file}",
            uart=("io", "0", "1"),
            pack=("--freq", "38.8"),
            note=_NO_UART.format(rx=0, tx=1),
        ),
        Board(
            name="orangecrab-85f",
            title="OrangeCrab r0.2.1, LFE5U-85F",
            part=_ecp5("85k", "CSFBGA285", "8"),
            pins="orangecrab_r0_2.OrangeCrabR0_2_85FPlatform",
            clock_hz=96_000_000,
            flash="dfu-util -a 0 -D {file}",
            uart=("io", "0", "1"),
            pack=("--freq", "38.8"),
            note=_NO_UART.format(rx=0, tx=1),
        ),
        Board(
            name="ecpix5-85f",
            title="LambdaConcept ECPIX-5, LFE5UM5G-85F",
            part=_ecp5("um5g-85k", "CABGA554", "8"),
            pins="ecpix5.ECPIX585Platform",
            clock_hz=100_000_000,
            flash="openFPGALoader -b ecpix5 {file}",
        ),
        Board(
            name="icebreaker",
            title="1BitSquared iCEBreaker, iCE40UP5K",
            # Eight cells share clock, enable and reset: with fewer groups that do, 95 % of them can be placed.
            part=Part("ice40", "up5k", "sg48", synth="-spram -dffe_min_ce_use 8"),
            pins="icebreaker.ICEBreakerPlatform",
            clock_hz=24_000_000,
            flash="openFPGALoader -b ice40_generic {file}",
            single_port=True,
        ),
        Board(
            name="tangnano-9k",
            title="Sipeed Tang Nano 9K, GW1NR-9C",
            part=Part("gowin", "GW1NR-LV9QN88PC6/I5", options=("--vopt", "family=GW1N-9C")),
            pins="tang_nano_9k.TangNano9kPlatform",
            clock_hz=27_000_000,
            flash="openFPGALoader -b tangnano9k {file}",
            pack=("-d", "GW1N-9C", "--sspi_as_gpio", "--mspi_as_gpio"),
        ),
        # Ref: Sipeed, Tang Nano 20K schematic: 27 MHz on pin 4, the USB bridge's TX on 70 and RX on 69.
        Board(
            name="tangnano-20k",
            title="Sipeed Tang Nano 20K, GW2AR-18C",
            part=Part(
                "gowin", "GW2AR-LV18QN88C8/I7", options=("--vopt", "family=GW2A-18C"), synth="-family gw2a"
            ),
            pins=Pins(
                clk=Pin("4", _LVCMOS33),
                clk_hz=27_000_000,
                rx=Pin("70", _LVCMOS33),
                tx=Pin("69", _LVCMOS33),
            ),
            clock_hz=27_000_000,
            flash="openFPGALoader -b tangnano20k {file}",
            pack=("-d", "GW2A-18C", "--sspi_as_gpio", "--mspi_as_gpio"),
        ),
    )
}


def board(name: str) -> Board:
    """The board of that name. Raises ConfigError."""
    if name not in BOARDS:
        raise ConfigError(
            f"unknown board '{name}'; boards are {', '.join(BOARDS)}; bitstream also writes Vivado projects for "
            f"{', '.join(VENDOR_BOARDS)}"
        )
    return BOARDS[name]


def _from_platform(path: str, uart: tuple[str, str, str] | None) -> Pins:
    from amaranth.build import Attrs

    try:
        from amaranth_boards.resources import UARTResource
    except ImportError:
        raise missing("amaranth-boards", "link") from None

    module, _, name = path.rpartition(".")
    platform = getattr(importlib.import_module(f"amaranth_boards.{module}"), name)()
    clock = platform.default_clk
    clk_hz = round(platform.lookup(clock).clock.frequency)
    if uart is not None:
        connector, rx, tx = uart
        attributes = Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")
        platform.add_resources([UARTResource(0, rx=rx, tx=tx, conn=(connector, 0), attrs=attributes)])
    resource = platform.lookup("uart")
    serial = platform.request("uart", dir={ios.name: "-" for ios in resource.ios})
    clk = platform.request(clock, dir="-")
    return Pins(clk=_pin(clk), clk_hz=clk_hz, rx=_pin(serial.rx), tx=_pin(serial.tx))


def _pin(port: Any) -> Pin:
    metadata = port.io.metadata[0]
    return Pin(metadata.name, {k: str(v) for k, v in metadata.attrs.items()})


# -- constraints --------------------------------------------------------------------------------------------


def constraints(board: Board) -> str:
    """The pins of the chip's ports, in the language of the part's nextpnr (LPF, PCF or CST)."""
    pins = board.resolve()
    write = {"ecp5": _lpf, "ice40": _pcf, "gowin": _cst}[board.part.architecture]
    return "".join(write(port, getattr(pins, port)) for port in PORTS)


def _lpf(port: str, pin: Pin) -> str:
    attributes = " ".join(f"{k}={v}" for k, v in pin.attributes.items())
    return f'LOCATE COMP "{port}" SITE "{pin.name}";\nIOBUF PORT "{port}" {attributes};\n'


def _pcf(port: str, pin: Pin) -> str:
    # The bank's voltage decides on the standard there; a pull-up is all that nextpnr can be asked for.
    pull = "-pullup yes " if port != "tx" and pin.attributes.get("PULLUP") == "1" else ""
    return f"set_io {pull}{port} {pin.name}\n"


def _cst(port: str, pin: Pin) -> str:
    attributes = " ".join(f"{k}={v}" for k, v in pin.attributes.items())
    return f'IO_LOC "{port}" {pin.name};\n' + (f'IO_PORT "{port}" {attributes};\n' if attributes else "")
