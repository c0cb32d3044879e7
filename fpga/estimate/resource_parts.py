"""The components that the resource model adds up, each as RTLIL text that Yosys synthesizes by itself.

What repeats inside a component (the processing elements of the array, the lanes of the requantizer) is a component
of its own and a black box there. Together they are the machine, a tree whose root is `hw.chip.top.MACHINE`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from amaranth.hdl import Cat, Const, Fragment, Instance, Module, Shape, Value
from amaranth.hdl._ir import PortDirection, build_netlist
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from sateen.fpga.estimate.components import COMPONENTS, instances
from sateen.hw.chip.verilog import _to_rtlil, merge_modules, top_ports
from sateen.hw.control.registers import Registers
from sateen.hw.control.unit import Control
from sateen.hw.decode import Decoder
from sateen.hw.formats import circuits
from sateen.hw.matrix.accumulator import Accumulator
from sateen.hw.matrix.array import SystolicArray
from sateen.hw.matrix.pe import PE
from sateen.hw.matrix.unit import MatrixUnit
from sateen.hw.memory.buffers import ActivationBuffer, Buffer, IndexBuffer
from sateen.hw.memory.load import LoadUnit
from sateen.hw.memory.move import Move
from sateen.hw.memory.select import SelectingMove
from sateen.hw.memory.store import StoreUnit
from sateen.hw.vector.gate import Gate
from sateen.hw.vector.pool import Pool
from sateen.hw.vector.requantize import Requantizer
from sateen.hw.vector.row import Row
from sateen.hw.vector.unit import VectorUnit
from sateen.hw.vector.update import UpdateUnit
from sateen.machine.config import AcceleratorConfig
from sateen.machine.instruction_use import instruction_mask
from sateen.machine.isa import BUS, Unit

TOP = "component"
SLACK = 32
"""Steps of the path in `Slack`."""
SLACK_FAMILIES = ("ecp5",)
"""Where it makes a difference: the mapping for UltraScale+ is small without it."""
_LOCK = threading.Lock()
"""Held while black boxes are elaborated."""


class _Context(wiring.Component):
    """A component as the machine uses it: bits of outputs that reach nothing left out, inputs that are constant tied.

    Parameters
    ----------
    inner : Component
    used : mapping
        Path of an output to the mask of those of its bits that are used, or of an input to those that are not 0.
    tied : mapping
        Path of an input, or of a field of it, to its value.
    """

    def __init__(
        self,
        inner: wiring.Component,
        used: Mapping[tuple[str, ...], int] = MappingProxyType({}),
        tied: Mapping[tuple[str, ...], int] = MappingProxyType({}),
    ):
        self._inner, self._used, self._tied = inner, used, tied
        members = {}
        for path, member, _ in inner.signature.flatten(inner):
            if path not in tied:
                mask = used.get(path)
                shape = Shape.cast(member.shape) if mask is None else mask.bit_count()
                members["__".join(map(str, path))] = Member(member.flow, shape)
        super().__init__(members)

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()
        m.submodules.inner = inner = self._inner
        for path, member, value in inner.signature.flatten(inner):
            inside = Value.cast(value)
            if path not in self._tied:
                outside = Value.cast(getattr(self, "__".join(map(str, path))))
                mask = self._used.get(path, (1 << len(inside)) - 1)
                used = Cat(bit for n, bit in enumerate(inside) if mask >> n & 1)
                if member.flow is In:
                    m.d.comb += [inside.eq(0), used.eq(outside)]
                else:
                    m.d.comb += outside.eq(used)
        for path, constant in self._tied.items():
            target = inner
            for name in path:
                target = getattr(target, name)
            m.d.comb += target.eq(constant)
        return m


class Slack(wiring.Component):
    """A component beside a path longer than any of its own.

    Synthesis gives up area for the depth of what is deepest. In a machine that is rarely this component, and its
    other parts are made small; alone it would be made fast: ECP5's registers take 3 007 LUTs then, not 1 458.
    """

    def __init__(self, inner: wiring.Component | None = None):
        self._inner = inner
        leaves = inner.signature.flatten(inner) if inner else ()
        ports = {"__".join(map(str, path)): Member(m.flow, Shape.cast(m.shape)) for path, m, _ in leaves}
        super().__init__(ports | {"slack_i": In(2 * SLACK), "slack_o": Out(1)})

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()
        if self._inner:
            m.submodules.inner = inner = self._inner
            for path, member, value in inner.signature.flatten(inner):
                inside, outside = Value.cast(value), Value.cast(getattr(self, "__".join(map(str, path))))
                m.d.comb += inside.eq(outside) if member.flow is In else outside.eq(inside)
        path = Const(0, 1)
        for n in range(SLACK):
            path = (path & self.slack_i[2 * n]) ^ self.slack_i[2 * n + 1]
        m.d.comb += self.slack_o.eq(path)
        return m


def _control(config: AcceleratorConfig) -> wiring.Component:
    masks: dict[tuple[str, ...], int] = {(u.label, "instruction"): instruction_mask(u, config) for u in Unit}
    return _Context(Control(config=config), masks)


def _requantizer(config: AcceleratorConfig) -> wiring.Component:
    inner = Requantizer(config=config, lanes=1)
    return inner if config.residual else _Context(inner, tied={("control", "residual"): 0})


def _first_element(config: AcceleratorConfig) -> wiring.Component:
    """Nothing comes from above, so synthesis leaves its adder out."""
    return _element(config, {("psum_in",): 0})


def _element(
    config: AcceleratorConfig, tied: Mapping[tuple[str, ...], int] = MappingProxyType({}), luts: bool = False
) -> _Context:
    inner = PE(
        lanes=config.lanes,
        group=config.group,
        split=config.split_groups,
        activation=config.activation,
        weight=config.weight,
        multiplier=config.multiplier,
        acc_bits=config.acc_bits,
        luts=luts,
        own_sums=config.own_sums,
        depthwise=config.depthwise,
    )
    activation, weight = (
        circuits(f).operand_bits(config.multiplier) for f in (config.activation, config.weight)
    )
    activations = weights = 0
    for n in range(config.group):
        activations |= (1 << activation) - 1 << n * (activation + (not config.activation.signed))
    for n in range(config.lanes):
        place, skipped = (
            n * (weight + (not config.weight.signed) + config.index_bits),
            not config.weight.signed,
        )
        weights |= (1 << weight) - 1 << place
        weights |= (1 << config.index_bits) - 1 << place + weight + skipped
    return _Context(inner, {("activations",): activations, ("weights",): weights}, tied)


def _registers(config: AcceleratorConfig) -> wiring.Component:
    """Of a machine that has nothing else of the configuration: CONFIG is a hash of it all. Units on the bus stall."""
    plain = _PLAIN.replace(counters=config.counters, memory_bits=config.memory_bits, bus_bits=config.bus_bits)
    return _Context(Registers(config=plain), {("stall",): sum(1 << unit for unit in BUS)})


_PLAIN = AcceleratorConfig()


@dataclass(frozen=True, slots=True)
class Part:
    """A component of the machine."""

    name: str
    build: Callable[[AcceleratorConfig], wiring.Component]
    every: int = 4
    """One sampled configuration in so many has it synthesized: a large component takes seconds, a small one nothing."""

    slack: bool = True
    """Whether it wants a long path beside it, see `Slack`; memories and elements come out the same without."""

    @property
    def opaque(self) -> tuple[type[wiring.Component], ...]:
        """What in it is a component of its own."""
        children = COMPONENTS[self.name].children if self.name in COMPONENTS else ()
        return tuple(dict.fromkeys(child.hardware[0] for child in children))

    def instances(self, config: AcceleratorConfig) -> int:
        return instances(config).get(self.name, 1)

    def has_slack(self, family: str) -> bool:
        return self.slack and family in SLACK_FAMILIES

    def rtlil(self, config: AcceleratorConfig, family: str) -> str:
        component = self.build(config)
        return rtlil(Slack(component) if self.has_slack(family) else component, self.opaque)


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("registers", _registers),
        Part("control", _control),
        Part("activations", lambda c: ActivationBuffer(config=c)),
        Part(
            "weights", lambda c: Buffer(depth=c.weight_depth, width=c.weight_word_bits), every=1, slack=False
        ),
        Part("indices", lambda c: IndexBuffer(config=c), every=1, slack=False),
        Part(
            "parameters",
            lambda c: Buffer(depth=c.parameter_depth, width=c.vector_lanes * c.parameter_bits),
            every=1,
            slack=False,
        ),
        Part("load", lambda c: LoadUnit(config=c)),
        Part("store", lambda c: StoreUnit(config=c)),
        Part("move", lambda c: Move(config=c)),
        Part("select", lambda c: SelectingMove(config=c)),
        Part("matrix", lambda c: MatrixUnit(config=c)),
        Part("accumulator", lambda c: Accumulator(config=c), every=2, slack=False),
        Part("edge", lambda c: SystolicArray(config=c)),
        Part("first_element", _first_element, every=1, slack=False),
        Part("element", _element, every=1, slack=False),
        Part("first_lut_element", lambda c: _element(c, {("psum_in",): 0}, luts=True), every=1, slack=False),
        Part("lut_element", lambda c: _element(c, luts=True), every=1, slack=False),
        Part("vector", lambda c: VectorUnit(config=c)),
        Part("requantizer", _requantizer, every=2),
        Part("pool", lambda c: Pool(config=c)),
        Part("gate", lambda c: Gate(config=c)),
        Part("update", lambda c: UpdateUnit(config=c)),
        Part("row", lambda c: Row(config=c), every=1),
    )
}


NOT_MEASURED = ("sharing",)
"""Components without data: what terms they have counts as so many LUTs and flip-flops."""


DECODER = Part("decoder", lambda c: Decoder(fmt=c.activation, multiplier=c.multiplier), every=1)
"""Of one code, of the activations' format: a part of others, so it is not in PARTS."""


