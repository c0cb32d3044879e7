"""Parts of documents that are written from the tables that the program itself uses."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def update(document: str, name: str, text: str) -> int:
    """Put `text` between the document's marks of that name; with --check, only say whether it is there: 0 or 1."""
    path = ROOT / document
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = path.read_text(encoding="utf-8")
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    new = f"{before}{begin}\n{text}\n{end}{after}"
    if "--check" in sys.argv[1:]:
        if new != old:
            print(f"{document} is not up to date: run {Path(sys.argv[0]).name}", file=sys.stderr)
        return int(new != old)
    path.write_text(new, encoding="utf-8")
    return 0
