"""Boards, presets, the cache; a machine on a board before synthesis; results as tables and traces."""

import csv
import io
import itertools
import json
import os
import re
import tomllib
from pathlib import Path

import pytest

import sateen as package
from sateen.errors import ConfigError
from sateen.files import cache_entry, load_entry, store_entry
from sateen.fpga.boards.catalog import BOARDS
from sateen.fpga.flow.run_time import expected_seconds, expected_time
from sateen.machine.config import AcceleratorConfig, as_toml
from sateen.machine.presets import PRESETS
from sateen.on_board import _too_much, estimate_on_board
from sateen.options import DEFAULT_PRESET

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_prints_as_a_file_that_is_it(sateen, name, tmp_path):
    code, out, _ = sateen("presets", name)
    (tmp_path / "m.toml").write_text(out)
    assert code == 0 and AcceleratorConfig.load(tmp_path / "m.toml") == PRESETS[name]
    assert tomllib.loads(as_toml(PRESETS[name])) == tomllib.loads(out)


def test_a_file_may_begin_with_a_preset(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "sat256"\nrows = 8\nbus_bits = 64\n')
    assert AcceleratorConfig.load(path) == PRESETS["sat256"].replace(name="mine", rows=8, bus_bits=64)
    path.write_text('base = "sat257"\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: base 'sat257' is no preset; presets are tiny, "):
        AcceleratorConfig.load(path)


def test_lists_name_all_of_them(sateen):
    assert all(name in sateen("presets")[1] for name in PRESETS)
    assert all(board.part.title in sateen("boards")[1] for board in BOARDS.values())
    rows = json.loads(sateen("boards", "--json")[1])["boards"]
    assert {row["board"]: row["multipliers"] for row in rows} == {b: PRESETS[b].multipliers for b in BOARDS}


@pytest.fixture(scope="module")
def digits():
    return package.load(ROOT / "models/digits_cnn.onnx").quantize(calibration="random")


@pytest.mark.parametrize("name", BOARDS)
def test_a_boards_preset_fits_it_by_the_estimate(digits, name):
    """As narrow as the digits network needs it, as it was placed (fpga/flow/presets.json)."""
    found = estimate_on_board(digits.map(name).config, name)
    most = found["share"][found["limited_by"]]
    assert most == max(found["share"].values()) and found["fits"] and most <= 1


def test_what_does_not_fit_says_what_limits_it(sateen, build):
    code, out, _ = sateen("cost", "--estimate", "--preset", "mac256", "--device", "ulx3s-85f")
    assert code == 0 and "does not fit: block RAM is used most" in out and "samples a second" not in out
    found = json.loads(sateen("cost", "--estimate", build, "--device", "ulx3s-85f", "--json")[1])
    assert found["fits"] and found["memory_bytes"] > 0
    assert found["samples_per_second"] == pytest.approx(1e6 * found["clock_mhz"] / found["cycles"], rel=1e-2)


def test_the_default_machine_fits_a_real_part():
    found = estimate_on_board(PRESETS[DEFAULT_PRESET], "zcu102")
    assert found["fits"] and found["limited_by"] == "bram" and found["available"]["bram"] == 912
    assert not any(estimate_on_board(PRESETS[DEFAULT_PRESET], name)["fits"] for name in BOARDS)


def test_a_board_of_vivados_is_estimated_too(sateen, build):
    code, out, _ = sateen("cost", "--estimate", build, "--device", "zcu104")
    assert code == 0 and "fits: " in out and "clock 200 MHz (the board's, not estimated)" in out
    assert "samples a second" in out and "memory of a program" not in out
    code, _, err = sateen("cost", "--estimate", build, "--device", "pynq-z2")
    assert code == 2 and "pynq-z2" in err


def test_the_sparse_preset_of_a_board_fits_it_and_is_faster():
    network = package.load(ROOT / "models/digits_resnet.onnx")
    dense = network.quantize(calibration="random").map("ulx3s-85f")
    sparse = network.quantize(calibration="random", sparsity="2:4").map("ulx3s-85f-sparse")
    assert sparse.cycles < 0.65 * dense.cycles
    dense_chip, chip = (estimate_on_board(m.config, "ulx3s-85f") for m in (dense, sparse))
    assert chip["fits"] and chip["used"]["dsp"] == dense_chip["used"]["dsp"]


def test_what_cannot_fit_is_refused_before_synthesis(sateen, build, monkeypatch):
    monkeypatch.setattr("sateen.bitstreams.make", None)  # is not reached
    code, out, err = sateen("bitstream", build, "--board", "icebreaker")
    assert code == 1 and not out
    assert "by the estimate, before synthesis, 'tiny' with this network cannot fit ice40-up5k-sg48: " in err
    assert re.search(r"[\d,]+ LUT of 5,280 \([\d,]+ too many\)", err)
    assert (
        "compile with --board icebreaker, whose preset is made for it, or take a larger board: it fits ulx3s"
        in err
    )
    code, _, err = sateen("bitstream", build, "--board", "tangnano-9k")
    assert code == 1 and re.search(
        r"block RAM of 26 \(\d+ too many; \d+ are memory for program, weights", err
    )


def test_memory_beside_block_ram_has_a_limit_of_its_own(build):
    there, far = (
        _too_much(
            {
                "board": "icebreaker",
                "memory_bytes": size,
                "memory_available": 131_072,
                "used": {"lut": 5_500, "bram": 30},
                "available": {"lut": 5_280, "bram": 30},
            }
        )
        for size in (131_072, 131_073)
    )
    assert there is None and far == "131,073 bytes of memory of 131,072 for program, weights and tensors"


def test_time_is_estimated_by_size(monkeypatch):
    record = {"used": {"TRELLIS_COMB": 5_000}, "seconds": {"synthesis": 60.0, "placement": 100.0}}
    place = {"architecture": "ecp5", "networks": {"one": record, "two": {"used": {"TRELLIS_COMB": 7_000}}}}
    monkeypatch.setattr("sateen.fpga.flow.run_time.measured", lambda: {"p": {"boards": {"b": place}}})
    assert expected_seconds("ice40", 1.0) is None and expected_time("ice40", 1.0, 3) == ""
    assert expected_seconds("ecp5", 10_000) == {"synthesis": 120.0, "placement": 200.0}
    monkeypatch.setattr("sateen.fpga.flow.run_time.measured", dict)
    assert 60 < expected_seconds("ecp5", 10_000)["synthesis"] < 120, "an earlier chip's"
    text = expected_time("ecp5", 10_000, 3)
    found = re.search(
        r"processors are free: \d+ (min|s), then up to 3 placements of \d+ (min|s), \d at once", text
    )
    assert found is not None


def test_the_cache_is_counted_and_cleaned(sateen, tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path / "cache"))
    entries = [cache_entry("kind", str(n)) for n in range(3)]
    for path in entries:
        store_entry(path, bytes(1 << 20))
    size = entries[0].stat().st_size
    found = json.loads(sateen("cache", "--json")[1])["kinds"]
    assert found == {"kind": {"files": 3, "bytes": 3 * size}}
    for n, path in enumerate(entries):  # the first is that which was used last
        os.utime(path, (1e9 - n, 1e9 - n))
    code, out, _ = sateen("cache", "--clean", "--limit", "2")
    assert code == 0 and "2.0 MiB removed" in out
    assert [load_entry(p) is not None for p in entries] == [True, False, False]
    assert sateen("cache", "--clean")[0] == 0 and not entries[0].exists()
    assert sateen("cache", "--limit", "2")[0] == 2


def test_layers_as_a_table_and_a_trace(sateen, build, tmp_path):
    code, _, _ = sateen("layers", build, "--csv", tmp_path / "l.csv", "--trace", tmp_path / "t.json")
    opened = package.open(build)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "l.csv").read_text())))
    assert code == 0 and [int(r["cycles"]) for r in rows] == [r["cycles"] for r in opened.layers]
    slices = [e for e in json.loads((tmp_path / "t.json").read_text())["traceEvents"] if e["ph"] == "X"]
    units = [e for e in slices if e["tid"]]
    assert len(units) == len(opened.timeline) == len(opened.schedule["timeline"])
    assert max(e["ts"] + e["dur"] for e in units) <= opened.cycles
    layers = [e for e in slices if not e["tid"]]
    assert all(a["ts"] + a["dur"] == b["ts"] for a, b in itertools.pairwise(layers))
    for unit in {e["tid"] for e in units}:  # instructions of a unit do not overlap
        own = sorted((e["ts"], e["dur"]) for e in units if e["tid"] == unit)
        assert all(a + d <= b for (a, d), (b, _) in itertools.pairwise(own))


def test_a_notebook_shows_a_build(build):
    opened = package.open(build)
    text = opened._repr_html_()
    assert text.count("<tr>") == len(opened.layers) + 1 and f"{opened.cycles:,} cycles" in text


def test_values_are_listed_when_asked_for(sateen, build, data):
    command = ("run", build, "--inputs", data / "inputs.npz", "--json")
    (short,) = json.loads(sateen(*command)[1])["outputs"].values()
    (long,) = json.loads(sateen(*command, "--values")[1])["outputs"].values()
    assert "values" not in short and len(long["values"]) == 3 and short["sha256"] == long["sha256"]
