"""The table of boards against amaranth-boards, its constraints, the PLLs, and a small chip down to its bitstream."""

import importlib
import re
from dataclasses import replace

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.errors import ConfigError, LimitError
from sateen.fpga.boards.catalog import BOARDS, Pin, Pins, board, constraints
from sateen.fpga.boards.chip import RESET_S, Chip
from sateen.fpga.boards.clocking import LIMITS, TOLERANCE, dividers
from sateen.fpga.flow import bitstream
from sateen.fpga.flow.bitstream import largest_that_fits, make
from sateen.fpga.flow.place_and_route import ARCHITECTURES, Part
from sateen.machine.presets import PRESETS


class Delay(wiring.Component):
    """What it hears it says, some cycles later; with an adder on the way, so that a clock can be missed."""

    def __init__(self, *, cycles: int):
        self.cycles = cycles
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        line, count = Signal(self.cycles), Signal(24)
        m.d.sync += [line.eq(line << 1 | self.rx), count.eq(count + line[-1]), self.tx.eq(count[-1])]
        return m


def delay(target, clock_hz=None, cycles=4) -> str:
    return Chip(
        inside=Delay(cycles=cycles), board=target, clock_hz=clock_hz or target.resolve().clk_hz
    ).verilog()


# A part that the tools are quick with.
SMALL = replace(
    BOARDS["icebreaker"],
    part=Part("ice40", "hx1k", "tq144"),
    pins=Pins(clk=Pin("21"), clk_hz=12_000_000, rx=Pin("9"), tx=Pin("8")),
)


@pytest.mark.parametrize("name", BOARDS)
def test_each_board(name):
    b = board(name)
    pins = b.resolve()
    assert b.name == name and b.part.architecture in ARCHITECTURES and name in PRESETS
    assert len({pins.clk.name, pins.rx.name, pins.tx.name}) == 3
    assert 10e6 <= pins.clk_hz <= 100e6 and "{file}" in b.flash
    dividers(b.part.architecture, pins.clk_hz, b.clock_hz)
    text = constraints(b)
    for port, pin in (("clk", pins.clk), ("rx", pins.rx), ("tx", pins.tx)):
        assert re.search(rf"\b{port}\b.*\b{pin.name}\b", text), (port, text)


@pytest.mark.parametrize("b", [b for b in BOARDS.values() if isinstance(b.pins, str)], ids=lambda b: b.name)
def test_part_is_that_of_amaranth_boards(b):
    module, _, name = b.pins.rpartition(".")
    platform = getattr(importlib.import_module(f"amaranth_boards.{module}"), name)
    if b.part.architecture == "gowin":
        assert (b.part.device, b.family) == (platform.part, platform.family.replace("NR", "N"))
        return
    family, size = {"LFE5U": "", "LFE5UM5G": "um5g-", "iCE40UP5K": "up5k"}, platform.device.partition("-")
    assert b.part.device == family[size[0]] + size[2].lower().replace("f", "k")
    short = re.sub(
        r"^(CABGA|CSFBGA)", lambda found: {"CABGA": "BG", "CSFBGA": "MG"}[found[1]], b.part.package
    )
    assert short.lower() == platform.package.lower()
    assert b.part.speed == getattr(platform, "speed", "")


def test_constraints_in_each_language():
    assert 'LOCATE COMP "rx" SITE "M1";\nIOBUF PORT "rx" IO_TYPE=LVCMOS33;' in constraints(board("ulx3s-85f"))
    assert constraints(board("icebreaker")) == "set_io clk 35\nset_io -pullup yes rx 6\nset_io tx 9\n"
    text = constraints(board("tangnano-9k"))
    assert 'IO_LOC "rx" 18;' in text and 'IO_PORT "rx" PULL_MODE=UP IO_TYPE=LVCMOS33;' in text


def test_unknown_board():
    with pytest.raises(ConfigError, match="unknown board 'ulx3s'; boards are ulx3s-85f, "):
        board("ulx3s")


