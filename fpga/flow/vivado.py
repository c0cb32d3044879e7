"""A Vivado project for a build: the accelerator as IP, a block design around it, constraints.

Scripts alone, of fpga/flow/tcl; Vivado itself is not run, and none of it has met hardware. docs/vivado.md has the
details.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from sateen.errors import BuildError, ConfigError
from sateen.files import write_file
from sateen.fpga.flow.cost import modules
from sateen.fpga.flow.synthesis import find_top

PROTOCOLS = {
    "m_axi": (
        "araddr arburst arcache arid arlen arlock arprot arqos arready arsize arvalid awaddr awburst awcache awid "
        "awlen awlock awprot awqos awready awsize awvalid bid bready bresp bvalid rdata rid rlast rready rresp rvalid "
        "wdata wlast wready wstrb wvalid"
    ),
    "s_axi": (
        "araddr arprot arready arvalid awaddr awprot awready awvalid bready bresp bvalid rdata rready rresp rvalid "
        "wdata wready wstrb wvalid"
    ),
}
"""Prefix to the signals, in one string, of the interface: AXI4, and AXI4-Lite for control."""
WIRES = ("clk", "rst", "interrupt")


@dataclass(frozen=True, slots=True)
class VendorBoard:
    """A board whose bitstream needs Vivado.

    Attributes
    ----------
    part : str
    board_part : str
        Without version: the newest that Vivado has is taken.
    system : str
        What is around the accelerator, a script of fpga/flow/tcl: "zynq_ultrascale", "zynq7" or "pcie".
    clock_mhz : float
        Asked of the processing system; on PCIe cards the clock is the bridge's.
    memory : str
        On PCIe cards: the board interface of the DDR4 memory.
    """

    name: str
    title: str
    part: str
    board_part: str
    system: str
    clock_mhz: float
    memory: str = ""


VENDOR_BOARDS: dict[str, VendorBoard] = {
    b.name: b
    for b in (
        VendorBoard(
            "zcu104", "AMD ZCU104, Zynq UltraScale+ ZU7EV", "xczu7ev-ffvc1156-2-e",
            "xilinx.com:zcu104:part0", "zynq_ultrascale", 200.0,
        ),
        VendorBoard(
            "zcu102", "AMD ZCU102, Zynq UltraScale+ ZU9EG", "xczu9eg-ffvb1156-2-e",
            "xilinx.com:zcu102:part0", "zynq_ultrascale", 200.0,
        ),
        VendorBoard(
            "pynq-z2", "TUL PYNQ-Z2, Zynq 7020", "xc7z020clg400-1", "tul.com.tw:pynq-z2:part0", "zynq7", 100.0,
        ),
        VendorBoard(
            "vcu1525", "AMD VCU1525, Virtex UltraScale+ VU9P", "xcvu9p-fsgd2104-2L-e",
            "xilinx.com:vcu1525:part0", "pcie", 250.0, "ddr4_sdram_c0",
        ),
        VendorBoard(
            "alveo-u250", "AMD Alveo U250", "xcu250-figd2104-2L-e", "xilinx.com:au250:part0", "pcie", 250.0,
            "ddr4_sdram_c0",
        ),
    )
}  # fmt: skip


def vendor_board(name: str) -> VendorBoard:
    """Raises ConfigError."""
    if name not in VENDOR_BOARDS:
        raise ConfigError(f"unknown board '{name}'; Vivado projects are for {', '.join(VENDOR_BOARDS)}")
    return VENDOR_BOARDS[name]


def ports(verilog: str) -> dict[str, tuple[str, int]]:
    """Ports of the top module: name to (direction, bits)."""
    text = modules(verilog)[find_top(verilog)]
    found = re.findall(r"^\s*(input|output) (?:wire |reg )?(?:\[(\d+):0\] )?(\w+) ?;", text, re.M)
    return {name: (direction, int(high or 0) + 1) for direction, high, name in found}


def export_vivado(verilog: str, board: VendorBoard, folder: Path, image: bytes) -> list[Path]:
    """Write the project's scripts, the accelerator and the memory's first contents into `folder`.

    Returns the files. Raises BuildError if the Verilog has not the ports that the scripts connect.
    """
    there = ports(verilog)
    wanted = {f"{prefix}_{signal}" for prefix, signals in PROTOCOLS.items() for signal in signals.split()} | {
        *WIRES
    }
    if odd := sorted(wanted ^ set(there)):
        raise BuildError(
            f"accelerator.v: its ports are not those of the scripts ({', '.join(odd[:4])}); compile again"
        )
    _check_folder(folder)
    settings = {
        "part": board.part,
        "board_part": board.board_part,
        "system": board.system,
        "clock_mhz": f"{board.clock_mhz:g}",
        "memory": board.memory,
        "top": find_top(verilog),
        "bus_bits": str(there["m_axi_rdata"][1]),
        "address_bits": str(there["m_axi_araddr"][1]),
        "control_bytes": str(1 << there["s_axi_araddr"][1]),
    }
    text = "".join(f"set {name} {{{value}}}\n" for name, value in settings.items())
    clock = (
        "# Out of context: in the block design the clock is that of the system around it.\n"
        f"create_clock -name clk -period {1000 / board.clock_mhz:.3f} [get_ports clk]\n"
    )
    written = {"settings.tcl": f"# {board.title}\n{text}", "accelerator.xdc": clock, "accelerator.v": verilog}
    for name, data in (written | {"image.bin": image}).items():
        write_file(folder / name, data, "Vivado project")
    with as_file(files("sateen.fpga.flow") / "tcl") as scripts:
        shared = ("zynq.tcl",) if board.system.startswith("zynq") else ()
        for name in ("project.tcl", "package_ip.tcl", f"{board.system}.tcl", *shared):
            shutil.copy(scripts / name, folder / name)
    return sorted(p for p in folder.iterdir() if p.is_file())


def _check_folder(folder: Path) -> None:
    """Make it, or take an empty one or one with an earlier project: nothing else is written over."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        first = (folder / "settings.tcl").read_bytes().partition(b"\n")[0]
        if first.decode(errors="replace") in {f"# {b.title}" for b in VENDOR_BOARDS.values()}:
            return
    if any(folder.iterdir()):
        raise BuildError(
            f"{folder} is not empty and holds no project of Sateen's; choose another -o, or empty it"
        )
