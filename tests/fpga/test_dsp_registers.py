"""Registers of multipliers that move into ECP5's DSPs, and those that must not."""

import json

import pytest

from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.dsp_registers import absorb_in_file, absorb_registers
from sateen.fpga.flow.place_and_route import Part, netlist
from sateen.fpga.flow.synthesis import synthesize

PART = Part("ecp5", "25k", "CABGA256", "6")


def design(always, x="en ^ rst"):
    return f"""
module design(input clk, rst, en, input signed [7:0] a, b, output reg signed [15:0] p, output wire x);
  wire signed [15:0] product = a * b;
  assign x = {x};
  always @(posedge clk) {always}
endmodule
"""


@pytest.fixture
def synthesized(tmp_path, monkeypatch):
    """Cells of a design, by type, and its multipliers."""
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path / "cache"))

    def run(verilog):
        path = tmp_path / "netlist.json"
        netlist(verilog, PART, path)
        cells = json.loads(path.read_text())["modules"]["design"]["cells"].values()
        return cells, [c for c in cells if c["type"] == "MULT18X18D"]

    return run


@pytest.mark.parametrize(
    "always,enable,reset",
    [
        ("p <= product;", "1", "0"),
        ("if (en) p <= product;", "net", "0"),
        ("if (rst) p <= 0; else p <= product;", "1", "net"),
    ],
)
def test_a_product_s_register_moves_into_the_dsp(synthesized, always, enable, reset):
    cells, (multiplier,) = synthesized(design(always))
    assert not [c for c in cells if c["type"] == "TRELLIS_FF"]
    nets = multiplier["connections"]
    assert multiplier["parameters"]["REG_OUTPUT_CLK"] == "CLK0"
    assert isinstance(nets["CLK0"][0], int)
    for port, kind in (("CE0", enable), ("RST0", reset)):
        assert nets[port] == [kind] if kind in "01" else isinstance(nets[port][0], int)
    assert synthesize(design(always), FAMILIES["ecp5"]).cells == {"LUT4": 1, "MULT18X18D": 1}


@pytest.mark.parametrize(
    "always,x",
    [
        ("p <= product;", "product[3] ^ en"),  # the product is read beside its register
        ("if (rst) p <= -1; else p <= product;", "en ^ rst"),  # a DSP's register is reset to zero
        ("p <= product + a;", "en ^ rst"),
        ("begin p[7:0] <= product[7:0]; if (en) p[15:8] <= product[15:8]; end", "en ^ rst"),  # two enables
    ],
)
def test_others_stay(synthesized, always, x):
    cells, (multiplier,) = synthesized(design(always, x))
    assert multiplier["parameters"].get("REG_OUTPUT_CLK", "NONE") == "NONE"
    flip_flops = sum(c["type"] == "TRELLIS_FF" for c in cells)
    assert flip_flops >= 15
    assert synthesize(design(always, x), FAMILIES["ecp5"]).cells["TRELLIS_FF"] == flip_flops


def test_an_asynchronous_reset_stays(synthesized):
    text = design("p <= product;").replace(
        "@(posedge clk)", "@(posedge clk or posedge rst) if (rst) p <= 0; else"
    )
    assert len([c for c in synthesized(text)[0] if c["type"] == "TRELLIS_FF"]) == 16


def test_again_changes_nothing(tmp_path):
    path = tmp_path / "netlist.json"
    netlist(design("p <= product;"), PART, path)
    before = path.read_text()
    assert set(absorb_in_file(path).values()) == {0}
    assert json.loads(path.read_text()) == json.loads(before)
    assert absorb_registers(json.loads(before)["modules"]["design"]) == 0
