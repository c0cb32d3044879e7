"""The table of boards against amaranth-boards, its constraints, the PLLs, and a small chip down to its bitstream."""

import contextlib
import importlib
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.errors import BuildError, ConfigError, LimitError
from sateen.fpga.boards.catalog import BOARDS, Pin, Pins, board, constraints
from sateen.fpga.boards.chip import RESET_S, Chip, set_clock
from sateen.fpga.boards.clocking import LIMITS, TOLERANCE, dividers, highest_below
from sateen.fpga.boards.ties import HIGHEST_HZ, Ties, retie
from sateen.fpga.flow import placements
from sateen.fpga.flow.bitstream import _placing, largest_that_fits, make
from sateen.fpga.flow.place_and_route import ARCHITECTURES, Part, Routed, RoutingError, emit, pack
from sateen.fpga.flow.placements import Placement, each_placed, placed, synthesized
from sateen.fpga.flow.synthesis import Stop
from sateen.hw.chip.link import Pace
from sateen.machine.presets import PRESETS

BAUD = 115200


class Delay(wiring.Component):
    """What it hears it says, some cycles later; with an adder on the way, so that a clock can be missed.

    From time to time it says the bits of its pace instead.
    """

    def __init__(self, *, cycles: int, pace: Pace):
        self.cycles = cycles
        self.pace = pace
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        line, count = Signal(self.cycles), Signal(24)
        m.d.sync += [line.eq(line << 1 | self.rx), count.eq(count + line[-1]), self.tx.eq(count[-1])]
        bits = Cat(self.pace.divisor, self.pace.clock_hz)
        with m.If(line[0]):
            m.d.sync += self.tx.eq(bits.bit_select(count[:5], 1))
        return m


def delay(target, cycles=4) -> str:
    ties = Ties(target.part.architecture, target.clock_hz, BAUD)
    inside = Delay(cycles=cycles, pace=ties.pace)
    return Chip(inside=inside, board=target, clock_hz=target.clock_hz, ties=ties).verilog()


# A part that the tools are quick with.
SMALL = replace(
    BOARDS["icebreaker"],
    clock_hz=12_000_000,
    part=Part("ice40", "hx1k", "tq144"),
    pins=Pins(clk=Pin("49"), clk_hz=12_000_000, rx=Pin("9"), tx=Pin("8")),
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
    assert dividers(architecture, 25_000_000, 25_000_000).hz == 25_000_000


@pytest.mark.parametrize("architecture", LIMITS)
def test_the_highest_clock_below_a_limit(architecture):
    for limit_hz in range(20_000_000, 150_000_000, 7_300_000):
        d = highest_below(architecture, 25_000_000, limit_hz)
        assert 0.9 * limit_hz < d.hz <= limit_hz
        with contextlib.suppress(ConfigError):
            between = dividers(architecture, 25_000_000, round((d.hz + limit_hz) / 2))
            assert not d.hz + 1 < between.hz <= limit_hz, "there was a higher one"
    assert highest_below(architecture, 25_000_000, 1e6) is None


def test_reset_outlasts_the_start():
    target = board("ulx3s-85f")
    text = delay(target)
    width = int(re.search(r"reg \[(\d+):0\] count", text)[1]) + 1
    assert (1 << width) - 1 >= RESET_S * HIGHEST_HZ["ecp5"]
    assert "EHXPLLL" in text and "locked" in text


@pytest.mark.parametrize(
    "name, start",
    [("ulx3s-85f", b"\xff\x00"), ("icebreaker", b"\xff\x00"), ("tangnano-9k", b"1111")],
)
def test_bitstream_of_a_small_chip(name, start, tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path / "cache"))
    target = board(name)
    said = []
    options = {"baud": BAUD, "logs": tmp_path / "logs", "progress": lambda *stage: said.append(stage)}
    made = make(delay(target), target, tmp_path / "chip", **options)
    fmax = made.placement.routed.fmax
    assert (tmp_path / "chip").read_bytes().startswith(start)
    assert (
        0.9 * fmax < made.clock_hz / 1e6 <= fmax or made.clock_hz > 0.9 * HIGHEST_HZ[target.part.architecture]
    )
    assert made.reached == {1: fmax} and fmax > target.clock_hz / 1e6 and made.reused == ()
    assert sum(made.placement.routed.used.values()) > 20 and min(made.seconds.values()) > 0
    assert said[0] == ("synthesis", 0.0) and said[-1][0] == "pack"
    for log, text in (("synthesis", "Executing"), ("seed1", "Program finished normally")):
        assert text in (tmp_path / "logs" / f"{log}.log").read_text()

    again = make(delay(target), target, tmp_path / "asked", **options, clock_hz=target.clock_hz)
    assert again.clock_hz == target.clock_hz and again.reused == ("synthesis", "placement")
    assert again.seconds == made.seconds and again.placement.placed == made.placement.placed
    assert (tmp_path / "asked").read_bytes() != (tmp_path / "chip").read_bytes()


