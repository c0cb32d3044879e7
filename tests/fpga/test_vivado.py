"""The Vivado scripts in a Tcl interpreter that knows none of Vivado's commands and writes down what is called."""

import pytest

from sateen.errors import BuildError, ConfigError
from sateen.fpga.flow.vivado import PROTOCOLS, VENDOR_BOARDS, WIRES, export_vivado, ports, vendor_board
from sateen.hw.chip.verilog import emit_verilog
from sateen.machine.presets import preset

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
def verilog():
    return emit_verilog(preset("tiny"))


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
def test_scripts(name, inferred, verilog, tmp_path):
    board = vendor_board(name)
    export_vivado(verilog, board, tmp_path, b"\1" * 64)
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
    there = ports(verilog)
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


def test_an_older_machine_is_refused(verilog, tmp_path):
    with pytest.raises(
        BuildError, match=r"its ports are not those of the scripts \(s_axi_arprot, s_axi_other\)"
    ):
        export_vivado(verilog.replace("s_axi_arprot", "s_axi_other"), vendor_board("zcu104"), tmp_path, b"")


def test_unknown_board():
    with pytest.raises(ConfigError, match="unknown board 'zcu999'; Vivado projects are for zcu104, "):
        vendor_board("zcu999")


def test_command(tmp_path, capsys):
    from importlib.resources import as_file, files

    import numpy as np

    import sateen
    from sateen.cli.main import main

    x = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    with as_file(files("sateen.models") / "digits_cnn.onnx") as model:
        sateen.compile(model, tmp_path / "b", calibration={"input": x}, preset="tiny")
    assert main(["bitstream", str(tmp_path / "b"), "--board", "zcu104", "--clock", "150"]) == 0
    assert "vivado -mode batch -source" in capsys.readouterr().out
    assert "clock_mhz {150}" in (tmp_path / "b/vivado/zcu104/settings.tcl").read_text()
    assert main(["bitstream", str(tmp_path / "b"), "--board", "vcu1525", "--clock", "150"]) == 2
    assert "its clock is the PCIe bridge's" in capsys.readouterr().err
