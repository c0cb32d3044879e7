"""Write the tables of fields into docs/configuration.md, from their declarations.

    .venv/bin/python benchmarks/configuration_tables.py [--check]

`--check` writes nothing and exits with 1 if the page is not up to date; the tests call it.
"""

from __future__ import annotations

import inspect
import json

from generated import update

from sateen.machine.config import FIELDS, FIELDS_OF, OWN, PARTS, RULES
from sateen.machine.settings import TYPES, Setting

HEAD = "| field | default | must be | |\n|---|---|---|---|"
TITLES = {
    "array": "Array", "formats": "Formats", "buffers": "Buffers", "vector": "Vector unit", "bus": "Bus",
    "fitted": "What one program fits",
}  # fmt: skip


def row(setting: Setting) -> str:
    limits = [limit.text for limit in setting.limits]
    if setting.reads is not None and setting.type == "str":
        limits = ["the name of a [format](formats.md)"]
    limits += [r.about for r in RULES if r.field == setting.name]
    limits = limits or [TYPES[setting.type][0]]
    default = setting.default if setting.type != "tuple[str, ...]" else list(setting.default)
    return f"| `{setting.name}` | `{json.dumps(default)}` | {'; '.join(limits)} | {setting.about} |"


def table(title: str, about: str, names: tuple[str, ...]) -> str:
    rows = "\n".join(row(FIELDS[name]) for name in names)
    return f"## {title}\n\n{about}\n\n{HEAD}\n{rows}"


def text() -> str:
    parts = [table("Machine", "What is in no part.", OWN)]
    for name, part in PARTS.items():
        parts.append(table(TITLES[name], inspect.getdoc(part) or "", FIELDS_OF[name]))
    return "\n" + "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    raise SystemExit(update("docs/configuration.md", "fields", text()))