def rtlil(component: wiring.Component, opaque: tuple[type[wiring.Component], ...] = ()) -> str:
    """A component as a design whose top module is TOP; components of the `opaque` classes in it are black boxes."""
    boxes: dict[str, str] = {}
    with _opaque(opaque, boxes):
        fragment = Fragment.get(component, None)
    netlist = build_netlist(fragment, ports=top_ports(component, {}), name=TOP)
    text = merge_modules(_to_rtlil(netlist))
    # what a read gives in the cycle of a write to its word does not matter: `no_rw_check`, which Yosys heeds in Verilog
    text = re.sub(r"^  cell \$memrd_v2 .*?^  end$", _unchecked, text, flags=re.MULTILINE | re.DOTALL)
    return "".join((*boxes.values(), text))


def _unchecked(cell: re.Match[str]) -> str:
    if r"\CLK_ENABLE 1" not in cell[0]:
        return cell[0]
    return re.sub(r"(COLLISION_X_MASK )(\d+)'0+", lambda m: f"{m[1]}{m[2]}'{'1' * int(m[2])}", cell[0])


@contextmanager
def _opaque(classes: tuple[type[wiring.Component], ...], boxes: dict[str, str]) -> Iterator[None]:
    """While it lasts, the classes elaborate to an instance of a black box, whose module is put into `boxes`."""

    def elaborate(self: wiring.Component, platform: object) -> Module:
        name = f"{TOP}_opaque_{type(self).__name__.lower()}"
        m = Module()
        ports = top_ports(self, {})
        m.submodules.box = Instance(
            name,
            *(
                ("i" if direction is PortDirection.Input else "o", port, value)
                for port, (value, direction) in ports.items()
            ),
        )
        wires = (
            f"  wire width {len(value)} {direction.value} {n} \\{port}"
            for n, (port, (value, direction)) in enumerate(ports.items())
            if len(value)
        )
        boxes[name] = "\n".join(("attribute \\blackbox 1", f"module \\{name}", *wires, "end", "", ""))
        return m

    kept = {c: c.elaborate for c in classes}
    with _LOCK:
        try:
            for c in classes:
                c.elaborate = elaborate  # type: ignore[method-assign]
            yield
        finally:
            for c, own in kept.items():
                c.elaborate = own  # type: ignore[method-assign]
