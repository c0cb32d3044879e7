"""Sums of products made DSP48E2: proved equal to what they were, with little left beside them; and what stays."""

import json
from importlib.resources import files

import pytest

from sateen.errors import ConfigError
from sateen.formats import parse_format
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow import dsp_sums
from sateen.fpga.flow.dsp_sums import pack_sums
from sateen.fpga.flow.synthesis import WORDS, run_yosys, synthesize
from sateen.hw.chip.verilog import convert
from sateen.hw.matrix.pe import PE

LEAST = 4
"""Bits of a product: a solver compares small ones only."""
PREPARE = f"synth_xilinx -family xcup -flatten -run prepare:map_dsp; {WORDS}"


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Prove that a design's words before and after are equal, by a script for both; what it has then, by type."""
    monkeypatch.setattr(dsp_sums, "LEAST", LEAST)

    def yosys(script):
        code, log = run_yosys(script, tmp_path)
        assert code == 0, "\n".join(line[:200] for line in log[-8:])

    def run(verilog, proof="-tempinduct-baseonly -maxsteps 5 -prove-asserts"):
        (tmp_path / "design.v").write_text(verilog)
        (tmp_path / "dsp.v").write_text((files("sateen.fpga.flow") / "dsp48e2.v").read_text())
        yosys(f"read_verilog design.v; hierarchy -check -top design; {PREPARE}; write_json gold.json")
        netlist = json.loads((tmp_path / "gold.json").read_text())
        module = netlist["modules"]["design"]
        pack_sums(module)
        dsps = [name for name, c in module["cells"].items() if c["type"] == "DSP48E2"]
        found = [c["type"] for name, c in module["cells"].items()]
        shapes = [module["cells"][name] for name in dsps]
        for n, name in enumerate(dsps):  # the last one of a sum comes last
            module["cells"][f"dsp{n}"] = module["cells"].pop(name) | {"hide_name": 0}
        (tmp_path / "gate.json").write_text(json.dumps(netlist))
        plain = "async2sync; dffunmap; opt_clean"
        yosys(
            f"read_json gate.json; read_verilog dsp.v; hierarchy -top design; proc; flatten; {plain}; "
            f"rename design gate; design -stash gate; read_json gold.json; {plain}; rename design gold; "
            "design -stash gold; design -copy-from gold -as gold gold; design -copy-from gate -as gate gate; "
            "miter -equiv -flatten -make_assert -make_outputs gold gate miter; hierarchy -top miter; "
            f"setundef -init -zero; sat -verify {proof} miter"
        )
        return found, shapes

    return run


def element(a="int2", w="int2", acc=6, lanes=1, group=None, multiplier="fixed", **switches):
    formats = {"activation": parse_format(a), "weight": parse_format(w)}
    pe = PE(lanes=lanes, group=group or lanes, multiplier=multiplier, acc_bits=acc, **formats, **switches)
    return convert(pe, "design")


@pytest.mark.parametrize(
    "arguments,dsps,left",
    [
        ({}, 1, []),
        ({"lanes": 2}, 2, []),
        ({"lanes": 4}, 4, []),
        ({"a": "uint2", "w": "uint2", "lanes": 2, "acc": 7}, 2, []),
        ({"a": "uint2", "lanes": 2}, 2, []),
        # what picks an operand, and a reset that comes a cycle later
        ({"lanes": 2, "group": 4, "own_sums": True}, 2, ["$dff", "$dffe", "$mux"]),
        # the shift is between the product and the sum
        (
            {"a": "e2m1", "w": "e2m1", "multiplier": "shift", "acc": 10},
            1,
            ["$add", "$dff", "$dffe", "$sdffe", "$shl"],
        ),
    ],
)
def test_an_element(packed, arguments, dsps, left):
    found, _ = packed(element(**arguments))
    assert found.count("DSP48E2") == dsps
    assert sorted(set(found) - {"DSP48E2"}) == left


def test_two_lanes_at_all_times(packed):
    """Induction, with what the registers of one are in the other."""
    sign = 16 * r",\gold.weight_{0}[1]"
    weight = sign[1:] + r",\gold.weight_{0}"
    same = {
        weight.format(0): "dsp0.b2",
        weight.format(1): "dsp1.b1",
        r"\gold.product_0": "dsp0.m[3:0]",
        r"\gold.product_1": "dsp1.product[3:0]",
        r"\gold.total": "dsp1.below[4:0]",
        r"\gold.psum": "dsp1.p[5:0]",
    }
    prove = " ".join(rf"-prove {a} \gate.{b}" for a, b in same.items())
    packed(element(lanes=2), f"-tempinduct -maxsteps 4 -set-init-zero {prove}")


