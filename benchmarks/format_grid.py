"""The full grid of weight by activation formats, 3 to 8 bits: accuracy, and fronts against what a multiplier costs.

    python benchmarks/format_grid.py                                     the digits networks
    python benchmarks/format_grid.py --data FOLDER --model resnet8.onnx  and ResNet8
                                     [--networks resnet8] [--images 1000] [--calibration 64] [--output DIR]

Integers of each width, and minifloats with two bits of exponent, e3m2 and e4m3; every pair of them, those of one kind
first. Recipe `fast`; accuracy is that of the bit-exact integers. LUTs are measured, per multiply-accumulate of the
smallest unit for the pair without DSP, 4 lanes, ECP5 (`fpga/library/mac_units.py`, which has units for two formats of
one kind). Writes DIR/format_grid.json, .md, and a heat map and fronts of each network as .png; what is there is kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from format_sweep import DIGITS, RESULTS, is_integer, number, said, tasks
from rich.progress import Progress

from sateen.formats import parse_format
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.batch import synthesize_many
from sateen.fpga.flow.cost import resources
from sateen.fpga.library.mac_units import DELAY_PS, K
from sateen.hw.library.mac import IMPLEMENTATIONS, MAC, why_not
from sateen.reporting.sweeps import LANES, front

INTEGERS = tuple(f"int{bits}" for bits in range(3, 9))
MINIFLOATS = ("e2m0", "e2m1", "e2m2", "e2m3", "e3m2", "e2m4", "e2m5", "e4m3")
FORMATS = (*INTEGERS, *MINIFLOATS)
METHOD = "fast"
Rows = list[dict[str, Any]]


def pairs() -> list[tuple[str, str]]:
    """Weights and activations, those of one kind first: fronts are of these."""
    found = list(itertools.product(FORMATS, repeat=2))
    return sorted(found, key=lambda p: is_integer(p[0]) != is_integer(p[1]))


def units(known: dict[str, float]) -> dict[str, float]:
    """LUTs per multiply-accumulate of each pair of one kind, by "weights activations"; those known are kept."""
    designs: list[tuple[str, str]] = []
    for kind in (INTEGERS, MINIFLOATS):
        for w, a in itertools.combinations_with_replacement(kind, 2):
            formats = parse_format(a), parse_format(w)
            for implementation in IMPLEMENTATIONS[2:]:  # those without DSP
                if f"{w} {a}" not in known and why_not(implementation, *formats, LANES) is None:
                    mac = MAC(a=formats[0], w=formats[1], lanes=LANES, k=K, implementation=implementation)
                    designs.append((f"{w} {a}", rtlil.convert(mac, name="mac", emit_src=False)))
    family, found = FAMILIES["ecp5"], dict(known)
    texts = [text for _, text in designs]
    made = synthesize_many(texts, family, top="mac", options="-nodsp", delay_ps=DELAY_PS["ecp5"], workers=1)
    for n, cells in made:
        pair, lut = designs[n][0], resources(cells, family)["lut"] / LANES
        for key in (pair, " ".join(reversed(pair.split()))):
            found[key] = min(lut, found.get(key, lut))
    return found


# -- what it shows -------------------------------------------------------------------------------------------


def fronts(rows: Rows, luts: dict[str, float]) -> tuple[Rows, str]:
    """The front of accuracy against LUTs over pairs of one kind, and a sentence of who is on it."""
    mine = [r for r in rows if _pair(r) in luts]
    edge = [mine[i] for i in front([(luts[_pair(r)], r["accuracy"]) for r in mine])]
    of = {True: [r for r in edge if is_integer(r["weights"])], False: []}
    of[False] = [r for r in edge if r not in of[True]]
    unequal = [r for r in edge if parse_format(r["weights"]).bits != parse_format(r["activations"]).bits]
    sentence = (
        f"{len(edge)} of {len(mine)} pairs are on the front: {len(of[True])} of integers, {len(of[False])} of "
        "minifloats; "
        f"{len(unequal)} have weights and activations of different widths."
    )
    return edge, sentence


def _pair(row: dict[str, Any]) -> str:
    return f"{row['weights']} {row['activations']}"


def integers_alone(rows: Rows, luts: dict[str, float]) -> str:
    """What a search among integers loses: the most that a minifloat pair brings for the LUTs of an integer pair."""
    mine = [r for r in rows if _pair(r) in luts]
    worst, where = 0.0, ""
    for r in (r for r in mine if not is_integer(r["weights"])):
        cost = luts[_pair(r)]
        best = max(
            (i["accuracy"] for i in mine if is_integer(i["weights"]) and luts[_pair(i)] <= cost), default=None
        )
        if best is not None and r["accuracy"] - best > worst:
            worst, where = r["accuracy"] - best, f"{r['weights']} × {r['activations']} at {cost:.0f} LUTs"
    if not where:
        return "No pair of minifloats is above all integer pairs of as few LUTs."
    return f"The most that minifloats bring above all integer pairs of as few LUTs: {worst:.1f} points ({where})."


def text(found: Rows, luts: dict[str, float]) -> str:
    lines = [
        "# Weights by activations, 3 to 8 bits\n",
        *[part for part in (__doc__ or "").split("\n\n")[2:]],
        "\n    python benchmarks/format_grid.py --data FOLDER --model resnet8.onnx\n",
    ]
    for network in dict.fromkeys(r["network"] for r in found):
        rows = [r for r in found if r["network"] == network]
        edge, about = fronts(rows, luts)
        lines += [f"## {network}\n", said(rows[0]) + ".\n", f"![{network}](format_grid_{network}.png)\n"]
        lines += [about, integers_alone(rows, luts), ""]
        if len(rows) < len(pairs()):
            lines += [f"Measured: {len(rows)} of {len(pairs())} pairs.\n"]
        lines += [
            "| weights × activations, on the front | LUT per MAC | accuracy | bytes of weights |",
            "|---|--:|--:|--:|",
        ]
        for r in edge:
            pair = f"{r['weights']} × {r['activations']}"
            lines.append(
                f"| {pair} | {luts[_pair(r)]:.1f} | {r['accuracy']:.2f} | {number(r['weight_bytes'])} |"
            )
        lines += [
            "",
            "Accuracy, %; a row is a format of weights, a column one of activations:\n",
            *grid(rows),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def grid(rows: Rows) -> Iterable[str]:
    values = {_pair(r): f"{r['accuracy']:.1f}" for r in rows}
    yield f"| | {' | '.join(FORMATS)} |"
    yield f"|---|{'--:|' * len(FORMATS)}"
    for w in FORMATS:
        yield f"| {w} | {' | '.join(values.get(f'{w} {a}', '') for a in FORMATS)} |"


def plot(rows: Rows, luts: dict[str, float], path: Path) -> None:
    """Left the grid, right every pair of one kind with the fronts of each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    values = {_pair(r): r["accuracy"] for r in rows}
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
        mine = [r for r in rows if is_integer(r["weights"]) == kind and _pair(r) in luts]
        points = [(luts[_pair(r)], r["accuracy"]) for r in mine]
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
    right.set(xlabel="LUT per multiply-accumulate, ECP5, measured", ylabel="accuracy, %", ylim=_near(rows))
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
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=64, help="training images")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.model is not None and args.data is None:
        parser.error("--model needs --data")
    args.networks = args.networks or [*DIGITS, *(["resnet8"] if args.model else [])]
    path = args.output / "format_grid.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"units": {}, "rows": []}
    found: Rows = kept["rows"]

    def write() -> None:
        lines = ",\n".join(f"  {json.dumps(r)}" for r in found)
        path.write_text(f'{{\n "units": {json.dumps(kept["units"])},\n "rows": [\n{lines}\n ]\n}}\n')

    for t in tasks(args):
        with Progress(transient=True) as bar:
            for weights, activations in bar.track(pairs(), description=t.name):
                key = t.key | {"method": METHOD, "weights": weights, "activations": activations}
                if not any(key.items() <= r.items() for r in found):
                    found.append(t.measure(METHOD, weights, activations, fake=False))
                    write()
    kept["units"] = units(kept["units"])
    write()
    path.with_suffix(".md").write_text(text(found, kept["units"]))
    for network in dict.fromkeys(r["network"] for r in found):
        rows = [r for r in found if r["network"] == network]
        plot(rows, kept["units"], path.with_name(f"format_grid_{network}.png"))


if __name__ == "__main__":
    main()
