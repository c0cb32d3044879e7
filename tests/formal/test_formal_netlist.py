# amaranth: UnusedElaboratable=no
"""The synthesized processing element proved equal to its description, for all inputs."""

import re

import pytest

from sateen.errors import BuildError
from sateen.formats import parse_format
from sateen.fpga.gate_level import gate_level, prove_equal
from sateen.hw.pe import PE
from sateen.hw.verilog import convert

pytestmark = pytest.mark.formal

ELEMENTS = {
    "int4": dict(lanes=1, group=1, multiplier="fixed"),
    "int8": dict(lanes=1, group=1, multiplier="fixed"),
    "e2m1": dict(lanes=2, group=4, multiplier="shift"),
}


def element(name):
    fmt = parse_format(name)
    return convert(PE(activation=fmt, weight=fmt, acc_bits=16, **ELEMENTS[name]), "pe")


@pytest.mark.parametrize(
    "name,architecture",
    [
        ("int4", "ecp5"),
        ("int4", "ice40"),
        ("e2m1", "ecp5"),
        ("e2m1", "ice40"),
        # the iCE40's multiplier has its registers inside
        ("int8", "ecp5"),
    ],
)
def test_netlist_is_equal(name, architecture):
    verilog = element(name)
    prove_equal(verilog, gate_level(verilog, architecture), "pe")


def test_a_changed_netlist_is_not():
    verilog = element("int4")
    gates = gate_level(verilog, "ice40")
    table = re.search(r"\.LUT_INIT\(16'h(\w+)\)", gates)
    inverted = gates[: table.start(1)] + f"{0xFFFF ^ int(table[1], 16):04x}" + gates[table.end(1) :]
    with pytest.raises(BuildError, match="pe: netlist and design not proved equal"):
        prove_equal(verilog, inverted, "pe")
