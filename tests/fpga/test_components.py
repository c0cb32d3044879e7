# amaranth: UnusedElaboratable=no
"""The tree of components that estimates walk is the machine: every block of the elaborated top has terms in it."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from sateen.fpga.estimate.clock_data import GROUPS
from sateen.fpga.estimate.clock_model import logic
from sateen.fpga.estimate.components import COMPONENTS, instances, terms_of
from sateen.fpga.estimate.resource_data import configurations
from sateen.fpga.estimate.technology import TECHNOLOGIES
from sateen.hw.chip.top import MACHINE, Accelerator
from sateen.hw.terms import Component
from sateen.hw.vector.requantize import Requantizer
from sateen.machine.config import DATAFLOWS
from sateen.machine.presets import PRESETS, preset

BOTH = preset("tiny").replace(group=8, patterns=("dense", "2:4"), dataflows=DATAFLOWS)
SELECTS = preset("tiny").replace(
    name="selects",
    lanes=1,
    group=4,
    patterns=("dense", "2:4"),
    computed_weights=True,
    computed_patterns=True,
    update=True,
)
MOVES = preset("tiny").replace(name="moves", computed_weights=True)
FILTERS = preset("tiny").replace(name="filters", depthwise=True)


def submodules(block: wiring.Component) -> Iterator[tuple[str, wiring.Component]]:
    """Names and components in a block, what only transforms one left out."""
    module = block.elaborate(None)
    assert isinstance(module, Module)
    named = {name: m for name, (m, _) in module._named_submodules.items()}
    for name, inner in (named | {f"{n}": m for n, (m, _) in enumerate(module._anon_submodules)}).items():
        while not isinstance(inner, wiring.Component):
            inner = inner._elaboratable_  # of a ResetInserter
        if type(inner).__module__.startswith("sateen."):
            yield name, inner


def claimed(block: wiring.Component, part: Component, path: str) -> Iterator[tuple[str, int]]:
    """Components of the tree below a block, with how many lanes or instances; AssertionError for one without terms."""
    for name, inner in submodules(block):
        where = f"{path}.{name}"
        children = [c for c in part.children if isinstance(inner, c.hardware[0])]
        if children:
            # weights and parameters, or the elements of the first row and the others, have a class in common
            mine = next((c for c in children if c.name == name), children[-1])
            yield type(inner).__name__, inner.lanes if isinstance(inner, Requantizer) else 1
            yield from claimed(inner, mine, where)
        else:
            assert isinstance(inner, part.hardware), (
                f"{where}: {type(inner).__name__} has no terms; add it to the hardware of component '{part.name}', "
                f"or give it a Component of its own in {type(inner).__module__}"
            )
            yield from claimed(inner, part, where)


@pytest.mark.parametrize("config", [*PRESETS.values(), BOTH, FILTERS, MOVES, SELECTS], ids=lambda c: c.name)
def test_every_block_of_the_machine_has_terms(config):
    found: Counter[str] = Counter()
    for name, n in claimed(Accelerator(config=config), MACHINE, "top"):
        found[name] += n
    wanted: Counter[str] = Counter()
    for name, n in instances(config).items():
        wanted[COMPONENTS[name].hardware[0].__name__] += n
    assert found == +wanted


def test_a_block_without_terms_is_named():
    class Extra(wiring.Component):
        def __init__(self) -> None:
            super().__init__({})

        def elaborate(self, platform):
            return Module()

    class Grown(Accelerator):
        def elaborate(self, platform):
            m = super().elaborate(platform)
            m.submodules.extra = Extra()
            return m

    Extra.__module__ = "sateen.hw.extra"
    with pytest.raises(AssertionError, match=r"top.extra: Extra has no terms; .* in sateen.hw.extra"):
        list(claimed(Grown(config=preset("tiny")), MACHINE, "top"))


def test_names_are_one_component_and_paths_are_all_that_the_clock_ends_in():
    assert len(COMPONENTS) == sum(1 for _ in MACHINE.everything()) - 1
    for config in (*PRESETS.values(), BOTH):
        assert set(logic(config)) == set(GROUPS)


@pytest.mark.parametrize("family", TECHNOLOGIES)
def test_terms_are_of_one_instance_and_grow_with_it(family):
    """A component says of itself what it consists of: none is empty where the machine has one."""
    for config in (BOTH, *random.Random(1).sample([s.config for s in configurations(40)], 10)):
        for name, n in instances(config).items():
            found = terms_of(name, config, family)
            assert not n or sum(found.lut.values()) + sum(found.ff.values()) + found.dsp + found.bram > 0, (
                name
            )