@pytest.mark.parametrize("architecture", LIMITS)
@pytest.mark.parametrize("input_mhz", [12, 25, 27, 48, 100])
def test_dividers_keep_the_limits(architecture, input_mhz):
    limits, found = LIMITS[architecture], 0
    for output_mhz in range(10, 151, 7):
        try:
            d = dividers(architecture, input_mhz * 10**6, output_mhz * 10**6)
        except ConfigError as e:
            assert "choose another with --clock" in str(e)
            continue
        found += 1
        oscillator = d.hz * d.output
        assert limits.detector[0] <= d.detector_hz <= limits.detector[1]
        assert limits.oscillator[0] <= oscillator <= limits.oscillator[1]
        ratio = d.feedback / d.input / (1 if limits.feedback_from_output else d.output)
        assert d.hz == pytest.approx(input_mhz * 1e6 * ratio)
        assert abs(d.hz - output_mhz * 1e6) <= TOLERANCE * output_mhz * 1e6
    assert found > 3
    assert dividers(architecture, 25_000_000, 25_000_000) is None


def test_reset_outlasts_the_start():
    target = board("ulx3s-85f")
    chip = Chip(inside=Delay(cycles=2), board=target, clock_hz=80_000_000)
    text = chip.verilog()
    width = int(re.search(r"reg \[(\d+):0\] count", text)[1]) + 1
    assert (1 << width) - 1 >= RESET_S * 80e6
    assert "EHXPLLL" in text and "locked" in text


@pytest.mark.parametrize(
    "name, start",
    [("ulx3s-85f", b"\xff\x00"), ("icebreaker", b"\xff\x00"), ("tangnano-9k", b"1111")],
)
def test_bitstream_of_a_small_chip(name, start, tmp_path):
    target = board(name)
    made = make(delay(target, target.clock_hz), target, target.clock_hz, tmp_path / "chip")
    assert (tmp_path / "chip").read_bytes().startswith(start)
    assert made.routed.fmax > target.clock_hz / 1e6 and set(made.seconds) == set(bitstream.SHARE)
    assert sum(made.routed.used.values()) > 20


def test_what_does_not_fit(tmp_path):
    with pytest.raises(
        LimitError,
        match=r"'icebreaker': the design does not fit ice40-hx1k-tq144: \d+ ICESTORM_LC of 1280 \(\d+ too",
    ):
        make(delay(SMALL, cycles=1500), SMALL, 12_000_000, tmp_path / "chip")
    assert not list(tmp_path.iterdir())


def test_what_is_too_slow(tmp_path):
    fast = replace(SMALL, pins=replace(SMALL.pins, clk_hz=500_000_000))
    with pytest.raises(
        LimitError, match=r"clock '.*' reaches [\d.]+ MHz of 500 \([\d.]+ too few\).*--clock \d+"
    ):
        make(delay(fast), fast, 500_000_000, tmp_path / "chip")
    assert not list(tmp_path.iterdir())


def test_a_clock_that_is_nearly_met_is_tried_again(tmp_path):
    def reached(mhz, attempts):
        fast = replace(SMALL, pins=replace(SMALL.pins, clk_hz=mhz * 1_000_000))
        with pytest.raises(LimitError) as caught:
            make(delay(fast), fast, mhz * 1_000_000, tmp_path / "chip", seed=3, attempts=attempts)
        message = str(caught.value)
        return float(re.search(r"reaches ([\d.]+) MHz", message)[1]), message

    fmax, message = reached(500, 2)
    assert "with seed 3;" in message and "--seed 4;" in message
    _, message = reached(round(1.1 * fmax), 2)
    assert "the best of 2;" in message and "--seed 5;" in message


def test_largest_that_fits():
    def measured(multipliers, used, fmax, architecture="ice40", speed=""):
        place = {"architecture": architecture, "speed": speed, "used": {"LC": used}, "fmax_mhz": fmax}
        return {"multipliers": multipliers, "boards": {"somewhere": place}}

    sizes = {
        "small": measured(2, 500, 60.0),
        "middle": measured(4, 900, 40.0),
        "large": measured(8, 1500, 50.0),
        "other": measured(16, 100, 99.0, "ecp5"),
    }
    assert largest_that_fits(SMALL, {"LC": 1280}, 12.0, sizes) == ("middle", "somewhere")
    assert largest_that_fits(SMALL, {"LC": 1280}, 48.0, sizes) == ("small", "somewhere")
    assert largest_that_fits(SMALL, {"LC": 1280}, 80.0, sizes) == ("", "")
    assert largest_that_fits(SMALL, {"LC": 2000}, 0.0, sizes) == ("large", "somewhere")
