"""The generated machine as Verilog text: one file, byte for byte the same for the same configuration.

Ports of the accelerator: `clk`, `rst` (synchronous, active high), `m_axi_*` (AXI4 to memory), `s_axi_*` (AXI4-Lite
control) and `interrupt`. Those of the system on the chip: `clk`, `rst`, `rx` and `tx`.
"""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from amaranth.back import rtlil
from amaranth.back.verilog import _convert_rtlil_text
from amaranth.hdl import Fragment, Value
from amaranth.hdl._ast import SignalDict
from amaranth.hdl._ir import PortDirection, build_netlist
from amaranth.hdl._nir import AssignmentList, FlipFlop, Memory, Netlist, Operator, Part
from amaranth.lib import wiring

from sateen.hw import names
from sateen.hw.chip.soc import Soc
from sateen.hw.chip.top import Accelerator
from sateen.hw.shared import Shared
from sateen.machine.config import AcceleratorConfig
from sateen.machine.registers import config_word

names.install()  # before any component is made whose text is written here

TOP = "accelerator"
SOC = "soc"
ELABORATED = 256
"""Elements of the largest machine whose every element is elaborated: a larger one takes seconds only with `Shared`."""
PREFIXES = {"bus": "m_axi_", "control": "s_axi_"}
"""Of the top's interfaces. Their members have the AXI names already."""


@lru_cache(maxsize=4)
def emit_verilog(config: AcceleratorConfig) -> str:
    """The accelerator of `config`; its top module is called `accelerator`."""
    shared = Shared(TOP) if config.rows * config.cols > ELABORATED else None
    text = convert(Accelerator(config=config), TOP, PREFIXES, shared)
    title = f"// Sateen accelerator '{_one_line(config.name)}', configuration {config_word(config):08x}\n"
    return title + text


def emit_soc_verilog(soc: Soc) -> str:
    """The system on the chip with the contents of its memory; its top module is called `soc`."""
    name, word = _one_line(soc.config.name), config_word(soc.config)
    return f"// Sateen system on the chip '{name}', configuration {word:08x}\n" + convert(soc, SOC)


def convert(
    component: wiring.Component,
    name: str,
    prefixes: dict[str, str] | None = None,
    shared: Shared | None = None,
) -> str:
    """Verilog of any component; the ports of interface `i` are called `prefixes[i]` and the member's name."""
    with _uncollected():
        return _convert_rtlil_text(elaborated(component, name, prefixes, shared), strip_internal_attrs=True)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Millions of objects live until the text is there: looking for garbage among them takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def elaborated(
    component: wiring.Component,
    name: str,
    prefixes: dict[str, str] | None = None,
    shared: Shared | None = None,
) -> str:
    """What `convert` makes Verilog of: the RTLIL that Amaranth writes, its modules merged."""
    text = _to_rtlil(_netlist(component, name, prefixes or {}, shared))
    if shared:
        for module, part in shared.parts():
            text += "\n" + _to_rtlil(_netlist(part, module, {}, None), top=False)
    return merge_modules(text)


def _netlist(
    component: wiring.Component, name: str, prefixes: dict[str, str], platform: Shared | None
) -> Netlist:
    fragment = Fragment.get(component, platform)
    return build_netlist(fragment, ports=top_ports(component, prefixes), name=name)


def _to_rtlil(netlist: Netlist, top: bool = True) -> str:
    """As amaranth.back.rtlil.convert_fragment, but memories of zeros get no contents.

    The machine reads no word that it has not written. Listing each word's zero would take most of the time
    and of the Verilog, and some memories of FPGAs cannot have contents. What computes values without bits is
    left out: a machine may count to 1, and Yosys and Verilog know no such values.
    """
    for module in netlist.modules:
        module.cells = [i for i in module.cells if not _computes_nothing(netlist, i)]
    for cell in netlist.cells:
        if isinstance(cell, Memory) and not any(cell.init):
            cell.init = ()
    empty = rtlil.EmptyModuleChecker(netlist)
    design = rtlil.Design(emit_src=False)
    for index, module in enumerate(netlist.modules):
        if not empty.is_empty(index):
            builder = design.module(".".join(module.name))
            if index == 0 and top:
                builder.attribute("top", 1)
            rtlil.ModuleEmitter(builder, netlist, module, SignalDict(), empty_checker=empty).emit()
    return str(design)


def _computes_nothing(netlist: Netlist, index: int) -> bool:
    cell = netlist.cells[index]
    return isinstance(cell, Operator | Part | AssignmentList | FlipFlop) and not cell.output_nets(index)


def top_ports(
    component: wiring.Component, prefixes: dict[str, str]
) -> dict[str, tuple[Value, PortDirection]]:
    ports = {}
    for path, member, value in component.signature.flatten(component):
        interface, rest = str(path[0]), "__".join(map(str, path[1:]))
        name = prefixes.get(interface, f"{interface}__") + rest if rest else interface
        direction = PortDirection.Input if member.flow is wiring.In else PortDirection.Output
        ports[name] = (Value.cast(value), direction)
    return ports


