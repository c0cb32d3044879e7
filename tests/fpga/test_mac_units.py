# amaranth: UnusedElaboratable=no
"""Costs of multiply-accumulate units: the committed table, and synthesis of many modules at once."""

import pytest

from sateen.errors import BuildError
from sateen.formats import all_formats, parse_format
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.batch import synthesize_many
from sateen.fpga.library.mac_units import (
    FIELDS,
    LANES,
    Unit,
    best,
    measure,
    published_accumulator_bits,
    rows,
    swept_formats,
    units,
)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path))


def unit(name, implementation, lanes=1):
    return Unit(parse_format(name), implementation, lanes)


def test_modules_side_by_side_cost_what_they_cost_alone(own_cache, tmp_path):
    chosen = [unit("int3", "lut"), unit("e2m1", "table"), unit("int3", "lut")]
    together = dict(measure(chosen, FAMILIES["ecp5"]))
    for path in tmp_path.rglob("*.json"):
        path.unlink()
    assert together == {u: row for single in chosen[:2] for u, row in measure([single], FAMILIES["ecp5"])}
    assert together == dict(measure(chosen, FAMILIES["ecp5"]))  # from the cache


def test_a_committed_figure_is_what_synthesis_gives(own_cache):
    ((_, row),) = measure([unit("e2m1", "table")], FAMILIES["ecp5"])
    committed = [r for r in rows() if tuple(r[k] for k in FIELDS[:4]) == ("e2m1", "table", 1, "ecp5")]
    assert committed == [row]


def test_synthesis_says_what_is_wrong(own_cache):
    with pytest.raises(BuildError, match="texts with a module 'mac'"):
        list(synthesize_many(["module \\other\nend\n"], FAMILIES["ecp5"], top="mac"))
    with pytest.raises(BuildError, match="Yosys failed for Lattice ECP5"):
        list(synthesize_many(["module \\mac\n  what\nend\n"], FAMILIES["ecp5"], top="mac"))


def test_every_unit_is_committed_for_every_family():
    table = {tuple(r[k] for k in FIELDS[:4]) for r in rows()}
    swept = swept_formats()
    assert table == {
        (u.format.name, u.implementation, u.lanes, family)
        for family in FAMILIES
        for f in all_formats()
        for u in units([f], LANES[family] if f in swept else (1,))
    }


def test_committed_accumulators_are_those_of_the_units():
    for r in rows():
        if r["lanes"] == 1 and r["family"] == "ecp5":
            assert r["acc_bits"] == unit(r["format"], r["implementation"]).mac().acc_bits


def test_best_units():
    for f in swept_formats():
        for family in FAMILIES:
            plain, either = best(rows(), f.name, family, dsp=False), best(rows(), f.name, family)
            assert either["lut"] <= plain["lut"] and plain["dsp"] == 0


def test_a_minifloat_takes_as_many_dsps_as_an_integer_up_to_e3m4():
    """One a lane, wherever the synthesizer takes DSPs for the integer."""
    for r in rows():
        fmt = parse_format(r["format"])
        if r["implementation"] == "dsp" and fmt in swept_formats():
            assert r["dsp"] <= r["lanes"], r


@pytest.mark.parametrize(
    "name,bits",
    [
        ("int4", 22),
        ("e2m1", 22),
        ("e3m0", 28),
        ("int6", 26),
        ("e2m3", 26),
        ("e3m2", 32),
        ("e3m4", 36),
        ("e4m3", 50),
        ("e5m2", 80),
    ],
)
def test_published_accumulators(name, bits):
    assert published_accumulator_bits(parse_format(name), 4608) == bits
