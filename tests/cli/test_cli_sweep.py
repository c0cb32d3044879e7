"""A sweep of formats in the report."""

import json

import pytest
from test_cli_report import Checker

from sateen.reporting.sweeps import FIELDS, front, luts, read_sweep

FOUND = {"int8": 90.0, "int4": 80.0, "e2m1": 85.0, "e3m2": 90.0, "e4m3": 89.0}


def row(weights, accuracy, **changes):
    values = ("net", "fast", weights, weights, accuracy, 91.0, 1000, 128, 4000)
    return dict(zip(FIELDS, values, strict=True)) | changes


def written(tmp_path, content):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(content))
    return path


def test_front_keeps_what_no_other_beats():
    assert front([(1, 5), (2, 5), (2, 7), (3, 6), (4, 8), (1, 4)]) == [0, 2, 4]
    assert front([]) == []


def test_page_shows_charts_fronts_and_the_build(sateen, build, tmp_path):
    rows = [row(f, a) for f, a in FOUND.items()]
    rows += [row("int4", 70.0, activations="int8"), row("int8", 50.0, method="balanced")]
    (fast, balanced) = read_sweep(written(tmp_path, rows))
    assert [p.format for p in fast["points"]] == ["int4", "e2m1", "e3m2", "int8", "e4m3"]
    assert luts("int4", "ecp5") < luts("e2m1", "ecp5") < luts("e3m2", "ecp5") < luts("int8", "ecp5")
    assert fast["fronts"]["LUT, Lattice ECP5"] == ["int4", "e2m1", "e3m2"]
    assert [p.accuracy for p in balanced["points"]] == [50.0]
    page = tmp_path / "r.html"
    assert sateen("report", build, "-o", page, "--sweep", tmp_path / "sweep.json")[0] == 0
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    assert "this build" in checker.text and "recipe balanced: float 91.00 %" in checker.text
    formats = text[text.index("<h2>Formats") :].split("<h2", 2)[1]
    assert formats.count("<circle") == 3 * (len(FOUND) + 1)
    assert sateen("report", build, "-o", page)[0] == 0 and "<h2>Formats" not in page.read_text()


def test_methods_of_a_network_stand_together(tmp_path):
    rows = [row("int8", 90.0, network=n, method=m) for m in ("fast", "best") for n in ("one", "two")]
    rows.append(row("e5m2", 80.0, network="one", method="fast", images=500))
    pages = read_sweep(written(tmp_path, rows))
    found = [(p["network"], p["method"], p["images"]) for p in pages]
    assert found == [
        ("one", "fast", 1000),
        ("one", "best", 1000),
        ("one", "fast", 500),
        ("two", "fast", 1000),
        ("two", "best", 1000),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"network": "net"}], "cannot be read"),
        ({"a": 1}, "cannot be read"),
        ([row("int9", 50.0)], "int9"),
        ([row("int1", 50.0)], "no unit of it without DSP"),
    ],
)
def test_what_is_no_sweep(sateen, build, tmp_path, content, message):
    code, _, err = sateen("report", build, "-o", tmp_path / "r.html", "--sweep", written(tmp_path, content))
    assert code == 2 and message in err and "Traceback" not in err
    code, _, err = sateen("report", build, "--sweep", tmp_path / "none.json")
    assert code == 2 and "none.json" in err