def _one_line(text: str) -> str:
    return re.sub(r"[^\w .,:+-]", "?", text)


# -- merging -----------------------------------------------------------------------------------------------

_ANONYMOUS = re.compile(r"\\port\$\d+\$\d+")  # a net number of the whole design, different in each instance
_CELL = re.compile(r"  cell (\\\S+) (\S+)$")
_CONNECT = re.compile(r"    connect (\\\S+) (.*)$")
# Without any bits; Verilog would make it two bits wide.
_EMPTY = re.compile(r"  wire width 0 | {0,2}connect \\\S+ \{ +\}$")

_NO_CONTENTS = re.compile(r"    connect \\DATA \{ +\}$")


@dataclass
class _Module:
    name: str
    head: list[str]  # its attributes
    body: list[str]
    first: str = ""  # the name of the first of those merged into this one


def merge_modules(il: str) -> str:
    """RTLIL of a design with equal modules merged into one, from the leaves up, and readable module names.

    The generator writes a module for each instance: an array of 128 equal processing elements has 128.
    """
    kept: dict[str, _Module] = {}  # by text
    merged: dict[str, _Module] = {}  # by the name of each module
    ports: dict[str, dict[str, str]] = {}  # anonymous ports of each module -> their new names
    for module in reversed(_parse(il)):  # a module comes before those it instantiates
        path = module.name
        renamed: dict[str, str] = {}
        ports[path] = renamed
        body = _relink(_without_contents(module.body), merged, ports)
        module.body = [_rewrite(line, renamed) for line in body]
        same = kept.setdefault("\n".join(module.body), module)
        same.first = path
        merged[path] = same

    modules = [module for path, module in reversed(merged.items()) if module.first == path]
    names = _names(modules, merged)
    out = []
    for module in modules:
        out += [*module.head, f"module {names[module.name]}"]
        for line in module.body:
            cell = _CELL.match(line)
            out.append(f"  cell {names[cell[1]]} {cell[2]}" if cell and cell[1] in names else line)
        out += ["end", ""]
    return "\n".join(out)


def _names(modules: list[_Module], merged: dict[str, _Module]) -> dict[str, str]:
    """New names, after the path of the first instance; without its number if there are several."""
    instances: dict[str, int] = {}
    for module in modules:
        for line in module.body:
            if cell := _CELL.match(line):
                instances[cell[1]] = instances.get(cell[1], 0) + 1
    names: dict[str, str] = {}
    for module in modules:
        parent, _, last = module.first.rpartition(".")
        if instances.get(module.name, 0) > 1:
            last = re.sub(r"([_$]\d+)+$", "", last)
        stem = re.sub(r"\W", "_", f"{names[merged[parent].name]}_{last}" if parent else last).strip("_")
        name, k = stem, 1
        while f"\\{name}" in names.values():
            k += 1
            name = f"{stem}_{k}"
        names[module.name] = f"\\{name}"
    return names


def _parse(il: str) -> list[_Module]:
    modules: list[_Module] = []
    head: list[str] = []
    body: list[str] | None = None
    for line in il.splitlines():
        if line.startswith("module "):
            body = []
            modules.append(_Module(line.split()[1], head, body))
            head = []
        elif line == "end":
            body = None
        elif body is not None:
            if _EMPTY.match(line):
                while body and body[-1].startswith("  attribute "):
                    body.pop()
            elif line:
                body.append(line)
        elif line:
            head.append(line)
    return modules


def _without_contents(body: list[str]) -> list[str]:
    """The lines, without the empty contents of memories."""
    out: list[str] = []
    begin = None  # of the contents that are being read
    for line in body:
        if line.startswith("  cell $meminit_v2 "):
            begin = len(out)
        out.append(line)
        if line == "  end" and begin is not None:
            if any(_NO_CONTENTS.match(entry) for entry in out[begin:]):
                del out[begin:]
            begin = None
    return out


def _relink(body: list[str], merged: dict[str, _Module], ports: dict[str, dict[str, str]]) -> Iterator[str]:
    """The lines, with the cells' types and their anonymous ports replaced by those of the modules kept."""
    child: dict[str, str] = {}
    for line in body:
        if line.startswith("  cell "):
            cell = _CELL.match(line)
            child = ports.get(cell[1], {}) if cell else {}
            if cell and cell[1] in merged:
                line = f"  cell {merged[cell[1]].name} {cell[2]}"
        elif child and (connect := _CONNECT.match(line)):
            line = f"    connect {child.get(connect[1], connect[1])} {connect[2]}"
        yield line


def _rewrite(line: str, renamed: dict[str, str]) -> str:
    return _ANONYMOUS.sub(lambda match: renamed.setdefault(match[0], f"\\_port_{len(renamed)}"), line)
