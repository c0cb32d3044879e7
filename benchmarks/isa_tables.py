"""Write the tables of fields into docs/isa.md, from the table that everything else is derived from.

    .venv/bin/python benchmarks/isa_tables.py [--check]

`--check` writes nothing and exits with 1 if the page is not up to date; the tests call it.
"""

from __future__ import annotations

from generated import update

from sateen.machine.isa import HEADER, LAYOUTS, Field, Layout


def row(field: Field, offset: int) -> str:
    bits = f"{offset}" if field.bits == 1 else f"{offset + field.bits - 1}:{offset}"
    about = field.about or field.name.replace("_", " ")
    if field.enum:
        about += ": " + ", ".join(f"{m.value} {m.name}" for m in field.enum)
    notes = [text for text, there in (("signed", field.signed), ("not 0", field.count)) if there]
    return (
        f"| `{field.name}` | {bits} | {', '.join(notes)} | {f'`{field.counted}`' if field.counted else ''} | "
        f"{f'`{field.only}`' if field.only else ''} | {about} |"
    )


HEAD = "| field | bits | | counted by | built with | |\n|---|---|---|---|---|---|"


def table(layout: Layout) -> str:
    unit = f", {layout.unit.label} unit" if layout.unit is not None else ""
    rows = [row(f, layout.offset(f.name)) for f in layout.fields]
    return (
        f"**{layout.opcode.name}**, opcode {layout.opcode.value}{unit}, {layout.bits} bits\n\n{HEAD}\n"
        + "\n".join(rows)
    )


def text() -> str:
    first = next(iter(LAYOUTS.values()))
    header = "\n".join(row(f, first.offset(f.name)) for f in HEADER)
    parts = [f"All begin with\n\n{HEAD}\n{header}", *(table(x) for x in LAYOUTS.values() if x.fields)]
    return "\n\n".join(["", *parts, ""])


if __name__ == "__main__":
    raise SystemExit(update("docs/isa.md", "fields", text()))
