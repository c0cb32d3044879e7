"""The HTML page: complete, self-contained, and small even for long programs."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from sateen import api
from sateen.machine.isa import UNITS
from sateen.machine.presets import preset
from sateen.models.data import digits_split
from sateen.reporting.charts import LABELS, Slot, columns, ticks
from sateen.reporting.page import KINDS, LIMITS, _short, render
from sateen.reporting.timeline import merged, short
from sateen.sim.critical_path import PROGRAM
from sateen.sim.engines import Build

VOID = {"meta", "link", "img", "br", "line"}


class Checker(HTMLParser):
    """Tags are balanced, and nothing is loaded from anywhere."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.cells = [], "", []

    def handle_starttag(self, tag, attrs):
        assert tag not in {"script", "link", "img", "iframe", "object"}
        assert not {"src", "href", "onload"} & {k for k, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        self.cells += [data.replace("\u202f", " ")] if data.strip() else []


def figures(cycles, macs, weight_bytes, index_bytes=0):
    """What schedule.json says of a layer, or of all, on one side."""
    moved = dict.fromkeys((*KINDS, "instructions"), 0)
    moved |= {"weights": weight_bytes, "indices": index_bytes, "activations_written": 10}
    limits = dict.fromkeys(LIMITS, 0) | {"matrix": cycles - cycles // 3, "load": cycles // 3}
    return {
        "macs": macs,
        "cycles": cycles,
        "utilization": 0.5,
        "limits": limits,
        "limited_by": "matrix" if cycles else None,
        "bytes": moved | {"total": sum(moved.values())},
    }


def sides(cycles, instructions, indexed):
    """A layer, or all, with what it would be dense."""
    one = figures(cycles, 500 * instructions, 1000 * instructions, 300 * instructions if indexed else 0)
    dense = figures(3 * cycles, 2000 * instructions, 4000 * instructions) if indexed else one
    values, index = one["bytes"]["weights"], one["bytes"]["indices"]
    whole = dense["bytes"]["weights"]
    busy = {f"{u}_cycles": cycles for u in UNITS}
    return (
        one
        | busy
        | {
            "dense_macs": dense["macs"],
            "dense": dense,
            "weights": {
                "count": 100,
                "nonzero": 30,
                "packed_bytes": 100,
                "values_bytes": values,
                "index_bytes": index,
                "dense_bytes": whole,
                "zeros_bytes": whole - values,
                "saved_bytes": whole - values - index,
                "compression": 1.0,
            },
        }
    )


def schedule(layers, instructions, indexed=False):
    """A synthetic schedule: layers one after another, each a chain of load, matrix, vector, store."""
    timeline, rows, t = [], [], 0
    for index in range(layers):
        start = t
        for _ in range(instructions):
            for unit, cycles in zip(UNITS, (7, 90, 20, 3), strict=True):
                timeline.append(
                    {"engine": unit, "opcode": "X", "layer": index, "start": t, "done": t + cycles - 1}
                )
                t += cycles
        description = {
            "index": index,
            "name": f"/block{index}/<conv> & 'x'",
            "kind": "Linear",
            "sources": [f"Conv_{index}", "Relu"],
            "output_shape": [8, 8, 16],
            "weight_format": "int8",
            "sparsity": "2:8" if indexed else "dense",
            "dataflow": None,
            "dataflow_cycles": {},
        }
        rows.append(description | sides(t - start, instructions, indexed))
    stalls = {u: {"busy": t // 4, "wait": t // 4, "idle": t // 2} for u in UNITS}
    return {
        "cycles": t, "multipliers": 8, "latency": 32, "interval": 1, "indexed": indexed, "layers": rows,
        "totals": sides(t, layers * instructions, indexed), "timeline": timeline, "stalls": stalls,
    }  # fmt: skip


MANIFEST = {
    "sateen": "0.1.0",
    "model": "<net>.onnx",
    "name": "g",
    "config": preset("tiny").to_dict(),
    "inputs": [],
    "outputs": [],
    "files": {"program.bin": "00ff"},
    "ptq": {
        "recipe": "mine",
        "passes": [{"name": "smooth", "alpha": 0.5}, {"name": "gptq"}],
        "scales": "entropy",
        "samples": 77,
        "seed": 0,
    },
}
COUNTS = {
    "lut": 10,
    "ff": 20,
    "dsp": 1,
    "bram": 0.5,
    "carry": 2,
    "lut_logic": 10,
    "lut_memory": 0,
    "lut_carry": 0,
}
COST = {
    "devices": {
        "xcup": {
            "title": "AMD UltraScale+",
            "source": "measured",
            "tool": "yosys",
            "bram_unit": "RAMB36E2",
            "total": COUNTS,
            "parts": [{"name": "matrix", **COUNTS}, {"name": "(across parts)", **dict.fromkeys(COUNTS, -1)}],
        }
    }
}


def text_of(page):
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return checker


def test_every_unit_can_be_what_limits_a_layer():
    assert set(LIMITS) == {*UNITS, PROGRAM}


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("cost", [None, COST])
@pytest.mark.parametrize(("layers", "instructions"), [(0, 0), (1, 1), (5, 10), (60, 100)])
def test_page(layers, instructions, cost, indexed):
    page = render(MANIFEST, schedule(layers, instructions, indexed), cost, seconds=1.23)
    checker = text_of(page)
    for text in (
        "Schedule",
        "Units",
        "Layer by layer",
        "Cycles and utilisation",
        "Multiplications and bytes",
        "Cost",
        "<net>",
        "int8",
        "recipe mine (smooth, gptq)",
        "scales by entropy, 77 calibration samples, seed 0, 1.2 s",
        *(f"block{n}" for n in range(layers)),
    ):
        assert text in checker.text
    assert ("AMD UltraScale+" in checker.text) == (cost is not None)
    assert ("measured: yosys" in checker.text) == (cost is not None)
    assert "http" not in page and "url(" not in page and "@import" not in page
    assert "prefers-color-scheme: dark" in page
    assert len(page) < 30_000 + 8_000 * layers + 300 * 4 * 1100
    assert ("Dense and sparse" in checker.text) == indexed
    assert "cycles on the array" not in checker.text


def test_without_a_dense_side():
    found = schedule(2, 3, indexed=True)
    for f in (*found["layers"], found["totals"]):
        f["dense"] = None
        f["weights"] = {k: f["weights"][k] for k in ("count", "packed_bytes", "values_bytes", "index_bytes")}
    text = text_of(render(MANIFEST, found, None)).text
    assert "would not fit this machine" in text and "Dense and sparse" not in text


def test_dataflow_columns_are_there_where_a_layer_could_choose():
    found = schedule(2, 3)
    cycles = {"weight_stationary": 98765, "output_stationary": 43210}
    found["layers"][0] |= {"dataflow": "output_stationary", "dataflow_cycles": cycles}
    text = text_of(render(MANIFEST, found, None)).text
    assert re.search(r"output-stationary\s*98.765\s*43.210", text)


def test_figures_of_a_sparse_build():
    cells = text_of(render(MANIFEST, schedule(2, 100, indexed=True), None)).cells
    for row in (
        ["multiplications", "400 000", "100 000", "300 000", "75.0 %"],
        ["weights in memory, with indices", "781 KiB", "254 KiB", "527 KiB", "67.5 %"],
    ):
        assert any(cells[i : i + len(row)] == row for i in range(len(cells)))


@pytest.mark.parametrize("layers", [1, 5, 60, 250])
def test_columns(layers):
    slots = [
        Slot(str(n), "<a>", ((("dense", 2 * n, "x"),), (("a", n, "y"), ("b", 0, "z")))) for n in range(layers)
    ]
    svg = columns(slots, "t", ((1 << 10, "KiB"), (1, "B")))
    text_of(svg)
    assert svg.count("<rect") == 2 * (layers - 1)
    numbers = re.findall(r'text-anchor="middle">(\d+)<', svg)
    assert 1 <= len(numbers) <= LABELS and numbers[0] == "0"
    edges = [(float(x), float(w)) for x, w in re.findall(r'x="([\d.]+)%" width="([\d.]+)%"', svg)]
    assert all(x >= 0 and x + w <= 100.01 for x, w in edges)
    assert all(a + w <= b + 0.02 for (a, w), (b, _) in pairwise(edges))


@pytest.mark.parametrize("name", ["/a/very/long/path/of/some/module/conv", "conv", "a;b", "x" * 50, "/"])
def test_short_names_are_ends_of_the_first(name):
    assert name.split(";")[0].strip("/").endswith(_short(name).strip("/"))


def test_thousands_of_instructions_stay_a_small_page():
    assert len(render(MANIFEST, schedule(2, 20_000), None)) < 100_000


def test_merged_keeps_the_busy_cycles_and_the_layers():
    events = [
        {"layer": 0, "start": 0, "done": 9},
        {"layer": 0, "start": 12, "done": 19},
        {"layer": 1, "start": 20, "done": 29},
        {"layer": 1, "start": 90, "done": 99},
    ]
    assert merged(events, 5) == [(0, 0, 20, 18, 2), (1, 20, 30, 10, 1), (1, 90, 100, 10, 1)]


@pytest.mark.parametrize("cycles", [1, 9, 10, 11, 99, 35_498, 10**6, 123_456_789])
def test_ticks_are_few_and_round(cycles):
    found = ticks(cycles)
    assert 1 <= len(found) <= 11 and found[0] == 0 and found[-1] <= cycles
    if len(found) > 1:
        assert str(found[1]).strip("0") in {"1", "2", "5"}


def test_short():
    assert [short(n) for n in (0, 999, 1500, 2_000_000)] == ["0", "999", "1.5 k", "2 M"]


def test_report_command(sateen, build, tmp_path):
    code, out, _ = sateen("report", build, "-o", tmp_path / "r.html")
    assert code == 0 and out.strip() == str(tmp_path / "r.html")
    page = text_of((tmp_path / "r.html").read_text())
    assert "digits_cnn" in page.text
    code, out, _ = sateen("report", build, "-o", tmp_path / "s.html", "--json")
    assert code == 0 and json.loads(out)["report"] == str(tmp_path / "s.html")
    code, _, err = sateen("report", build, "-o", tmp_path / "no/r.html")
    assert code == 2 and "does not exist" in err


def test_clock_and_energy_are_those_of_the_estimate(sateen, build, tmp_path):
    assert sateen("report", build, "-o", tmp_path / "r.html")[0] == 0
    page = text_of((tmp_path / "r.html").read_text())
    estimate = json.loads(sateen("cost", build, "--estimate", "--json")[1])
    energy, clock = estimate["energy"], estimate["devices"]["ecp5"]["clock"]
    shown = page.cells[page.cells.index("Clock on Lattice ECP5") :]
    assert shown[shown.index("6") + 1] == f"{clock['mhz']['6']:.0f}" and "estimated from" in shown[1]
    assert "Energy of a sample" in page.text and energy["source"] in page.text
    shown = page.cells[page.cells.index("Energy of a sample") :]
    uj = [f"{energy['uj'][k]:.3g}" for k in ("total_low", "total_high")]
    assert shown[shown.index("total") :][1:3] == uj
    without = text_of(render(MANIFEST, schedule(1, 1), None)).text
    assert "Energy" not in without and "ECP5" not in without


BITSTREAM = {
    "board": "icebreaker", "title": "A board", "part": "ice40-up5k-sg48", "tools": ["yosys 1", "nextpnr 2"], "seed": 3,
    "clock_mhz": 24.0, "fmax_mhz": 25.34, "cycles": 128_533, "samples_per_second": 186.72, "multipliers": 2,
    "memory_bytes": 53_248, "resident": False, "baud": 57_600,
    "used": {"lut": 4000, "dsp": 4}, "available": {"lut": 5280, "dsp": 8}, "reached_mhz": {"2": 22.0, "3": 25.34},
    "estimated": {"used": {"lut": 4111, "ff": 1, "dsp": 4}, "clock_mhz": 24.0},
}  # fmt: skip


def test_what_was_measured_of_a_bitstream(sateen, build, data, tmp_path):
    folder, page = tmp_path / "build", tmp_path / "r.html"
    shutil.copytree(build, folder)
    labels = digits_split().y_test[:3].copy()
    labels[1] += 1
    np.savez(tmp_path / "labels.npz", labels)
    command = ("run", folder, "--inputs", data / "inputs.npz", "--labels", tmp_path / "labels.npz")
    code, out, _ = sateen(*command)
    assert code == 0 and "accuracy 66.7 %: 2 of 3 samples" in out
    code, out, _ = sateen(*command, "--engine", "program", "--json")
    assert code == 0 and json.loads(out)["accuracy"]["correct"] == 2
    (folder / "bitstream").mkdir()
    record = folder / "bitstream" / "icebreaker.json"
    record.write_text(json.dumps(BITSTREAM | {"build": Build(folder).identity.hex()}))
    assert sateen("report", folder, "-o", page)[0] == 0
    text = text_of(page.read_text()).text.replace("\u202f", " ")
    for part in (
        "24 MHz",
        "25.3 MHz",
        "187",
        "66.7 %",
        "ice40-up5k-sg48",
        "75.8 %",
        "50.0 %",
        "seed 3 of 2",
        "4 111",
    ):
        assert part in text, part
    assert "which the host loads" in text
    assert api._baud(Build(folder)) == 57_600

    record.write_text(json.dumps(BITSTREAM | {"build": "of another network"}))
    assert sateen("report", folder, "-o", page)[0] == 0 and "nextpnr 2" not in page.read_text()
    record.write_text("{")
    code, _, err = sateen("report", folder, "-o", page)
    assert code == 2 and "icebreaker.json: cannot be read" in err and "run sateen bitstream again" in err


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"a": np.zeros(3, int), "b": np.zeros(3, int)}, "has 2 arrays"),
        ({"a": np.zeros(4, int)}, r"must be integers of shape (3,)"),
        ({"a": np.zeros(3)}, "array 'a' is float64 (3,)"),
    ],
)
def test_wrong_labels(sateen, build, data, tmp_path, arrays, message):
    np.savez(tmp_path / "labels.npz", **arrays)
    code, out, err = sateen(
        "run", build, "--inputs", data / "inputs.npz", "--labels", tmp_path / "labels.npz"
    )
    assert code == 2 and message in err and not out
