"""The table of instructions: legal by itself, and what everything else is derived from."""

import subprocess
import sys
from pathlib import Path

import pytest

from sateen.compiler.schedule.traffic import LOADED
from sateen.hw import isa as hw_isa
from sateen.hw.memory.load import targets, word_bytes
from sateen.machine.assembler import Instruction, decode
from sateen.machine.config import FIELDS as CONFIGURED
from sateen.machine.instruction_use import instruction_mask
from sateen.machine.isa import (
    BUS,
    CHUNK,
    EXECUTED,
    INSTRUCTION_BITS,
    LAYOUTS,
    LIMITS,
    Opcode,
    Target,
    Unit,
    bits_of,
)
from sateen.machine.presets import PRESETS, preset
from sateen.sim.model import DURATION
from sateen.sim.program import EXECUTE
from sateen.sim.proof import CHECKS, Extent, Unproved, prove

FIELDS = [pytest.param(x.opcode, f, id=f"{x.opcode.name}-{f.name}") for x in EXECUTED for f in x.all_fields]


@pytest.mark.parametrize("opcode, field", FIELDS)
def test_a_field_is_what_it_says(opcode, field):
    config = preset("tiny")
    assert field.bits > 0 and not (field.enum and max(field.enum) >= 1 << field.bits)
    assert not field.counted or field.bits <= {name: most for name, _, most in LIMITS}[field.counted]
    for name in (field.counted, field.reach, field.only):
        assert not isinstance(name, str) or not name or hasattr(config, name), name
    layout = hw_isa.LAYOUT[opcode][field.name]
    assert (layout.offset, layout.width) == (LAYOUTS[opcode].offset(field.name), field.bits)


@pytest.mark.parametrize("layout", EXECUTED, ids=lambda x: x.opcode.name)
def test_the_extremes_of_each_field_come_back(layout):
    assert layout.bits == hw_isa.LAYOUT[layout.opcode].size <= INSTRUCTION_BITS
    assert len({f.name for f in layout.all_fields}) == len(layout.all_fields)
    plain = {f.name: 1 for f in layout.fields if f.count}
    for field in layout.fields:
        low, high = (
            (-(1 << field.bits - 1), (1 << field.bits - 1) - 1)
            if field.signed
            else (0, (1 << field.bits) - 1)
        )
        for value in (low, high):
            encoded = Instruction(layout.opcode, plain | {field.name: value}).encode()
            if field.count and not value:
                with pytest.raises(ValueError, match=rf"{layout.opcode.name}.{field.name} = 0"):
                    decode(encoded)
            else:
                assert getattr(decode(encoded), field.name) == value
        for value in (low - 1, high + 1):
            with pytest.raises(ValueError, match=rf"{field.name} = {value} is outside {low} to {high}"):
                Instruction(layout.opcode, plain | {field.name: value}).encode()


def test_every_opcode_is_executed():
    assert set(LAYOUTS) == set(Opcode) and {x.opcode for x in EXECUTED} == set(Opcode) - {Opcode.END}
    assert set(EXECUTE) == set(DURATION) == {x.opcode for x in EXECUTED}
    assert set(CHECKS) == set(Opcode)
    assert {x.unit for x in EXECUTED} == set(Unit) >= set(BUS)


@pytest.mark.parametrize("target", Target)
def test_every_target_is_known_where_targets_are(target):
    config = preset("sat256").replace(softmax=True)
    assert target in LOADED and word_bytes(target, config) > 0 and target in targets(config)
    load = Instruction(Opcode.LOAD, {"target": target, "words": CHUNK, "last_plane": 0})
    prove([load], config, Extent(0, 1 << 20))
    if target.only:
        bare = preset("tiny").replace(table=False)
        assert target not in targets(bare)
        with pytest.raises(Unproved, match="the machine has no target"):
            prove([load], bare, Extent(0, 1 << 20))


def test_limits_are_fields_of_the_configuration():
    assert {name for name, _, _ in LIMITS} <= set(CONFIGURED)
    assert dict((n, m) for n, _, m in LIMITS)["kernel_bits"] == bits_of("kernel_h")


def test_a_machine_uses_no_bits_that_no_field_has():
    for config in PRESETS.values():
        for unit in Unit:
            mask = instruction_mask(unit, config)
            assert 0 < mask < 1 << max(x.bits for x in EXECUTED if x.unit is unit)
    small, table = preset("icebreaker"), bits_of("table", Opcode.DRAIN)
    bit = table << LAYOUTS[Opcode.DRAIN].offset("table")
    assert not instruction_mask(Unit.VECTOR, small.replace(table=False)) & bit
    assert instruction_mask(Unit.VECTOR, small.replace(table=True)) & bit


def test_the_page_is_up_to_date():
    script = Path(__file__).resolve().parents[2] / "benchmarks/isa_tables.py"
    p = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
