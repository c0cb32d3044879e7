# amaranth: UnusedElaboratable=no
"""The resource model: committed data, coefficients, errors and formulas agree with each other and with synthesis."""

import json

import pytest
from benchmark_module import ROOT, benchmark

import sateen
from sateen.errors import BuildError, ConfigError
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.estimate import resource_data
from sateen.fpga.estimate.components import COMPONENTS
from sateen.fpga.estimate.memory_map import memory
from sateen.fpga.estimate.resource_fit import distinct, fit
from sateen.fpga.estimate.resource_model import RESOURCES, load, outside, predict, predict_part
from sateen.fpga.estimate.resource_parts import NOT_MEASURED, PARTS, TOP, rtlil
from sateen.fpga.estimate.technology import TECHNOLOGIES
from sateen.fpga.flow.batch import synthesize_many
from sateen.hw.memory.buffers import Buffer
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import PRESETS, preset


@pytest.fixture(scope="module")
def rows():
    return resource_data.read(str(ROOT / "fpga/estimate/resource_data.parquet"))


def test_the_fit_gives_the_committed_coefficients(rows):
    def flat(tree, path=()):
        if not isinstance(tree, dict):
            return {path: tree}
        return {k: v for name, sub in tree.items() for k, v in flat(sub, (*path, name)).items()}

    fresh, committed = flat(fit(rows)), flat(load()["coefficients"])
    assert set(fresh) == set(committed)
    wrong = {
        k: (v, committed[k]) for k, v in fresh.items() if v != pytest.approx(committed[k], rel=0.01, abs=0.01)
    }
    assert not wrong


def test_the_committed_errors_are_those_of_the_committed_coefficients(rows):
    found = benchmark("resource_model").errors_of(rows, load()["coefficients"])
    assert found == json.loads(json.dumps(load()["errors"]))


def test_the_committed_page_is_that_of_the_data(rows):
    page = (ROOT / "docs/results/resource_model.md").read_text(encoding="utf-8")
    assert page == benchmark("resource_model").page(rows, load())


def test_dsps_and_memories_are_counted_by_rule(rows):
    """Equal for every component of every configuration."""
    wrong = []
    for row in distinct(r for r in rows if r["part"] in COMPONENTS):
        config = resource_data.from_json(row["config"])
        guess = predict_part(row["part"], config, row["family"], load()["coefficients"])
        if (guess["dsp"], guess["bram"]) != (row["dsp"], row["bram"]):
            wrong.append((row["part"], row["family"], row["configuration"]))
    assert not wrong


@pytest.mark.parametrize("number", [0])
def test_synthesis_still_gives_the_rows(rows, number, tmp_path, monkeypatch):
    """A change of the hardware shows here; then run benchmarks/resource_model.py again."""
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path))
    names = ("element", "first_element", "accumulator", "weights")
    parts = [PARTS[name] for name in names]
    samples = [s for s in resource_data.configurations(number + 1) if s.number == number]
    fresh = resource_data.measure_parts(samples, FAMILIES["ecp5"], parts=parts)
    committed = [
        r for r in rows if (r["configuration"], r["family"]) == (number, "ecp5") and r["part"] in names
    ]
    key = "part"
    assert sorted(fresh, key=lambda r: r[key]) == sorted(committed, key=lambda r: r[key])


def test_configurations_of_a_longer_experiment_begin_with_the_same():
    short, long = resource_data.configurations(12), resource_data.configurations(40)
    assert short == long[:12]
    assert resource_data.machines(4) == resource_data.machines(9)[:4]
    assert resource_data.arrays(4) == resource_data.arrays(20)[:4]
    for sample in (*long, *resource_data.arrays(20), *resource_data.decoders()):
        text = resource_data.as_json(sample.config)
        assert resource_data.as_json(resource_data.from_json(text)) == text


def test_components_are_the_machine():
    """Each has terms and is measured, but for what only machines with several arrays have."""
    assert set(COMPONENTS) == set(PARTS) | set(NOT_MEASURED)
    assert not set(PARTS) & set(NOT_MEASURED)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_preset_has_an_estimate(family):
    for config in PRESETS.values():
        total, parts = predict(config, family, load()["coefficients"])
        assert all(total[name] >= 0 for name in RESOURCES)
        assert total["lut"] == pytest.approx(sum(p["lut"] for p in parts.values()))


def test_estimates_grow_with_the_machine():
    small, large = (
        sateen.estimate(AcceleratorConfig(rows=rows), "ecp5")["devices"]["ecp5"]["total"] for rows in (4, 8)
    )
    assert all(small[name] <= large[name] for name in RESOURCES)


def test_what_lies_outside_of_the_data_is_said():
    limits = load()["range"]
    inside = resource_data.configurations(1)[0].config
    assert outside(inside, limits) == []
    found = outside(preset("mac256"), limits)
    assert any(text.startswith("multipliers = 256 (fitted from") for text in found)
    assert any(
        "int" in text or "e5m2" in text
        for text in outside(inside.replace(weight_format="e5m2"), {**limits, "minifloat": [3, 8]})
    )


def test_estimate_wants_one_machine(tmp_path):
    with pytest.raises(ConfigError, match="nothing to estimate is given"):
        sateen.estimate()
    with pytest.raises(ConfigError, match="choose one"):
        sateen.estimate(AcceleratorConfig(), preset="tiny")
    with pytest.raises(ConfigError, match="unknown device 'asic'; devices are ecp5, xcup"):
        sateen.estimate(preset="tiny", device="asic")
    with pytest.raises(BuildError, match="does not exist"):
        sateen.estimate(tmp_path / "none")
    toml = tmp_path / "wide.toml"
    toml.write_text('rows = 8\nweight_format = "e3m2"\n')
    assert sateen.estimate(toml, "xcup")["name"] == "wide"


@pytest.mark.parametrize("family", ["ecp5"])
def test_memories_become_what_the_rule_says(family, tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path))
    shapes = [(8, 16), (40, 32), (64, 64), (36, 512), (40, 512), (128, 4096), (6, 256)]
    designs = [rtlil(Buffer(width=width, depth=depth)) for width, depth in shapes]
    for n, cells in synthesize_many(designs, FAMILIES[family], top=TOP):
        found = memory(family, *shapes[n])
        blocks = sum(cells.get(name, 0) for name in ("DP16KD", "PDPW16KD"))
        assert blocks == (found.cells if found.kind == "block" else 0)
        assert cells.get("TRELLIS_DPR16X4", 0) == (found.cells if found.kind == "lut" else 0)


@pytest.mark.parametrize(
    "family,a,b,count",
    [("ecp5", 18, 17, 1), ("ecp5", 19, 17, 1), ("ecp5", 20, 17, 2), ("xcup", 27, 17, 1), ("xcup", 5, 3, 0)],
)
def test_products_are_cut_for_dsps(family, a, b, count):
    assert TECHNOLOGIES[family].dsps(a, b) == count
