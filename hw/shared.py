"""Parts that a machine has thousands of: elaborated once, and instantiated in the Verilog (adr/0056-emission.md).

A block elaborates such a part by `place`. It is a submodule as any other, unless the platform is `Shared`: then all
alike are instances of one module, whose own netlist is made once. What both give is functionally the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from amaranth.hdl import ClockSignal, Const, Instance, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In


class Shared:
    """A platform that makes instances of what `place` puts into a machine.

    Parameters
    ----------
    top : str
        The name of the top module, with which those of the parts begin.

    Attributes
    ----------
    clear : Value
        Resets the parts, too: what a `ResetInserter` around their parents would add, which an instance does not see.
    """

    def __init__(self, top: str):
        self.top = top
        self.clear: Value = Const(0)
        self._parts: dict[tuple[object, ...], tuple[str, wiring.Component]] = {}

    def parts(self) -> Iterator[tuple[str, wiring.Component]]:
        """Name of the module and component, of each part that has instances."""
        yield from self._parts.values()

    def module(
        self, kind: type[wiring.Component], parameters: Mapping[str, Any]
    ) -> tuple[str, wiring.Component]:
        key = (kind, *sorted(parameters.items()))
        if key not in self._parts:
            self._parts[key] = (f"{self.top}.{kind.__name__.lower()}_{len(self._parts)}", kind(**parameters))
        return self._parts[key]


def place(
    m: Module,
    platform: object,
    name: str,
    kind: type[wiring.Component],
    parameters: Mapping[str, Any],
    inputs: Mapping[str, Value],
) -> dict[str, Value]:
    """Puts `kind(**parameters)` into `m` as submodule `name`; ports of members in arrays are "member__index".

    Returns
    -------
    Values of the outputs, by port.
    """
    if not isinstance(platform, Shared):
        m.submodules[name] = component = kind(**parameters)
        ports, outputs = port_values(component)
        m.d.comb += [ports[port].eq(value) for port, value in inputs.items()]
        return outputs
    module, component = platform.module(kind, parameters)
    ports, outputs = port_values(component)
    if wrong := [port for port, value in ports.items() if len(inputs[port]) != len(value)]:
        raise ValueError(f"{name}: input {wrong[0]} must have {len(ports[wrong[0]])} bits")
    found = {port: Signal(value.shape(), name=f"{name}_{port}") for port, value in outputs.items()}
    m.submodules[name] = Instance(
        module,
        i_clk=ClockSignal(),
        i_rst=ResetSignal() | platform.clear,
        **{f"i_{port}": value for port, value in inputs.items()},
        **{f"o_{port}": signal for port, signal in found.items()},
    )
    return dict(found)


def port_values(component: wiring.Component) -> tuple[dict[str, Value], dict[str, Value]]:
    """A component's inputs and its outputs, by port."""
    found: tuple[dict[str, Value], dict[str, Value]] = ({}, {})
    for path, member, value in component.signature.flatten(component):
        found[member.flow is not In]["__".join(map(str, path))] = Value.cast(value)
    return found
