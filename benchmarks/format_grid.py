"""The full grid of weight by activation formats, 3 to 8 bits: accuracy, and fronts against what a multiplier costs.

    python benchmarks/format_grid.py                                     the digits networks
    python benchmarks/format_grid.py --data FOLDER --model resnet8.onnx  and ResNet8
                                     [--networks resnet8] [--images 300] [--calibration 32] [--output DIR]

Integers of each width, and minifloats with two bits of exponent, e3m2 and e4m3; every pair of them, those of one kind
first. Recipe `fast`; accuracy is that of the bit-exact integers. LUTs are per multiply-accumulate without DSP, 4 lanes,
ECP5: measured for equal formats (`mac_units`), for others estimated as the geometric mean of the two, since a
multiplier grows with the product of its widths. Fronts are of pairs of one kind. Writes DIR/format_grid.json, .md, and
a heat map and fronts of each network as .png; what is there is kept.
"""

# extras: benchmark

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from format_sweep import DIGITS, RESULTS, is_integer, number, said, tasks
from rich.progress import Progress

from sateen.formats import parse_format
from sateen.reporting.sweeps import front, luts

INTEGERS = tuple(f"int{bits}" for bits in range(3, 9))
MINIFLOATS = ("e2m0", "e2m1", "e2m2", "e2m3", "e3m2", "e2m4", "e2m5", "e4m3")
FORMATS = (*INTEGERS, *MINIFLOATS)
METHOD = "fast"
Rows = list[dict[str, Any]]


def pairs() -> list[tuple[str, str]]:
    """Weights and activations, those of one kind first: fronts are of these."""
    found = list(itertools.product(FORMATS, repeat=2))
    return sorted(found, key=lambda p: is_integer(p[0]) != is_integer(p[1]))


def cost(row: dict[str, Any]) -> float:
    """LUTs per multiply-accumulate: measured for equal formats, else estimated."""
    return math.sqrt(luts(row["weights"], "ecp5") * luts(row["activations"], "ecp5"))


def of_one_kind(rows: Rows) -> Rows:
    return [r for r in rows if is_integer(r["weights"]) == is_integer(r["activations"])]


# -- what it shows -------------------------------------------------------------------------------------------


def edge_of(rows: Rows) -> Rows:
    """Those on the front of accuracy against LUTs."""
    return [rows[i] for i in front([(cost(r), r["accuracy"]) for r in rows])]


def sentences(rows: Rows) -> str:
    """Who is on the front, and what a search among integers alone loses."""
    mine = of_one_kind(rows)
    edge = edge_of(mine)
    integers = [r for r in edge if is_integer(r["weights"])]
    unequal = [r for r in edge if parse_format(r["weights"]).bits != parse_format(r["activations"]).bits]
    error = 100 * math.sqrt(0.25 / rows[0]["images"])
    return (
        f"{len(edge)} of {len(mine)} pairs of one kind are on the front: {len(integers)} of integers, "
        f"{len(edge) - len(integers)} of minifloats; {len(unequal)} have weights and activations of different widths. "
        f"{integers_alone(mine)} The standard error of an accuracy is at most {error:.1f} points."
    )


def summary(found: Rows) -> str:
    """Whether integers stay Pareto-optimal."""
    edges = []
    for network in dict.fromkeys(r["network"] for r in found):
        edge = edge_of(of_one_kind([r for r in found if r["network"] == network]))
        edges.append((network, sum(is_integer(r["weights"]) for r in edge), len(edge)))
    mine, of = sum(e[1] for e in edges), sum(e[2] for e in edges)
    each = ", ".join(f"{n} of {m} for {name}" for name, n, m in edges)
    return f"Pairs of integers are {mine} of the {of} members of the fronts: {each}."


def integers_alone(mine: Rows) -> str:
    worst, where = 0.0, ""
    for r in (r for r in mine if not is_integer(r["weights"])):
        best = [i["accuracy"] for i in mine if is_integer(i["weights"]) and cost(i) <= cost(r)]
        if best and r["accuracy"] - max(best) > worst:
            worst = r["accuracy"] - max(best)
            where = f"{r['weights']} × {r['activations']} at {cost(r):.0f} LUTs"
    if not where:
        return "No pair of minifloats is above all integer pairs of as few LUTs."
    return f"The most that minifloats bring above all integer pairs of as few LUTs: {worst:.1f} points ({where})."