def test_a_clock_that_is_set_later_is_the_one_that_was_placed(tmp_path):
    """The bitstream of another clock, set after placement, is that of a chip made for it."""
    target = board("ulx3s-85f")
    slow = replace(target, clock_hz=62_500_000)
    frequency = {"frequency": 92.0, "seed": 1, "constraints": constraints(target)}
    packed = []
    for made_for in (slow, target):
        design = synthesized(delay(made_for), made_for.part, tmp_path / "log", lambda f: None)
        (tmp_path / "placed").write_bytes(
            set_clock(
                placed(design, made_for.part, log=tmp_path / "log", **frequency).placed,
                target,
                dividers("ecp5", 25_000_000, slow.clock_hz),
                BAUD,
            )
        )
        emit(tmp_path / "placed", target.part, constraints(target), tmp_path / "routed")
        pack(tmp_path / "routed", target.part, tmp_path / "bitstream")
        packed.append((tmp_path / "bitstream").read_bytes())
    assert packed[0] == packed[1]


def test_ties_that_are_not_in_the_design():
    with pytest.raises(ValueError, match="bit 2 of clock = 5 is not in the design"):
        retie(
            {f"x.tie_clock_{n}": {"parameters": {"INITVAL": "0" * 16}} for n in (0, 1)},
            {"clock": 5, "divisor": 0},
        )


def test_what_does_not_fit(tmp_path):
    with pytest.raises(
        LimitError,
        match=r"'icebreaker': the design does not fit ice40-hx1k-tq144: \d+ ICESTORM_LC of 1280 \(\d+ too",
    ):
        make(delay(SMALL, cycles=1500), SMALL, tmp_path / "chip", baud=BAUD, logs=tmp_path / "logs")
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def reached(mhz, attempts, folder):
    with pytest.raises(LimitError) as caught:
        make(
            delay(SMALL),
            SMALL,
            folder / "chip",
            clock_hz=mhz * 1_000_000,
            baud=BAUD,
            logs=folder / "logs",
            seed=3,
            attempts=attempts,
        )
    message = str(caught.value)
    return float(re.search(r"clock '.*' reaches ([\d.]+) MHz of \d+ \([\d.]+ too few\)", message)[1]), message


def test_a_clock_that_is_nearly_met_is_tried_again(tmp_path):
    fmax, message = reached(500, 1, tmp_path)
    assert "with seed 3;" in message and "use --clock auto" in message and "--seed 4;" in message
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    _, message = reached(round(1.1 * fmax), 2, tmp_path)
    assert "the best of 2;" in message and "--seed 5;" in message


class Fake:
    """Placements that take no time: seed to the clock that it reaches."""

    def __init__(self, clocks, slow=()):
        self.clocks, self.slow, self.begun, self.ended = clocks, slow, [], []

    def place(self, seed, fraction, stop):
        self.begun.append(seed)
        fraction(0.5)
        if seed in self.slow:
            while not stop.asked:
                time.sleep(0.01)
            self.ended.append(seed)
            raise BuildError("ended")
        if self.clocks[seed] is None:
            raise BuildError("seed fails")
        if self.clocks[seed] < 0:
            raise RoutingError("no route")
        routed = Routed("nextpnr", 1.0, {}, {}, {"clk": self.clocks[seed]})
        return Placement(seed, routed, b"", 1.0, False)

    def run(self, need, monkeypatch, processors=2):
        monkeypatch.setattr(placements, "processors", lambda: processors)
        self.said = []

        def report(found, under_way):
            self.said.append(_placing(found, under_way, max(self.clocks)))

        seeds = range(1, max(self.clocks) + 1)
        return each_placed(self.place, seeds, lambda p: p.routed.fmax >= need, report)


def test_seeds_follow_until_one_is_enough(monkeypatch):
    fake = Fake({1: 78.4, 2: 81.0, 3: 99.0})
    assert set(fake.run(80.0, monkeypatch, processors=1)) == {1, 2} == set(fake.begun)
    assert any("seed 2 of 3, seed 1 gave 78.4 MHz" in text for text in fake.said)
    assert set(Fake({1: 78.4, 2: 79.0, 3: 77.0}).run(80.0, monkeypatch)) == {1, 2, 3}


def test_a_placement_that_is_not_needed_is_ended(monkeypatch):
    fake = Fake({1: 0.0, 2: 90.0}, slow={1})
    assert set(fake.run(80.0, monkeypatch)) == {2} and fake.ended == [1]
    fake = Fake({1: 0.0, 2: None}, slow={1})
    with pytest.raises(BuildError, match="seed fails"):
        fake.run(80.0, monkeypatch)
    assert fake.ended == [1]


def test_a_seed_without_a_route_is_passed_over(monkeypatch):
    fake = Fake({1: -1.0, 2: 90.0})
    assert set(fake.run(80.0, monkeypatch, processors=1)) == {2} and fake.begun == [1, 2]
    with pytest.raises(RoutingError, match="no route"):
        Fake({1: -1.0, 2: -1.0}).run(80.0, monkeypatch)


def test_ending_ends_the_tools_too():
    stop = Stop()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stop.add(process)
    stop()
    assert process.wait(10) != 0
    late = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stop.add(late)
    assert late.wait(10) != 0


def test_largest_that_fits():
    def measured(multipliers, used, fmax, architecture="ice40", speed=""):
        networks = {
            "one": {"used": {"LC": 1}, "fmax_mhz": 99.0},
            "two": {"used": {"LC": used}, "fmax_mhz": fmax},
        }
        place = {"architecture": architecture, "speed": speed, "networks": networks}
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
    assert largest_that_fits(SMALL, {"LC": 2000}, 0.0, sizes, 8) == ("middle", "somewhere"), (
        "not what is in use"
    )
