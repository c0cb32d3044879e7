"""The clock model's experiment: places and routes machines on ECP5, fits, and writes the errors.

    python benchmarks/clock_model.py [--machines N] [--workers N] [--scheduler ADDRESS]
    python benchmarks/clock_model.py --fit-only

Writes fpga/estimate/clock_data.json, fpga/estimate/clock_model.json and docs/results/clock_model.md. Runs on this
machine, or on a Dask cluster that has the same Yosys and nextpnr. Each machine takes two to ten minutes of a core;
results are cached, so that an interrupted run goes on. Wants the extra `benchmark`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from rich.progress import track

import sateen.fpga.estimate
from sateen.fpga.estimate.clock_data import PART, TARGET_MHZ, Row, config_of, measure, read, trials, write
from sateen.fpga.estimate.clock_fit import errors, fit, left_out
from sateen.fpga.estimate.clock_model import FILE, GRADE, RANGED
from sateen.fpga.estimate.fitted_range import extent

FOLDER = Path(sateen.fpga.estimate.__path__[0])
DATA = FOLDER / "clock_data.json"
RESULTS = Path(__file__).resolve().parents[1] / "docs/results/clock_model.md"
FEW = 20
"""Machines below which a median says little."""


def model_of(rows: list[Row]) -> dict[str, Any]:
    """What clock_model.json holds."""
    return {
        "coefficients": fit(rows),
        "errors": errors(rows),
        "range": extent([config_of(row) for row in rows], RANGED),
    }


def page(rows: list[Row]) -> str:
    """docs/results/clock_model.md."""
    found = errors(rows)
    machines = len({r["config"] for r in rows})
    tools = ", ".join(dict.fromkeys(tool for r in rows for tool in r["tools"]))
    mean = [abs(f["mean_error"]) for f in left_out(rows) if f["seed"] == 1]
    out = [
        "# Clock model, ECP5",
        "",
        "Written by `python benchmarks/clock_model.py`: the clock that `sateen cost --estimate` gives against that of",
        f"machines placed and routed whole by {tools}, on {PART.title}, aiming at",
        f"{TARGET_MHZ:g} MHz, in the slowest corner. A machine's ports go to shift registers, so that every path is on",
        "the chip; memory, serial link and pins of a board are not there. Grade 8 is the design that was placed for",
        "grade 6, timed again.",
        "",
        f"{machines} machines. Each is estimated by a fit to the others; an error is |estimate / clock - 1|.",
        "",
        "| speed grade | machines | median | worst |",
        "|---|--:|--:|--:|",
    ]
    out += [
        f"| {g} | {e['count']} | {100 * e['median']:.1f} % | {100 * e['worst']:.1f} % |"
        for g, e in found.items()
    ]
    out += [
        f"| {GRADE}, the mean of the others as the estimate | {len(mean)} | {100 * statistics.median(mean):.1f} % | "
        f"{100 * max(mean):.1f} % |",
        "",
    ]
    if machines < FEW:
        out += [
            f"**{machines} machines are too few to promise an error for others**: take these as what was seen, and the",
            "estimate as a first guess; `sateen bitstream` measures.",
            "",
        ]
    for text in dict.fromkeys(r["config"] for r in rows):
        seeds = [r for r in rows if r["config"] == text]
        if len(seeds) > 1:
            mhz = [r["mhz"][GRADE] for r in seeds]
            each = ", ".join(f"{r['mhz'][GRADE]:.1f} MHz with seed {r['seed']}" for r in seeds)
            out += [
                f"Seed to seed, {seeds[0]['name']}: {each}: {100 * (max(mhz) / min(mhz) - 1):.1f} % apart.",
                "",
            ]
    out += [
        "| machine | seed | rows × cols × lanes | formats | cells | DSP | block RAM | MHz, grade 6 | estimated |"
        " grade 8 | estimated | longest path | logic + wires, ns |",
        "|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|---|--:|",
    ]
    for row, guess in zip(rows, left_out(rows), strict=True):
        c, used, path = config_of(row), row["used"], row["longest"]
        cells = (
            row["name"],
            row["seed"],
            f"{c.rows} × {c.cols} × {c.lanes}",
            f"{c.weight_format} × {c.activation_format}",
            f"{used['TRELLIS_COMB']:,}",
            used.get("MULT18X18D", 0),
            used.get("DP16KD", 0),
            *(f"{v:.1f}" for g in row["mhz"] for v in (row["mhz"][g], guess["mhz"][g])),
            f"`{_short(path['from'])}` to `{_short(path['to'])}`",
            f"{path['logic_ns']:.2f} + {path['wires_ns']:.2f}",
        )
        out.append(f"| {' | '.join(map(str, cells))} |")
    coefficients = fit(rows)
    out += [
        "",
        "Estimates are those of the fits without the machine. A path to a component takes the logic of",
        "its hardware (`hw/terms.py`), and its wires the constant below and"
        f" {coefficients['growth']:.3f} ns × √(block RAMs + DSPs);",
        f"the longest and {coefficients['margin']:.2f} ns more are the cycle. Grade 8 is "
        f"{coefficients['faster'].get('8', 1):.3f} times as fast.",
        "",
        "| path to | wires, ns | longest in the data, ns |",
        "|---|--:|--:|",
    ]
    for name, ns in sorted(coefficients["wires"].items(), key=lambda item: -item[1]):
        longest = [r["ns"][GRADE][name] for r in rows if name in r["ns"][GRADE]]
        out.append(f"| {name} | {ns:.2f} | {min(longest):.1f} to {max(longest):.1f} |")
    return "\n".join(out) + "\n"


def _short(cell: str) -> str:
    return cell.removeprefix("design.").split("_TRELLIS_FF")[0]


def experiment(count: int, workers: int, scheduler: str | None) -> list[Row]:
    from dask.distributed import Client, LocalCluster

    cluster = scheduler or LocalCluster(
        n_workers=1, threads_per_worker=workers, processes=False, dashboard_address=None
    )
    with Client(cluster) as client:
        jobs = [client.get_executor().submit(measure, trial) for trial in trials()[:count]]
        return [job.result() for job in track(jobs, description="machines")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machines", type=int, default=len(trials()), metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster (default: this machine)")
    parser.add_argument("--fit-only", action="store_true", help="of the data that are there")
    args = parser.parse_args()
    if not args.fit_only:
        write(experiment(args.machines, args.workers, args.scheduler), DATA)
    rows = read(DATA)
    (FOLDER / FILE).write_text(json.dumps(model_of(rows), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    RESULTS.write_text(page(rows), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
