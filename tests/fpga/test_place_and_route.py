"""Place and route on small parts: utilisation, clock, output, and what is said where it fails."""

from dataclasses import replace

import pytest

from sateen.errors import BuildError, ConfigError
from sateen.fpga.flow.place_and_route import (
    _UNROUTED,
    Part,
    describe_excess,
    few_pins,
    netlist,
    place_and_route,
)

ICE40 = Part("ice40", "hx1k", "tq144")
ECP5 = Part("ecp5", "12k", "CABGA256", "6")
GOWIN = Part("gowin", "GW1NR-LV9QN88PC6/I5", options=("--vopt", "family=GW1N-9C"))
PINS = {"clk": 52, "in": 25, "take": 26, "out": 28}


def counter(bits: int) -> str:
    return f"""
(* top = 1 *)
module counter(clk, step, value);
  input clk;
  input [3:0] step;
  output [{bits - 1}:0] value;
  reg [{bits - 1}:0] value;
  always @(posedge clk) value <= value + step;
endmodule
"""


@pytest.mark.parametrize(
    "part, cell, constraints",
    [
        (ICE40, "ICESTORM_LC", ""),
        (ICE40, "ICESTORM_LC", "\n".join(f"set_io {name} {pin}" for name, pin in PINS.items())),
        (ECP5, "TRELLIS_FF", ""),
        (GOWIN, "DFF", "\n".join(f'IO_LOC "{name}" {pin};' for name, pin in PINS.items())),
    ],
    ids=["ice40", "ice40 with pins", "ecp5", "gowin"],
)
def test_counter(part, cell, constraints, tmp_path):
    design, output = tmp_path / "design.json", tmp_path / "routed"
    netlist(few_pins(counter(16)), part, design)
    routed = place_and_route(design, part, constraints=constraints, frequency=50, output=output)
    # 16 bits of the counter and 4 + 16 of the shift registers
    assert 36 <= routed.used[cell] <= 44 and routed.used[cell] < routed.available[cell]
    assert len(routed.clocks) == 1 and 50 < routed.fmax < 1000
    assert all(routed.longest) and sum(routed.longest[2:]) == pytest.approx(1000 / routed.fmax, rel=0.02)
    assert routed.tool.startswith("yowasp-nextpnr-") and output.stat().st_size > 1000


def test_a_routed_design_is_timed_again(tmp_path):
    """For another speed grade, as it is; and the longest path to each cell is known."""
    kept = tmp_path / "kept.json"
    parity = counter(16).replace("value + step", "{value, ^value ^ ^step}")
    slow = place_and_route(few_pins(parity), ECP5, keep=kept, detailed=True)
    fast = place_and_route(kept, replace(ECP5, speed="8"), again=True, detailed=True)
    assert max(slow.arrivals.values()) == pytest.approx(sum(slow.longest[2:]), abs=0.02)
    assert slow.arrivals.keys() == fast.arrivals.keys() and slow.used == fast.used
    assert fast.fmax > 1.1 * slow.fmax
    again = place_and_route(kept, ECP5, again=True)
    assert again.clocks == slow.clocks and not again.arrivals


def test_same_seed_same_result():
    first, second = (place_and_route(few_pins(counter(9)), ICE40, seed=3) for _ in range(2))
    assert first.clocks == second.clocks and first.used == second.used


def test_what_does_not_fit_is_named():
    with pytest.raises(BuildError, match=r"does not fit ice40-hx1k-tq144: \d+ ICESTORM_LC of 1280 \(\d+ too"):
        place_and_route(few_pins(counter(800)), ICE40)


def test_messages_of_the_tools():
    with pytest.raises(BuildError, match=r"nextpnr failed.*does not have a pin named '999'"):
        place_and_route(counter(8), ICE40, constraints="set_io clk 999")
    with pytest.raises(BuildError, match=r"Yosys failed for ice40.*ERROR"):
        place_and_route(counter(8).replace("value + step", "value + )"), ICE40)
    with pytest.raises(BuildError, match="nextpnr does not choose pins there"):
        place_and_route(counter(8), GOWIN)
    with pytest.raises(ConfigError, match="unknown architecture 'spartan'; nextpnr is here for ecp5, ice40"):
        place_and_route(counter(8), Part("spartan", "6"))


def test_what_is_said_of_a_design_that_does_not_fit():
    used = {"ICESTORM_LC": (5067, 5280), "ICESTORM_RAM": (31, 30), "ICESTORM_PLL": (1, 1)}
    assert describe_excess(used) == "31 ICESTORM_RAM of 30 (1 too many)"
    used["ICESTORM_RAM"] = (30, 30)
    assert describe_excess(used) == "5067 ICESTORM_LC of 5280 leave no legal placement"


def test_what_nextpnr_says_of_a_net_without_a_route():
    line = "Warning: Failed to find a route for arc 2 of net inside.control.data[26].\nTraceback:"
    assert _UNROUTED.search(line)[1] == "inside.control.data[26]"
    assert not _UNROUTED.search("Info: Routing 34589 arcs.")
