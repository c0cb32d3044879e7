"""Memories that are several block RAMs deep: proved equal, counted, and left alone where nothing is gained."""

import re

import pytest

from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.estimate.memory_map import memory
from sateen.fpga.flow.deep_memories import columns, deepened, memories, multiplexed, narrow_bits
from sateen.fpga.flow.synthesis import run_yosys, synthesize


def design(width, depth, *, enables=1, initial=""):
    """A memory as the emitter writes it, with so many write enables."""
    address, part = (depth - 1).bit_length(), width // enables
    writes = "".join(
        f"if (wen[{n}]) m[wa][{n * part} +: {part}] <= d[{n * part} +: {part}]; " for n in range(enables)
    )
    return f"""module design(input clk, ren, input [{enables - 1}:0] wen, input [{address - 1}:0] ra, wa,
  input [{width - 1}:0] d, output reg [{width - 1}:0] q);
  (* no_rw_check *)
  reg [{width - 1}:0] m [{depth - 1}:0];
  {initial}
  always @(posedge clk) begin if (ren) q <= m[ra]; {writes}end
endmodule
"""


@pytest.fixture
def yosys(tmp_path):
    def run(script, verilog=None):
        if verilog is not None:
            (tmp_path / "design.v").write_text(verilog)
        code, tail = run_yosys(script, tmp_path)
        assert code == 0, "\n".join(tail[-30:])
        return "\n".join(tail)

    return run


SPLIT = "techmap -D COLUMNS -D SMALL -map deep_memories.v; opt_clean"
READ = "read_verilog design.v; hierarchy -top design; proc; opt; memory -nomap; opt_clean"


@pytest.mark.parametrize(
    "width,depth,initial",
    [
        (17, 8, ""),  # 4 words of 9 bits in depth: 9 bits and four columns of 2
        (17, 8, "integer n; initial for (n = 0; n < 8; n = n + 1) m[n] = 0;"),
        (17, 16, ""),  # 8 in depth: 9 bits and eight of one
        (34, 4, ""),  # 2 in depth: 27 bits, a column of 4 and one of 3
    ],
)
def test_columns_are_equal_at_all_times(yosys, tmp_path, width, depth, initial):
    """One step of induction, with the words of the one in the columns of the other."""
    verilog = design(width, depth, initial=initial)
    yosys(f"{READ}; {SPLIT}; tee -o parts.txt dump t:$mem_v2", verilog)
    dump = (tmp_path / "parts.txt").read_text()
    parts = dict(
        zip(re.findall(r"MEMID \"\\\\(.+)\"", dump), re.findall(r"\\WIDTH (\d+)", dump), strict=True)
    )
    assert len(parts) > 1 and sum(map(int, parts.values())) == width
    assert ("x" not in set(re.findall(r"\\INIT \d+'([01x])", dump))) == bool(initial)
    words = [",".join(rf"\gate.{part}[{n}]" for part in sorted(parts, reverse=True)) for n in range(depth)]
    prove = " ".join(rf"-prove \gold.m[{n}] {word}" for n, word in enumerate(words))
    flat = "memory_map; opt_clean"
    yosys(
        f"{READ}; {flat}; rename design gold; design -stash gold; {READ}; {SPLIT}; {flat}; rename design gate; "
        "design -stash gate; design -copy-from gold -as gold gold; design -copy-from gate -as gate gate; "
        "miter -equiv -make_outputs gold gate miter; flatten miter; hierarchy -top miter; "
        f"sat -verify -tempinduct -maxsteps 2 -set-init-zero -prove trigger 0 {prove} miter"
    )


@pytest.mark.parametrize(
    "verilog",
    [
        design(16, 8),  # as narrow already
        design(18, 2),  # one block RAM deep
        design(18, 8, enables=2),
        design(17, 8, initial="initial m[3] = 5;"),
        design(17, 8).replace("q <= m[ra]; ", "q <= m[ra]; if (d[3]) m[ra] <= d; "),  # two writers
    ],
)
def test_other_memories_stay(yosys, verilog, tmp_path):
    yosys(f"{READ}; {SPLIT}; tee -o parts.txt select -list t:$mem_v2", verilog)
    assert len((tmp_path / "parts.txt").read_text().split()) == 1


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_multiplexers_are_equal(yosys, bits):
    ports = f"input [{(3 << bits) - 1}:0] a, input [{bits - 1}:0] s, output [2:0] y"
    cell = f"\\$bmux #(.WIDTH(3), .S_WIDTH({bits})) mux (.A(a), .S(s), .Y(y));"
    yosys(
        "read_verilog -icells design.v; rename design gold; design -stash gold; read_verilog -icells design.v; "
        "techmap -map deep_memories.v; select -assert-none t:$bmux; select -assert-any t:LUT4; "
        "read_verilog +/ecp5/common_sim.vh; hierarchy -top design; proc; flatten; rename design gate; "
        "design -stash gate; design -copy-from gold -as gold gold; design -copy-from gate -as gate gate; "
        "miter -equiv -flatten gold gate miter; sat -verify -prove trigger 0 miter",
        f"module design({ports}); {cell} endmodule",
    )


@pytest.mark.parametrize("width,depth", [(26, 8192), (36, 8192), (17, 16384)])
def test_fewer_luts_and_no_more_block_rams(width, depth, tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path))
    verilog, ecp5 = design(width, depth), FAMILIES["ecp5"]
    found = synthesize(verilog, ecp5, top="design").cells
    assert "deep_memories.v" in deepened("synth_ecp5", verilog)
    monkeypatch.setattr("sateen.fpga.flow.deep_memories.deepened", lambda command, design: command)
    before = synthesize(verilog, ecp5, top="design").cells
    assert found["DP16KD"] <= before["DP16KD"]
    assert found["LUT4"] < 0.6 * before["LUT4"]
    assert found["DP16KD"] == memory("ecp5", width, depth).cells


def test_which_memories_a_design_has():
    assert memories(design(17, 8192)) == {(17, 8192)}
    rtlil = "module \\top\n  memory width 12 size 4096 \\m\n  memory size 16 \\n\nend\n"
    assert memories(rtlil) == {(12, 4096), (1, 16)}


def test_columns_for_the_same_block_rams():
    for depth in (4096, 8192, 16384, 32768):
        for width in range(1, 300):
            if multiplexed(width, depth):
                wide, narrow = columns(width, depth)
                assert wide % 9 == 0 or narrow == 0
                assert depth // 2048 * -(-wide // 9) + narrow <= depth // 2048 * -(-width // 9)
                assert narrow * 16384 >= (width - wide) * depth
    assert [narrow_bits(d) for d in (4096, 8192, 16384)] == [4, 2, 1]
    assert columns(128, 16384) == (72, 56)


def test_a_design_without_them_is_synthesized_as_ever():
    shallow = design(64, 2048) + design(32, 8192).replace("design", "other")
    assert deepened("synth_ecp5 -top t", shallow) == "synth_ecp5 -top t"
    assert deepened("synth_ice40 -top t", design(17, 8192)) == "synth_ice40 -top t"
    parts = deepened("synth_ecp5 -top t -run begin:check -json x.json", design(17, 8192)).split("; ")
    assert [p for p in parts if p.startswith("synth")] == [
        "synth_ecp5 -top t -run begin:map_ram",
        "synth_ecp5 -top t -run map_ram:map_ffram",
        "synth_ecp5 -top t -json x.json -run map_ffram:check",
    ]
