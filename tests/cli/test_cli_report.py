"""The HTML page: complete, self-contained, and small even for long programs."""

import json
from html.parser import HTMLParser

import pytest

from sateen.config import preset
from sateen.reporting import ENGINES, render
from sateen.timeline import merged, short, ticks

VOID = {"meta", "link", "img", "br", "path", "rect"}


class Checker(HTMLParser):
    """Tags are balanced, and nothing is loaded from anywhere."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        assert tag not in {"script", "link", "img", "iframe", "object"}
        assert not {"src", "href", "onload"} & {k for k, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in VOID and tag not in {"path", "rect"}:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def schedule(layers, instructions):
    """A synthetic schedule: layers one after another, each a chain of load, matrix, vector, store."""
    timeline, rows, t = [], [], 0
    for index in range(layers):
        start = t
        for _ in range(instructions):
            for engine, cycles in zip(ENGINES, (7, 90, 20, 3), strict=True):
                timeline.append(
                    {"engine": engine, "opcode": "X", "layer": index, "start": t, "done": t + cycles - 1}
                )
                t += cycles
        busy = {f"{e}_cycles": instructions * c for e, c in zip(ENGINES, (7, 90, 20, 3), strict=True)}
        rows.append(
            {
                "index": index,
                "name": f"/block{index}/<conv> & 'x'",
                "kind": "Linear",
                "sources": [f"Conv_{index}", "Relu"],
                "input_shape": [8, 8, 16],
                "output_shape": [8, 8, 16],
                "weight_format": "int8",
                "activation_format": "uint8",
                "macs": 60 * instructions * 8 if index else 0,
                "cycles": t - start,
                "start": start,
                "end": t,
                "utilization": 0.5,
                "bytes_loaded": 4096 * index,
                "bytes_stored": 0,
                "tiles": instructions,
            }
            | busy
        )
    stalls = {e: {"busy": t // 4, "wait": t // 4, "idle": t // 2} for e in ENGINES}
    return {"cycles": t, "multipliers": 8, "latency": 32, "interval": 1, "layers": rows} | {
        "timeline": timeline,
        "stalls": stalls,
    }


MANIFEST = {
    "sateen": "0.1.0",
    "model": "<net>.onnx",
    "name": "g",
    "config": preset("tiny").to_dict(),
    "inputs": [],
    "outputs": [],
    "macs": 12345,
    "files": {"program.bin": "00ff"},
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


@pytest.mark.parametrize("cost", [None, COST])
@pytest.mark.parametrize(("layers", "instructions"), [(0, 0), (1, 1), (3, 10), (40, 100)])
def test_page(layers, instructions, cost):
    page = render(MANIFEST, schedule(layers, instructions), cost)
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    for text in (
        "Schedule",
        "Engines",
        "Layers",
        "Cost",
        "<net>",
        "int8",
        *(f"block{n}" for n in range(layers)),
    ):
        assert text in checker.text
    assert ("AMD UltraScale+" in checker.text) == (cost is not None)
    assert ("measured: yosys" in checker.text) == (cost is not None)
    assert "http" not in page and "url(" not in page and "@import" not in page
    assert "prefers-color-scheme: dark" in page
    assert len(page) < 20_000 + 4_000 * layers + 300 * 4 * 1100


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
    assert "digits_cnn" in (tmp_path / "r.html").read_text()
    code, out, _ = sateen("report", build, "-o", tmp_path / "s.html", "--json")
    assert code == 0 and json.loads(out)["report"] == str(tmp_path / "s.html")
    code, _, err = sateen("report", build, "-o", tmp_path / "no/r.html")
    assert code == 2 and "does not exist" in err