def column(*bits):
    """Elements of one lane below each other, with so many bits of partial sum."""
    rows = "".join(
        f"reg signed [1:0] w{r}; reg signed [3:0] p{r}; reg signed [{n - 1}:0] s{r} = 0;\n"
        f"always @(posedge clk) begin if (load) w{r} <= w[{2 * r} +: 2]; p{r} <= $signed(a[{2 * r} +: 2]) * w{r};\n"
        f"if (go) s{r} <= {f's{r - 1}' if r else 'c'} + p{r}; end\n"
        for r, n in enumerate(bits)
    )
    ports = f"input clk, load, go, input [{2 * len(bits) - 1}:0] a, w, input signed [4:0] c"
    last = f"s{len(bits) - 1}"
    return f"module design({ports}, output [{bits[-1] - 1}:0] s); {rows} assign s = {last}; endmodule"


@pytest.mark.parametrize(
    "bits,cascades",
    [
        ((7, 7, 7), 2),
        ((6, 7, 8), 2),  # which never wrap
        ((4, 4), 1),
        ((4, 7), 0),  # a sum that wraps and is extended: P's higher bits are not its sign
    ],
)
def test_partial_sums_go_down_a_column_by_the_cascade(packed, bits, cascades):
    found, shapes = packed(column(*bits))
    assert found == ["DSP48E2"] * len(bits)
    assert sum("PCOUT" in s["connections"] for s in shapes) == cascades
    assert sum(set(s["connections"]["C"]) != {"0"} for s in shapes) == len(bits) - cascades


def product(always, width=5, wires="", c=6):
    return f"""
module design(input clk, rst, en, input signed [2:0] a, input signed [1:0] b, input signed [{c - 1}:0] c,
              output reg signed [{width - 1}:0] p = 0, output x);
  wire signed [4:0] product = a * b; reg signed [4:0] kept = 0; {wires}
  always @(posedge clk) {always}
endmodule
"""


@pytest.mark.parametrize(
    "verilog,left",
    [
        (product("if (rst) p <= 0; else if (en) p <= product;"), []),
        (product("begin kept <= product; if (en) p <= kept + c; end", 7), []),
        (product("begin if (en) kept <= product; p <= kept + c; end", 7), []),
        # another reader of the product, of its register, and of the sum
        (product("p <= product;", wires="assign x = product[1];"), ["$dff", "$mul"]),
        (product("begin kept <= product; p <= kept + c; end", wires="assign x = kept[1];"), ["$add", "$dff"]),
        (product("begin kept <= product; p <= kept + c; end", 49, c=49), ["$add", "$dff"]),
        (product("if (rst) p <= 1; else p <= product;"), ["$mul", "$sdff"]),
        (
            product("begin p[2:0] <= product[2:0]; if (en) p[4:3] <= product[4:3]; end"),
            ["$dff", "$dffe", "$mul"],
        ),
        (product("if (en) p <= product; else p <= 1;"), ["$mul", "$sdff"]),
        # a register for both operands, and one that is another's sum
        (product("begin p <= kept * kept; kept <= c; end", 10), []),
        (
            product("begin kept <= product; low <= kept + c; p <= low * b; end", 9, "reg signed [6:0] low;"),
            [],
        ),
        # enable over reset
        (product("if (en) if (rst) p <= 0; else p <= product;"), ["$mul", "$sdffce"]),
    ],
)
def test_other_registers(packed, verilog, left):
    found, _ = packed(verilog)
    assert sorted(set(found) - {"DSP48E2"}) == sorted(left)


def test_a_design_with_sums_in_dsps(tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path))
    found = synthesize(element("int8", "int8", 24, 2), FAMILIES["xcup"], top="design", dsp_sums=True)
    assert found.cells == {"DSP48E2": 2}
    assert "dsp_sums.py" in found.script
    with pytest.raises(ConfigError, match="of xcup, not of 'ecp5'"):
        synthesize(element(), FAMILIES["ecp5"], top="design", dsp_sums=True)
