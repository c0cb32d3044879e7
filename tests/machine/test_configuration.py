"""The configuration in parts: declared once, read with and without parts, drawn from, and documented."""

import dataclasses
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest

from sateen.errors import ConfigError
from sateen.machine.config import FIELDS, FIELDS_OF, PARTS, RULES, AcceleratorConfig
from sateen.machine.presets import PRESETS, preset
from sateen.machine.settings import TYPES, rule
from sateen.machine.space import random_machine, search_space

SPACE = search_space(fitted=True)


@pytest.mark.parametrize("name", PRESETS)
def test_a_field_is_read_with_its_part_and_without(name):
    config = preset(name)
    for part, names in FIELDS_OF.items():
        for field in names:
            assert getattr(getattr(config, part), field) == getattr(config, field) == config.to_dict()[field]
    assert config.elements == config.array.elements == config.rows * config.group
    assert AcceleratorConfig.from_dict(config.to_dict()) == pickle.loads(pickle.dumps(config)) == config


def test_every_field_says_what_it_is_and_every_rule_is_about_fields():
    for name, s in FIELDS.items():
        assert s.about and (s.type in TYPES or s.limits), name
        assert name == "name" or s.default in s.values(), name
    for r in RULES:
        assert r.about and r.field in r.needs and set(r.needs) <= set(FIELDS), r.name


def test_no_field_can_be_set_and_none_is_made_up():
    config = AcceleratorConfig()
    for change in (lambda: setattr(config, "rows", 2), lambda: setattr(config.array, "rows", 2)):
        with pytest.raises(AttributeError):
            change()
    with pytest.raises(TypeError, match="unexpected keyword argument 'row'"):
        AcceleratorConfig(row=2)


def test_it_is_made_of_parts_and_of_fields():
    config = preset("sat256")
    parts = {name: getattr(config, name) for name in PARTS}
    assert AcceleratorConfig(name="sat256", **parts) == config
    changed = dataclasses.replace(config, rows=2, cols=16, act_banks=8)
    assert changed == config.replace(rows=2, cols=16, act_banks=8) != config
    assert (changed.array.lanes, changed.buffers.weight_depth) == (config.lanes, config.weight_depth)


@pytest.mark.parametrize("name", SPACE)
def test_every_value_is_that_of_some_legal_machine(name):
    rng = random.Random(name)
    values = list(SPACE[name])
    if len(values) > 12:  # the ends, and some between
        values = [*values[:2], *rng.sample(values[2:-2], 8), *values[-2:]]
    for value in values:
        assert getattr(random_machine(rng, SPACE | {name: (value,)}), name) == value


@pytest.mark.parametrize("name", ["rows", "cols", "lanes", "group", "vector_lanes", "act_bank_depth"])
def test_no_other_value_is_that_of_a_legal_machine(name):
    most = max(SPACE[name])
    others = [v for v in (3, 5, 6, 12, 48, most + 1, 2 * most) if v not in SPACE[name]]
    assert others
    machines = [random_machine(random.Random(seed)) for seed in range(20)]
    for value in others:
        for machine in machines:
            with pytest.raises(ConfigError):
                machine.replace(**{name: value})


def test_a_drawn_machine_keeps_the_space_the_base_and_further_rules():
    @rule("rows")
    def small(rows: int, cols: int, lanes: int) -> str | None:
        return None if rows * cols * lanes <= 64 else "64 multipliers at most"

    space, base = {"rows": (2, 4, 8), "cols": (8, 16), "weight_format": ("int4", "e3m2")}, preset("sat256")
    drawn = [random_machine(random.Random(seed), space, base=base, rules=(small,)) for seed in range(40)]
    assert all(
        c.multipliers <= 64 and c.replace(**{f: getattr(base, f) for f in space}) == base for c in drawn
    )
    assert {f: {getattr(c, f) for c in drawn} for f in space} == {
        "rows": {2, 4}, "cols": {8, 16}, "weight_format": {"int4", "e3m2"}
    }  # fmt: skip
    with pytest.raises(ConfigError, match="no legal machine among 10,000 drawn; give rows more values"):
        random_machine(random.Random(0), {"rows": (3,)})


def test_a_file_that_has_what_a_program_fits_still_loads(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text("specialize = false\nplane_bits = 9\ntoken_pairs = 17\nresidual = false\n")
    config = AcceleratorConfig.load(path)
    assert (config.fitted.plane_bits, config.fitted.token_pairs, config.fitted.residual) == (9, 17, False)
    assert not set(PARTS["fitted"].__dataclass_fields__) & set(search_space())


def test_the_page_is_up_to_date():
    script = Path(__file__).resolve().parents[2] / "benchmarks/configuration_tables.py"
    p = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
