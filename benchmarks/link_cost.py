"""LUTs and flip-flops of the host link without accelerator and memory: python benchmarks/link_cost.py"""

from dataclasses import replace

from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.chip.link import Link, Pace
from sateen.hw.chip.verilog import convert

MEMORY = 1 << 17


def verilog() -> str:
    link = Link(
        pace=Pace.at(25_000_000, 115200),
        memory_bytes=MEMORY,
        config=0x12345678,
        build=b"sateen\0\1",
        resident=True,
    )
    return convert(link, "link", {"memory": "memory_", "control": "control_"})


def main() -> None:
    text = verilog()
    ecp5 = FAMILIES["ecp5"]
    n = resources(synthesize(text, ecp5, top="link").cells, ecp5)
    print("| device | LUT | of these in carry cells | FF | block RAM |")
    print("|---|--:|--:|--:|--:|")
    print(f"| {ecp5.title} | {n['lut']} | {n['lut_carry']} | {n['ff']} | {n['bram']} |")
    ice40 = replace(ecp5, name="ice40", synth="synth_ice40 -top {top} -run begin:check")
    cells = synthesize(text, ice40, top="link").cells  # carry is in the logic cell of a LUT
    ff = sum(count for cell, count in cells.items() if cell.startswith("SB_DFF"))
    print(f"| Lattice iCE40 | {cells['SB_LUT4']} | | {ff} | {cells['SB_RAM40_4K']} |")


if __name__ == "__main__":
    main()
