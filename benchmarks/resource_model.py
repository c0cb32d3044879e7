"""The resource model's experiment: synthesizes sampled components and machines, fits, and writes the errors.

    python benchmarks/resource_model.py [--configurations N] [--arrays N] [--machines N] [--workers N] [--anew]
                                        [--scheduler ADDRESS]
    python benchmarks/resource_model.py --recount PART [PART ...] [--workers N]
    python benchmarks/resource_model.py --fit-only

Writes fpga/estimate/resource_data.parquet, fpga/estimate/resource_model.json and docs/results/resource_model.md. Runs
on this machine, or on a Dask cluster that has the same Yosys. What the file has already is taken from there, if this
Yosys made it, and syntheses are cached: so a run with more configurations adds to the last one, and an interrupted
one goes on. After a change of what is counted, --anew counts all again; --recount counts components of these names
("row", "registers"), or "machine", again in the file's configurations, and keeps its other rows. Wants the extra
`benchmark`.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from rich.progress import Progress

import sateen.fpga.estimate
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.estimate.resource_data import (
    ARRAY_PARTS,
    LUT_PARTS,
    LUT_UNITS,
    ROW_PARTS,
    ROW_UNITS,
    SEED,
    WHOLE,
    Row,
    Sample,
    again,
    arrays,
    configurations,
    decoders,
    from_json,
    held_out,
    lut_units,
    machines,
    measure_machine,
    measure_parts,
    read,
    row_units,
    write,
)
from sateen.fpga.estimate.resource_fit import (
    LEAST_MACHINES,
    fit,
    left_out_errors,
    machine_errors,
    part_errors,
    ranges,
    summary,
)
from sateen.fpga.estimate.resource_model import FILE, RESOURCES, Coefficients, load
from sateen.fpga.estimate.resource_parts import DECODER, PARTS
from sateen.fpga.flow.synthesis import tool_version

FOLDER = Path(sateen.fpga.estimate.__path__[0])
DATA = FOLDER / "resource_data.parquet"
RESULTS = Path(__file__).resolve().parents[1] / "docs/results/resource_model.md"
TITLES = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram": "block RAM"}


def experiment(
    samples: list[Sample], more: list[Sample], whole: list[Sample], pool: Executor, known: list[Row]
) -> list[Row]:
    """All rows. What was synthesized before comes from `known` and from the cache."""
    rows: list[Row] = []
    work = (
        ("components", samples, tuple(PARTS.values())),
        ("arrays", more, ARRAY_PARTS),
        ("decoders", decoders(), (DECODER,)),
        ("row units", row_units(), ROW_PARTS),
        ("elements of LUTs", lut_units(), LUT_PARTS),
    )
    with Progress() as bars:
        for family in FAMILIES.values():
            for title, chosen, parts in work:
                bar = bars.add_task(f"{title}, {family.title}", total=None)
                rows += measure_parts(
                    chosen,
                    family,
                    parts=parts,
                    pool=pool,
                    known=known,
                    progress=lambda done, of, bar=bar: bars.update(bar, completed=done, total=of),
                )
        bar = bars.add_task("machines", total=len(whole) * len(FAMILIES))
        known = [r for r in known if r["part"] == WHOLE]  # they travel with each job
        jobs = [pool.submit(measure_machine, s, FAMILIES[name], known) for s in whole for name in FAMILIES]
        for job in jobs:
            rows.append(job.result())
            bars.advance(bar)
    return rows


def page(rows: list[Row], model: dict[str, Any]) -> str:
    """docs/results/resource_model.md."""
    coefficients = model["coefficients"]
    configs = {r["configuration"]: r["config"] for r in rows}
    whole = {r["configuration"] for r in rows if r["part"] == WHOLE}
    held = sum(held_out(from_json(configs[n])) for n in whole)
    different = len({r["text"] for r in rows if r["part"] in PARTS})
    single = len({r["configuration"] for r in rows if r["part"] == DECODER.name})
    units, luts = (len({r["configuration"] for r in rows} & set(n)) for n in (ROW_UNITS, LUT_UNITS))
    out = [
        "# Resource model",
        "",
        "Written by `python benchmarks/resource_model.py`: estimates of `sateen cost --estimate` against counts by",
        f"{model['tool']}. Components are fitted to {different} different ones of",
        f"{len(configs) - len(whole) - single - units - luts} configurations, of {units} more with the unit for rows,",
        f"and of {luts} more with products in LUTs;",
        f"decoders are counted one by one, all {single} of them.",
        f"{len(whole)} other configurations are synthesized as machines in",
        f"one, as `sateen cost` counts them; {held} of them, picked by a hash of their fields, are held out. Fewer",
        f"than {LEAST_MACHINES} of the others fit nothing: what synthesis gains across components is then taken as 0,",
        "and no machine is in the fit.",
        "An error is |estimate - count| / count.",
    ]
    if corrected := sum(1 for r in rows if r["part"] == WHOLE and not r["text"]):
        out += [
            "",
            f"{corrected} of the {len(FAMILIES) * len(whole)} counts of machines are older than their registers;",
            "what the registers by themselves have more or less since then is added to them.",
        ]
    for family in FAMILIES.values():
        machines = machine_errors(rows, coefficients, family.name)
        out += [
            "",
            f"## {family.title}",
            "",
            "Machines as one, all components and what is gained across them:",
            "",
        ]
        out += ["| resource | machines | median | 95th percentile | worst | worst configuration |"]
        out += ["|---|---|--:|--:|--:|---|"]
        for held in (False, True):
            for name in RESOURCES:
                found = [m for m in machines if m["held_out"] == held]
                out.append(
                    _line(f"{TITLES[name]}, {'held out' if held else 'not held out'}", name, found, configs)
                )
        out += ["", "Components, each by itself, all of them fitted:", ""]
        out += ["| component | different ones | LUT median | worst | FF median | worst | DSP, BRAM unequal |"]
        out += ["|---|--:|--:|--:|--:|--:|--:|"]
        errors = part_errors(rows, coefficients, family.name)
        for part in dict.fromkeys(e["part"] for e in errors):
            mine = [e for e in errors if e["part"] == part]
            cells = [part, str(len(mine))]
            for name in ("lut", "ff"):
                found = summary([e[name] for e in mine])
                cells += [_percent(found, "median"), _percent(found, "worst")]
            cells.append(f"{sum(bool(e['dsp'] or e['bram']) for e in mine)} of {len(mine)}")
            out.append(f"| {' | '.join(cells)} |")
        for title, part in (
            ("Units for rows", ROW_PARTS[0]),
            ("Elements with products in LUTs", LUT_PARTS[1]),
        ):
            left_out = left_out_errors(rows, part.name, family.name)
            out += ["", f"{title}, each fitted to the others only:", ""]
            out += ["| resource | units | median | 95th percentile | worst | worst configuration |"]
            out += ["|---|--:|--:|--:|--:|---|"]
            out += [_line(TITLES[name], name, left_out, configs) for name in RESOURCES]
    return "\n".join(out) + "\n"


def _line(title: str, name: str, found: list[dict[str, Any]], configs: dict[int, str]) -> str:
    s = summary([m[name] for m in found])
    if not found:
        return f"| {title} | 0 | | | | |"
    worst = max(found, key=lambda m: float(m[name]))
    where = f"{worst['configuration']}: `{configs[worst['configuration']]}`" if worst[name] else ""
    cells = (title, str(s["count"]), *(_percent(s, k) for k in ("median", "p95", "worst")), where)
    return f"| {' | '.join(cells)} |"


def _percent(s: dict[str, Any], key: str) -> str:
    return f"{100 * s[key]:.1f} %" if s["count"] else ""


def model_of(rows: list[Row]) -> dict[str, Any]:
    """What resource_model.json holds."""
    coefficients = fit(rows)
    return {
        "tool": tool_version(),
        "seed": SEED,
        "coefficients": coefficients,
        "errors": errors_of(rows, coefficients),
        "range": ranges(rows),
    }


def errors_of(rows: list[Row], coefficients: Coefficients) -> dict[str, Any]:
    """Family, resource: the errors on machines that are held out."""
    errors = {}
    for family in FAMILIES:
        found = [m for m in machine_errors(rows, coefficients, family) if m["held_out"]]
        errors[family] = {name: summary([m[name] for m in found]) for name in RESOURCES}
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configurations", type=int, default=16, metavar="N")
    parser.add_argument(
        "--arrays", type=int, default=16, metavar="N", help="of which only the array's components are taken"
    )
    parser.add_argument("--machines", type=int, default=3, metavar="N", help="synthesized as one, too")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster (default: this machine)")
    parser.add_argument("--anew", action="store_true", help="count again what the file has")
    parser.add_argument(
        "--recount", nargs="+", choices=(WHOLE, *PARTS), metavar="PART", help="beside the data that are there"
    )
    parser.add_argument("--fit-only", action="store_true", help="of the data that are there")
    args = parser.parse_args()
    if args.fit_only:
        rows = read(str(DATA))
    elif args.recount:
        write(again(read(str(DATA)), args.recount, args.workers), str(DATA))
        rows = read(str(DATA))
    else:
        from dask.distributed import Client, LocalCluster

        samples = configurations(args.configurations)
        kept = not args.anew and load()["tool"] == tool_version()
        known = read(str(DATA)) if kept else []
        cluster = args.scheduler or LocalCluster(
            n_workers=1, threads_per_worker=args.workers, processes=False, dashboard_address=None
        )
        with Client(cluster) as client:
            more, whole = arrays(args.arrays), machines(args.machines)
            rows = experiment(samples, more, whole, client.get_executor(), known)
        write(rows, str(DATA))
        rows = read(str(DATA))  # in the order that they have there, as the page is compared with it
    model = model_of(rows)
    (FOLDER / FILE).write_text(json.dumps(model, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    RESULTS.write_text(page(rows, model), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
