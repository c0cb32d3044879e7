"""Every point of a space is a legal machine."""

import itertools
import random

import pytest

import sateen
from sateen.errors import ConfigError
from sateen.explorer.candidate import Candidate
from sateen.explorer.space import DEFAULT, Space, default_space, space_of, starts
from sateen.machine.config import AcceleratorConfig
from sateen.sim.memory_timing import NOMINAL, ON_CHIP

BASE = sateen.preset("ulx3s-85f")


def test_points_drawn_at_random_are_legal_and_keep_what_they_can():
    space, rng = default_space(BASE, NOMINAL), random.Random(7)
    for _ in range(100):
        point = {name: rng.randrange(len(values)) for name, values in space.axes.items()}
        candidate = space.candidate(point)  # AcceleratorConfig checks every rule
        for name in ("weight_format", "act_bank_depth", "bus_bits", "depthwise"):
            assert getattr(candidate.config, name) == space.axes[name][point[name]]
        assert candidate.sparsity in candidate.config.patterns


def test_a_legal_point_is_itself():
    space = space_of(
        {"rows": [2, 4], "cols": [2, 4, 8], "lanes": [1, 2], "group": [2, 4]}, "space", BASE, NOMINAL
    )
    legal = 0
    for point in space.points():
        values = {name: space.axes[name][i] for name, i in point.items()}
        try:
            config = BASE.replace(**values)
        except ConfigError:
            continue
        legal += 1
        assert space.candidate(point).config == config
    assert 5 < legal < space.size
    assert len({tuple(p.values()) for p in space.points()}) == space.size


def test_the_defaults_are_values_that_the_configuration_declares():
    declared = sateen.search_space()
    for name, values in DEFAULT.items():
        if name in declared and name not in ("weight_format", "activation_format"):
            assert set(values) <= set(declared[name]), name


def test_starts_hold_the_presets_that_the_space_has():
    space = default_space(BASE, NOMINAL)
    configs = [space.candidate(p).config for p in starts(space, BASE)]
    shape = lambda c: (c.rows, c.cols, c.lanes, c.group)  # noqa: E731
    assert {shape(sateen.preset(n)) for n in ("tiny", "mac256", "icebreaker")} <= {shape(c) for c in configs}
    assert len({c.name for c in configs}) == 1


def test_axes_of_memory_and_recipe():
    space = space_of(
        {"latency": [4, 100], "recipe": ["fast", "balanced"], "interval": 2}, "space", BASE, ON_CHIP
    )
    made = [space.candidate(p) for p in space.points()]
    assert {(c.memory.latency, c.recipe) for c in made} == set(
        itertools.product((4, 100), ("fast", "balanced"))
    )
    assert {c.memory.interval for c in made} == {2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"rows": [3], "cols": [4], "group": [5]},
            "the space holds no legal machine: .* give .* more values",
        ),
        ({"rows": [300]}, "space: rows = 300: it must be at most 64"),
        ({"speed": [1]}, "unknown axis 'speed'; known are preset, recipe, channels, sparsity"),
        ({"patterns": [["dense"]]}, "unknown axis 'patterns'; sparsity decides on it"),
        ({"sparsity": ["3:7"]}, "sparsity = '3:7': unknown sparsity"),
        ({"recipe": ["quick"]}, "recipe = 'quick': recipe 'quick' is unknown"),
        ({"weight_format": ["int99"]}, "weight_format = 'int99': unknown format"),
        ({"cols": [4, 4]}, "cols = .*; give at least one value, and each once"),
        ({"narrow": ["yes"]}, "narrow = 'yes': it must be bool"),
        ({"latency": [0]}, "latency = 0: memory latency"),
        ({}, "has no axis"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        space_of(values, "space", BASE, NOMINAL)


def test_a_candidate_is_read_back_and_its_toml_is_its_machine(tmp_path):
    config = sateen.preset("sat256").replace(weight_format="e3m2", narrow=True)
    candidate = Candidate(config, "balanced", "2:8", (("conv 1", "dense"), ("b", "1:4")), ON_CHIP)
    again = Candidate.from_dict(candidate.to_dict())
    assert again.to_dict() == candidate.to_dict() and again.key == candidate.key
    (tmp_path / "machine.toml").write_text(candidate.toml("machine"))
    assert AcceleratorConfig.load(tmp_path / "machine.toml") == config.replace(name="machine")


def test_the_command_says_all_that_is_chosen():
    config = sateen.preset("tiny")
    command = Candidate(config, "balanced", "2:8").command(
        "a b.onnx", "x.npz", "f/0.toml", "", "ulx3s-85f", "out"
    )
    assert command == (
        "sateen compile 'a b.onnx' -o out --config f/0.toml --calibration x.npz --ptq balanced --sparsity 2:8 "
        "--board ulx3s-85f"
    )


def test_an_axis_without_the_value_takes_the_nearest():
    space = Space({"cols": (2, 8)}, sateen.preset("tiny"))
    assert space.position({"cols": 4}) == {"cols": 0} and space.position({"cols": 64}) == {"cols": 1}
