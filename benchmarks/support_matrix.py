"""Write what is supported into docs/operators.md, from the tables that the program itself uses.

    .venv/bin/python benchmarks/support_matrix.py [--check]

`--check` writes nothing and exits with 1 if the page is not up to date; the tests call it.
"""

from __future__ import annotations

from generated import update

from sateen.compiler.importer import DYNAMIC, FUSED, HANDLERS, INTEGER_OPERATORS, LIMITS, MISPLACED, WRITTEN
from sateen.formats import all_formats
from sateen.fpga.boards.devices import FAMILIES
from sateen.machine.presets import PRESETS


def matrix() -> str:
    """The Markdown table."""
    by_use: dict[str, dict[str, list[str]]] = {}
    for operator, (_, use) in HANDLERS.items():
        limit = ", ".join(LIMITS.get(operator, ()))
        by_use.setdefault(use, {}).setdefault(limit, []).append(f"`{operator}`")
    integers = [f.name for f in all_formats() if f.uniform]
    minifloats = [f.name for f in all_formats() if not f.uniform]
    presets = (f"`{c.name}` ({c.multipliers} multipliers)" for c in PRESETS.values())
    rows = [(f"ONNX operators: {use}", _operators(groups)) for use, groups in sorted(by_use.items())]
    fixed = ", ".join(f"`{name}`" for name in sorted({*INTEGER_OPERATORS} - {DYNAMIC}))
    written = ", ".join(f"`{name}`" for name in sorted({*WRITTEN} - {*HANDLERS}))
    fused = ", ".join(f"`{name}`" for name in sorted({*FUSED, *MISPLACED}))
    rows += [
        ("ONNX operators: written as others of these", written),
        ("operators of ONNX Runtime: written as others of these", fused),
        ("integer operators, of ONNX and ONNX Runtime: the same on real numbers, between quantizers", fixed),
        ("scales that depend on the sample: one for all instead, from calibration samples", f"`{DYNAMIC}`"),
        ("integers", ", ".join(integers)),
        ("minifloats", ", ".join(minifloats)),
        ("weights and activations", "any two of these formats"),
        ("presets", ", ".join(presets)),
        ("resource counts", ", ".join(f"{f.title} (`{f.name}`)" for f in FAMILIES.values())),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _operators(groups: dict[str, list[str]]) -> str:
    """Names, those of one limit together and the limit after them; first those without any."""
    lists = [
        ", ".join(sorted(names)) + (f" ({limit})" if limit else "") for limit, names in sorted(groups.items())
    ]
    return "; ".join(lists)


if __name__ == "__main__":
    raise SystemExit(update("docs/operators.md", "support", matrix()))
