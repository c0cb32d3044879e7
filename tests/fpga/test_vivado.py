"""The Vivado scripts in a Tcl interpreter that knows none of Vivado's commands and writes down what is called."""

import pytest

from sateen.config import preset
from sateen.errors import BuildError, ConfigError
from sateen.fpga.vivado import PROTOCOLS, VENDOR_BOARDS, WIRES, export_vivado, ports, vendor_board
from sateen.hw.verilog import emit_verilog

tkinter = pytest.importorskip("tkinter", exc_type=ImportError)

RECORDER = """
set calls {}
proc unknown {args} {
    lappend ::calls $args
    set name [lindex $args 0]
    if {$name eq "get_property"} {
        return [dict get {PROGRESS 100% SLACK 0.1 NAME {m_axi_awaddr s_axi_awaddr clk}} [lindex $args 1]]
    }
    if {$name in $::empty} { return {} }
    return "$name#[llength $::calls]"
}
set argv {}
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    (folder / "accelerator.v").write_text(emit_verilog(preset("tiny")), encoding="utf-8")
    return folder


def run(script, *, inferred=True):
    """Every call of a command that Tcl itself does not have, as a tuple of words."""
    tcl = tkinter.Tcl()
    names = ("bus_interfaces", "address_spaces", "memory_maps", "address_blocks")
    tcl.eval(f"set empty {{{'' if inferred else ' '.join(f'ipx::get_{n}' for n in names)}}}")
    tcl.eval(RECORDER)
    tcl.eval(f"source {{{script}}}")
    return [tuple(tcl.splitlist(call)) for call in tcl.splitlist(tcl.eval("set calls"))]


def named(calls, command):
    return [c[1:] for c in calls if c[0] == command]


@pytest.mark.parametrize("name", VENDOR_BOARDS)
@pytest.mark.parametrize("inferred", [True, False])
def test_scripts(name, inferred, build, tmp_path):
    board = vendor_board(name)
    export_vivado(build, board, tmp_path, b"\1" * 64)
    calls = run(tmp_path / "project.tcl", inferred=inferred)
    assert (tmp_path / "image.bin").read_bytes() == b"\1" * 64

    # one accelerator, and each of its interfaces connected once
    cells = {c[-1] for c in named(calls, "create_bd_cell")}
    pins = [p for c in named(calls, "get_bd_pins") for p in c]
    buses = [p for c in named(calls, "get_bd_intf_pins") for p in c]
    assert {p.split("/")[0] for p in (*pins, *buses)} <= cells
    assert sorted(p for p in pins if p.startswith("accelerator/")) == sorted(
        f"accelerator/{w}" for w in WIRES
    )
    assert sorted(p for p in buses if p.startswith("accelerator/")) == [
        "accelerator/m_axi",
        "accelerator/s_axi",
    ]
    assert all("/" in p for p in (*pins, *buses))

    # the IP has what the Verilog has
    there = ports((build / "accelerator.v").read_text(encoding="utf-8"))
    for bus in PROTOCOLS:
        assert any(p.startswith(f"{bus}_") for p in there)
        assert ("-busif", bus, "-clock", "clk") in [
            c[:4] for c in named(calls, "ipx::associate_bus_interfaces")
        ]
    for c in named(calls, "ipx::get_bus_interfaces"):
        assert c[0] in PROTOCOLS or c[0] in there, c
    assert ("top", "accelerator") in [c[:2] for c in named(calls, "set_property")]
    assert [c[2] for c in named(calls, "create_project") if "-part" in c] and all(
        c[c.index("-part") + 1] == board.part for c in named(calls, "create_project")
    )
    assert ("impl_1", "-to_step", "write_bitstream", "-jobs", "4") in named(calls, "launch_runs")


def test_an_older_machine_is_refused(build, tmp_path):
    text = (build / "accelerator.v").read_text(encoding="utf-8").replace("s_axi_arprot", "s_axi_other")
    (tmp_path / "accelerator.v").write_text(text, encoding="utf-8")
    with pytest.raises(
        BuildError, match=r"its ports are not those of the scripts \(s_axi_arprot, s_axi_other\)"
    ):
        export_vivado(tmp_path, vendor_board("zcu104"), tmp_path / "out", b"")


def test_unknown_board():
    with pytest.raises(ConfigError, match="unknown board 'zcu999'; Vivado projects are for zcu104, "):
        vendor_board("zcu999")
