"""What the report draws, and its tables on a narrow screen."""

import re

import pytest

from sateen.fpga.boards.catalog import BOARDS
from sateen.reporting import memory_map, network, roofline
from sateen.reporting.narrow import labelled
from sateen.sim.engines import Build


def layer(index, inputs, output, macs=1000, cycles=100, moved=50):
    return {
        "index": index, "name": f"l{index}", "short": f"l{index}", "kind": "Linear", "output_shape": [4, 4, 8],
        "inputs": inputs, "output": output, "tensors": {t: "on chip" for t in (*inputs, output)},
        "macs": macs, "cycles": cycles, "limited_by": "matrix", "bytes": {"total": moved},
    }  # fmt: skip


RESIDUAL = [layer(0, ["x"], "a"), layer(1, ["a"], "b"), layer(2, ["b", "a"], "y")]


def test_edges_are_who_reads_whom():
    assert network.edges(RESIDUAL) == [(0, 1), (1, 2), (2, 3), (1, 3)]
    drawn = network.draw(RESIDUAL)
    assert drawn.count('<line class="edge"') == 3 and drawn.count('<path class="edge"') == 1
    rows = network.rows_of(RESIDUAL)
    assert [(r.name, r.cycles) for r in rows] == [("x", None), ("l0", 100), ("l1", 100), ("l2", 100)]


def test_a_tensor_written_twice_is_read_from_the_last_writer():
    chain = [layer(0, ["x"], "a"), layer(1, ["a"], "a"), layer(2, ["a"], "y")]
    assert network.edges(chain) == [(0, 1), (1, 2), (2, 3)]


def circles(drawn):
    found = re.findall(r'<circle[^>]* cx="([\d.]+)%" cy="([\d.]+)"', drawn)
    return [(float(x), float(y)) for x, y in found]


def test_no_layer_lies_above_the_roof():
    """256 multipliers and 8 bytes a cycle meet at 32 multiplications a byte."""
    layers = [layer(0, [], "a", macs=25_600, cycles=100, moved=10), layer(1, [], "b", 800, 100, 800)]
    drawn = roofline.draw({"layers": layers, "multipliers": 256, "cycles": 200}, 8)
    (_, top), (_, low) = circles(drawn)
    roof = re.findall(r'<line class="roof"[^>]* y1="([\d.]+)"[^>]* y2="([\d.]+)"', drawn)
    assert top == float(roof[-1][0]) == float(roof[-1][1])  # all multipliers busy
    assert low > top and "100 % of what the roof allows" in drawn
    assert roofline.draw({"layers": [layer(0, [], "a", macs=0)], "multipliers": 256, "cycles": 9}, 8) == ""


def test_tensors_lie_where_the_build_has_them():
    manifest = {"on_chip": {"x": (0, 64), "a": (1024, 32), "b": (64, 16), "y": (1056, 8), "gone": (0, 1)}}
    drawn = memory_map.draw(manifest, RESIDUAL, banks=4, depth=1024)
    number = r'="([\d.]+)%?"'
    blocks = re.findall(rf'<rect class="c\d+ block" x{number} width{number} y{number} height{number}', drawn)
    places = [tuple(map(float, b)) for b in blocks]
    assert len(places) == 4 and "a: words 1,024 to 1,055, layers 0 to 2" in drawn
    x, a, b, y = places
    assert x[1] == pytest.approx(33.33) and a[:2] == (0, 100) and b[:2] == pytest.approx((33.33, 66.67))
    assert x[3] == pytest.approx(4 * b[3], abs=0.3) and a[3] == pytest.approx(4 * y[3], abs=0.3)
    assert b[2] + b[3] == pytest.approx(x[2], abs=0.1) and y[2] + y[3] == pytest.approx(a[2], abs=0.1)
    assert drawn.count('class="lane"') == 2  # banks that are used
    assert memory_map.draw({}, RESIDUAL, 4, 1024) == ""


def test_the_memory_of_a_build_is_all_there(build):
    opened = Build(build)
    memory = opened.manifest["memory"]
    parts = memory_map.parts(opened.manifest)
    assert [what for what, *_ in parts[:2]] == ["weights, indices, parameters, tables", "program"]
    data = [size for _, start, size in parts if start is None or start >= memory["data_offset"]]
    assert sum(data) == memory["data_size"]
    kept = opened.manifest["on_chip"]
    words = opened.config.act_depth
    assert kept and all(first >= 0 and first + count <= words for first, count in kept.values())


def test_cells_say_their_column():
    page = labelled(
        '<table><tr class="groups"><th></th><th colspan="2">moved</th></tr>'
        '<tr><th>layer</th><th class="r">in <i>key</i></th><th>out</th></tr>'
        '<tr><td>c</td><td class="r">1</td><td>2</td></tr></table><td>elsewhere</td>'
    )
    assert '<td data-label="layer">c</td>' in page
    assert (
        '<td class="r" data-label="moved: in">1</td>' in page and '<td data-label="moved: out">2</td>' in page
    )
    assert page.endswith("<td>elsewhere</td>") and page.count("head") == 2


def test_every_cell_of_a_real_page_has_a_title(sateen, build, tmp_path):
    assert sateen("report", build, "-o", tmp_path / "r.html")[0] == 0
    page = (tmp_path / "r.html").read_text()
    for title in ("Roofline", "Network", "Memory", "What fits where"):
        assert f"<h2>{title}</h2>" in page
    assert "Not counted yet" in page and "estimated; LUT" in page
    assert len(re.findall(r'data-label="fits">(?:yes|no)<', page)) == len(BOARDS)
    headed = [t for t in re.findall(r"<table.*?</table>", page, re.S) if "<th" in t]
    assert headed and not [c for t in headed for c in re.findall(r"<td(?![^>]*data-label)[^>]*>[^<]+", t)]
