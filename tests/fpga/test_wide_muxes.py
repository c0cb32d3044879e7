"""Multiplexers in the slices: as many LUTs as are said, proved equal to what they were, and still what ABC maps."""

import pytest

from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow import wide_muxes
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import _without_names, run_yosys, synthesize

CELLS = {"ecp5": "+/ecp5/cells_sim.v", "xcup": "+/xilinx/cells_sim.v"}
DESIGN = """
module design(input [7:0] a, input [2:0] s, input [3:0] b, input [1:0] t, input k, output y, output z, output x);
  wire [3:0] by_two = s[0] ? {a[7], a[5], a[3], a[1]} : {a[6], a[4], a[2], a[0]};
  wire [1:0] by_four = s[1] ? {by_two[3], by_two[1]} : {by_two[2], by_two[0]};
  assign y = s[2] ? by_four[1] : by_four[0];
  wire [1:0] of_four = t[0] ? {b[3], b[1]} : {b[2], b[0]};
  assign z = t[1] ? of_four[1] : of_four[0];
  assign x = k ? y ^ z : a[0] & b[3];
endmodule
"""


@pytest.mark.parametrize("family, luts", [("ecp5", 4 + 2 + 2), ("xcup", 2 + 1 + 1)])
def test_multiplexers_are_equal_and_as_small_as_slices_allow(family, luts, tmp_path):
    """An eight-way one, a four-way one, and a function of five inputs beside them."""
    found = synthesize(DESIGN, FAMILIES[family], top="design", wide_muxes=True)
    assert resources(found.cells, FAMILIES[family])["lut"] == luts
    (tmp_path / "design.v").write_text(DESIGN)
    command = wide_muxes.covered(FAMILIES[family].synth.format(top="design"), family)
    code, log = run_yosys(
        f"read_verilog design.v; {command}; write_verilog -noattr gate.v; design -reset; "
        f"read_verilog -D NO_INCLUDES gate.v {CELLS[family]}; hierarchy -top design; proc; flatten; opt_clean -purge; "
        "rename design gate; design -stash gate; read_verilog design.v; proc; rename design gold; "
        "design -copy-from gate gate; miter -equiv -flatten -make_outputs gold gate miter; "
        "hierarchy -top miter; sat -verify -prove trigger 0 miter",
        tmp_path,
    )
    assert code == 0, "\n".join(line[:200] for line in log[-8:])


def test_names_go_where_the_mapping_is_in_a_command_of_its_own():
    command = wide_muxes.covered("first; synth_ecp5 -top t -run map_ram:check", "ecp5")
    assert command.startswith(
        "first; synth_ecp5 -top t -run map_ram:map_luts; muxcover -mux4 -mux8; techmap "
    )
    assert command.endswith("opt_clean -purge; synth_ecp5 -top t -run map_luts:check")
    assert _without_names(command) == command