def text(found: Rows) -> str:
    lines = ["# Weights by activations, 3 to 8 bits\n", (__doc__ or "").split("\n\n")[2]]
    lines += ["\n    python benchmarks/format_grid.py --data FOLDER --model resnet8.onnx\n"]
    lines += [summary(found), ""]
    for network in dict.fromkeys(r["network"] for r in found):
        rows = [r for r in found if r["network"] == network]
        lines += [f"## {network}\n", said(rows[0]) + ".\n", f"![{network}](format_grid_{network}.png)\n"]
        lines += [sentences(rows), ""]
        if len(rows) < len(pairs()):
            lines += [f"Measured: {len(rows)} of {len(pairs())} pairs.\n"]
        lines += [
            "| weights × activations, on the front | LUT per MAC, measured | estimated | accuracy | bytes of weights |",
            "|---|--:|--:|--:|--:|",
        ]
        for r in edge_of(of_one_kind(rows)):
            pair, lut = f"{r['weights']} × {r['activations']}", f"{cost(r):.1f}"
            costs = f"{lut} | " if r["weights"] == r["activations"] else f" | {lut}"
            lines.append(f"| {pair} | {costs} | {r['accuracy']:.2f} | {number(r['weight_bytes'])} |")
        lines += [
            "",
            "Accuracy, %; a row is a format of weights, a column one of activations:\n",
            *grid(rows),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def grid(rows: Rows) -> Iterable[str]:
    values = {f"{r['weights']} {r['activations']}": f"{r['accuracy']:.1f}" for r in rows}
    yield f"| | {' | '.join(FORMATS)} |"
    yield f"|---|{'--:|' * len(FORMATS)}"
    for w in FORMATS:
        yield f"| {w} | {' | '.join(values.get(f'{w} {a}', '') for a in FORMATS)} |"


def plot(rows: Rows, path: Path) -> None:
    """Left the grid, right every pair of one kind with the fronts of each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    values = {f"{r['weights']} {r['activations']}": r["accuracy"] for r in rows}
    table = [[values.get(f"{w} {a}", float("nan")) for a in FORMATS] for w in FORMATS]
    low = sorted(values.values())[len(values) // 5]  # the worst fifth is of one colour
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(18, 7.5))
    left.imshow(table, vmin=low, vmax=max(values.values()), cmap="viridis")
    for y, x in itertools.product(range(len(FORMATS)), repeat=2):
        value = table[y][x]
        if value == value:
            dark = value < (low + max(values.values())) / 2
            left.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=8, color="w" if dark else "k")
    for set_ticks in (left.set_xticks, left.set_yticks):
        set_ticks(range(len(FORMATS)), FORMATS, rotation=45 if set_ticks == left.set_xticks else 0)
    for line in (left.axhline, left.axvline):
        line(len(INTEGERS) - 0.5, c="w", lw=2)
    left.set(xlabel="activations", ylabel="weights", title=f"{rows[0]['network']}: accuracy, %")
    for kind, color, marker in ((True, "C0", "s"), (False, "C1", "o")):
        mine = [r for r in of_one_kind(rows) if is_integer(r["weights"]) == kind]
        points = [(cost(r), r["accuracy"]) for r in mine]
        right.scatter(*zip(*points, strict=True), c=color, marker=marker, s=18, alpha=0.5)
        edge = front(points)
        x, y = zip(*(points[i] for i in edge), strict=True)
        right.step(x, y, where="post", c=color, label="integers" if kind else "minifloats")
        for i in edge:
            right.annotate(
                f"{mine[i]['weights']}×{mine[i]['activations']}", points[i], fontsize=7, color=color,
                xytext=(-3, 4) if kind else (3, -9), textcoords="offset points", ha="right" if kind else "left",
            )  # fmt: skip
    right.axhline(rows[0]["float"], c="gray", ls=":", label="float")
    right.set(
        xlabel="LUT per multiply-accumulate, ECP5; unequal formats estimated",
        ylabel="accuracy, %",
        ylim=_near(rows),
    )
    right.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=72)
    pyplot.close(figure)


def _near(rows: Rows) -> Sequence[float]:
    values = sorted(r["accuracy"] for r in rows)
    low, high = values[len(values) // 5], max(values[-1], rows[0]["float"])
    margin = max(0.1 * (high - low), 0.1)
    return low - margin, high + margin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", nargs="*", choices=[*DIGITS, "resnet8"])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--calibration", type=int, default=32, help="training images")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.model is not None and args.data is None:
        parser.error("--model needs --data")
    args.networks = args.networks or [*DIGITS, *(["resnet8"] if args.model else [])]
    path = args.output / "format_grid.json"
    found: Rows = json.loads(path.read_text()) if path.exists() else []
    for t in tasks(args):
        with Progress(transient=True) as bar:
            for weights, activations in bar.track(pairs(), description=t.name):
                key = t.key | {"method": METHOD, "weights": weights, "activations": activations}
                if not any(key.items() <= r.items() for r in found):
                    found.append(t.measure(METHOD, weights, activations, fake=False))
                    path.write_text("[\n" + ",\n".join(f" {json.dumps(r)}" for r in found) + "\n]\n")
    path.with_suffix(".md").write_text(text(found))
    for network in dict.fromkeys(r["network"] for r in found):
        plot([r for r in found if r["network"] == network], path.with_name(f"format_grid_{network}.png"))


if __name__ == "__main__":
    main()
