"""Device families: how Yosys synthesizes for each, and what each primitive counts as. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

Counts = MappingProxyType[str, int]


@dataclass(frozen=True, slots=True)
class Family:
    """Primitive name to the number of resources that one takes. What is in no table must be in `free`.

    `lut_memory` and `lut_carry` are LUT sites taken by distributed memory or shift registers, and by carry
    cells that occupy LUTs. `bram` counts half blocks, so that halves stay integers.
    """

    name: str
    title: str
    synth: str
    """The Yosys command up to the netlist, all hierarchy dissolved; {top} is the module."""
    synth_modules: str
    """The same with each module by itself."""
    lut_logic: Counts
    lut_memory: Counts
    lut_carry: Counts
    ff: Counts
    dsp: Counts
    bram: Counts
    carry: Counts
    free: frozenset[str]
    """Primitives that take none of the above: multiplexers in the slice, constants, buffers."""
    bram_unit: str
    passes: int
    """Passes that the command runs, roughly; for the progress bar."""


def _each(*names: str, n: int = 1) -> Counts:
    return MappingProxyType(dict.fromkeys(names, n))


FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        # Ref: Lattice FPGA-TN-02204 (ECP5 memory): a 16×4 RAM takes 4 LUTs for data and 2 for the write port.
        Family(
            name="ecp5",
            title="Lattice ECP5",
            synth="synth_ecp5 -top {top} -noiopad -run begin:check",
            synth_modules="synth_ecp5 -top {top} -noiopad -noflatten -run begin:check",
            lut_logic=_each("LUT4"),
            lut_memory=MappingProxyType({"TRELLIS_DPR16X4": 6}),
            lut_carry=_each("CCU2C", n=2),
            ff=_each("TRELLIS_FF"),
            dsp=_each("MULT18X18D", "ALU54B"),
            bram=_each("DP16KD", "PDPW16KD", n=2),
            carry=_each("CCU2C"),
            free=frozenset({"PFUMX", "L6MUX21", "GSR", "VLO", "VHI"}),
            bram_unit="DP16KD, 18 Kbit",
            passes=55,
        ),
        # Ref: AMD UG574 (UltraScale CLB), tables of LUTs per distributed RAM; UG573 (memory).
        Family(
            name="xcup",
            title="AMD UltraScale+",
            synth="synth_xilinx -family xcup -top {top} -flatten -noiopad -noclkbuf -run begin:check",
            synth_modules="synth_xilinx -family xcup -top {top} -noiopad -noclkbuf -run begin:check",
            lut_logic=_each("LUT1", "LUT2", "LUT3", "LUT4", "LUT5", "LUT6", "LUT6_2", "INV"),
            lut_memory=MappingProxyType(
                {
                    **_each("RAM32X1S", "RAM64X1S", "SRL16E", "SRLC16E", "SRLC32E"),
                    **_each("RAM32X1D", "RAM64X1D", "RAM128X1S", n=2),
                    **_each("RAM32M", "RAM64M", "RAM128X1D", "RAM256X1S", n=4),
                    **_each("RAM32M16", "RAM64M8", "RAM256X1D", "RAM512X1S", "RAM32X16DR8", "RAM64X8SW", n=8),
                }
            ),
            lut_carry=_each(),
            ff=_each("FDRE", "FDSE", "FDCE", "FDPE"),
            dsp=_each("DSP48E2"),
            bram=MappingProxyType({**_each("RAMB18E2"), **_each("RAMB36E2", n=2)}),
            carry=_each("CARRY4", "CARRY8"),
            free=frozenset({"MUXF7", "MUXF8", "MUXF9", "BUFG", "VCC", "GND"}),
            bram_unit="RAMB36E2, 36 Kbit",
            passes=80,
        ),
    )
}
