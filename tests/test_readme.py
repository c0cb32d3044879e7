"""What README.md and docs/results say is what the program does, and what the benchmarks have kept."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sateen
from sateen.models.data import CALIBRATION, digits_split

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_its_two_commands_are_make_demo_and_make_test():
    assert re.findall(r"^    \$ (.+?)(?:  +#.*)?$", README, re.MULTILINE) == ["make demo", "make test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("formats", ["int8", "e3m2"])
def test_the_demo_prints_what_it_says(formats):
    data = digits_split()
    network = sateen.load(ROOT / "models/digits_cnn.onnx")
    samples = {"input": data.x_train[:CALIBRATION]}
    quantized = network.quantize(weights=formats, activations=formats, calibration=samples)
    mapped = quantized.map("tiny")
    (logits,) = quantized.run({"input": data.x_test}).values()
    right = f"{100 * (logits.argmax(1) == data.y_test).mean():.1f} %"
    used = f"{100 * mapped.schedule['totals']['macs'] / (mapped.cycles * mapped.config.multipliers):.1f} %"
    rows = dict(re.findall(rf"^    {formats} +(reference|program|model|rtl) +(.*)$", README, re.MULTILINE))
    found = {engine: re.split(" {2,}", row) for engine, row in rows.items()}
    images = str(len(data.x_test))
    assert found["reference"] == [images, right]
    assert found["program"] == [images, right, "outputs equal"]
    assert found["model"] == [images, f"{mapped.cycles:,}", used]
    assert found["rtl"] == [images, right, f"{mapped.cycles:,}", used, "outputs equal, cycles as predicted"]


def test_its_figures_are_those_of_the_results():
    pages = [ROOT / "docs/boards.md", *(ROOT / "docs/results").glob("*.md")]
    known = " ".join(p.read_text(encoding="utf-8") for p in pages)
    costs = re.findall(r"Lattice ECP5 +(.*?) {2}measured", README)
    counts = [n.replace(",", " ") for row in costs for n in row.split()]
    quoted = re.findall(
        r"(?<!\S)\d+\.\d+ ?%|\d+\.\d+×|\d{1,3}(?: \d{3})+(?= cycles| samples)", section("Results")
    )
    assert len(counts) == 8 and len(quoted) >= 12
    missing = [n for n in (*counts, *quoted) if n not in known]
    assert not missing


@pytest.mark.parametrize("script", ["support_matrix", "results_tables"])
def test_generated_tables_are_up_to_date(script):
    path = ROOT / f"benchmarks/{script}.py"
    p = subprocess.run([sys.executable, path, "--check"], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr or f"run: python {path.relative_to(ROOT)}"
