"""The clock model: committed data, coefficients, errors, page and formulas agree with each other."""

import json

import pytest
from benchmark_module import ROOT, benchmark

from sateen.fpga.estimate import clock_data
from sateen.fpga.estimate.clock_data import GROUPS, config_of, group_of, trials
from sateen.fpga.estimate.clock_fit import fit, left_out
from sateen.fpga.estimate.clock_model import clocks, estimate_clock, load, logic, predict
from sateen.machine.presets import PRESETS, preset


@pytest.fixture(scope="module")
def rows():
    return clock_data.read(ROOT / "fpga/estimate/clock_data.json")


def test_the_fit_gives_what_is_committed(rows):
    def flat(tree, path=()):
        if not isinstance(tree, dict):
            return {path: tree}
        return {k: v for name, sub in tree.items() for k, v in flat(sub, (*path, name)).items()}

    fresh, committed = flat(benchmark("clock_model").model_of(rows)), flat(load())
    assert fresh.keys() == committed.keys()
    assert all(v == pytest.approx(committed[k], rel=0.01, abs=0.01) for k, v in fresh.items())


def test_the_committed_page_is_that_of_the_data(rows):
    page = benchmark("clock_model").page(rows)
    assert (ROOT / "docs/results/clock_model.md").read_text(encoding="utf-8") == page


def test_rows_are_of_the_trials(rows):
    known = {(t.config.name, t.seed): clock_data.as_json(t.config) for t in trials()}
    assert all(known[row["name"], row["seed"]] == row["config"] for row in rows)
    assert len({(row["name"], row["seed"]) for row in rows}) == len(rows)


def test_the_longest_path_of_all_components_is_the_clock(rows):
    for row in rows:
        for grade, mhz in row["mhz"].items():
            assert max(row["ns"][grade].values()) <= 1000 / mhz + 0.02
        assert row["longest"]["logic_ns"] + row["longest"]["wires_ns"] == pytest.approx(
            1000 / row["mhz"]["6"], abs=0.05
        )


def test_a_machine_left_out_does_not_count(rows):
    """What is measured of it changes nothing in its estimate."""
    changed = [json.loads(json.dumps(row)) for row in rows]
    first = [row for row in changed if row["config"] == rows[0]["config"]]
    for row in first:
        row["mhz"] = {grade: 2 * mhz for grade, mhz in row["mhz"].items()}
        row["ns"] = {grade: {k: ns / 2 for k, ns in found.items()} for grade, found in row["ns"].items()}
    assert left_out(changed)[0]["mhz"] == left_out(rows)[0]["mhz"]
    assert fit(changed) != fit(rows)


@pytest.mark.parametrize(
    ("cell", "group"),
    [
        ("design.activations.bank_1.0.0", "bank address"),
        ("design.matrix.array.pe_1_1.product_0_TRELLIS_FF_Q_3", "product"),
        ("design.matrix.array.pe_1_1.$1_MULT18X18D_P9", "product"),
        ("design.matrix.array.pe_1_1.psum_TRELLIS_FF_Q", "element"),
        ("design.matrix.array.weight_1_0_TRELLIS_FF_Q_7", "edge"),
        ("design.matrix.window.nest.y_step_oy_TRELLIS_FF_Q_1", "matrix"),
        ("design.vector.drain.requantizer.p_2_0_TRELLIS_FF_Q_32", "requantizer"),
        ("design.vector.drain.table_0.0.0", "drain"),
        ("design.vector.pool.window.nest.y_step_oy_TRELLIS_FF_Q_1", "pool"),
        ("taken_TRELLIS_FF_Q_99", None),
    ],
)
def test_cells_belong_to_components(cell, group):
    assert group_of(cell) == group


def test_every_preset_has_an_estimate():
    for config in PRESETS.values():
        assert set(logic(config)) == set(GROUPS)
        found = estimate_clock(config)
        assert found["ends_in"] in GROUPS and 20 < found["mhz"]["6"] < found["mhz"]["8"] < 300


def test_a_larger_machine_is_not_faster():
    small = preset("tiny")
    large = small.replace(rows=8, cols=8, lanes=1, group=1)
    coefficients = load()["coefficients"]
    a, b = (clocks(predict(c, coefficients), coefficients)["6"] for c in (small, large))
    assert b <= a


def test_what_lies_outside_of_the_data_is_said(rows):
    assert estimate_clock(config_of(rows[0]))["outside"] == []
    assert any(
        "multipliers = 256 (placed from" in text for text in estimate_clock(preset("mac256"))["outside"]
    )
