"""Write the tables of docs/results/README.md that are extracts of what other benchmarks have kept.

    .venv/bin/python benchmarks/results_tables.py [--check]

`--check` writes nothing and exits with 1 if the page is not up to date; the tests call it.
"""

from __future__ import annotations

import json
from typing import Any

from generated import ROOT, update

RESULTS = ROOT / "docs/results"
FORMATS = ("int8", "int6", "e3m2", "e2m3", "int4", "e2m1")
RECIPES = {"mse": "fast", "best": "best", "learned": "learned"}
"""Methods of ptq.json that are recipes of `--ptq`, and their names there."""
SWEPT = {"digits_cnn": "digits CNN", "cifar_vit": "vision transformer"}
"""Networks of format_sweep.json, and what the table calls them."""
UNITS = ("int8", "e3m2")


def accuracy() -> str:
    """Networks by format, in percent of the test images."""
    head = f"| network | test images | recipe | float | {' | '.join(FORMATS)} |\n|---|--:|---|" + "--:|" * (
        len(FORMATS) + 1
    )
    sweep: list[dict[str, Any]] = read("format_sweep.json")
    first, last = (
        [r for r in sweep if r["network"] == network and r["method"] == "fast"] for network in SWEPT
    )
    ptq = [r for r in read("ptq.json") if r["images"] == 10_000]
    floating = next(r["accuracy"] for r in ptq if r["method"] == "float")
    rows = [swept(first)]
    for method, recipe in RECIPES.items():
        found = {r["formats"].partition("/")[0]: r["accuracy"] for r in ptq if r["method"] == method}
        rows.append(row("ResNet8", 10_000, recipe, floating, found))
    rows.append(swept(last))
    return "\n".join([head, *rows])


def swept(rows: list[dict[str, Any]]) -> str:
    one = rows[0]
    found = {r["weights"]: r["accuracy"] for r in rows if r["weights"] == r["activations"]}
    return row(SWEPT[one["network"]], one["images"], "fast", one["float"], found)


def row(network: str, images: int, recipe: str, floating: float, found: dict[str, float]) -> str:
    digits = 2 if images > 1_000 else 1
    cells = (f"{a:.{digits}f} %" if (a := found.get(name)) is not None else "" for name in FORMATS)
    return f"| {network} | {images:,} | `{recipe}` | {floating:.{digits}f} % | {' | '.join(cells)} |".replace(
        ",", " "
    )


def units() -> str:
    """One multiplier and its accumulator on ECP5."""
    costs = json.loads((ROOT / "fpga/library/mac_cost.json").read_text(encoding="utf-8"))
    rows = (
        f"| {name} | {c['lut']} | {c['ff']} | {c['dsp']} |"
        for name in UNITS
        for c in (costs["formats"][name]["ecp5"],)
    )
    return "\n".join(["| weights and activations | LUT | FF | DSP |", "|---|--:|--:|--:|", *rows])


def read(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return rows


if __name__ == "__main__":
    page = "docs/results/README.md"
    raise SystemExit(update(page, "accuracy", accuracy()) | update(page, "units", units()))
