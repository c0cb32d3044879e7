"""Tables that are read without scrolling on a narrow screen: each cell says which column it is of.

The page's style shows a table there as a list, and has the titles from `data-label`.
"""

from __future__ import annotations

import html
import re

_TABLE = re.compile(r"<table.*?</table>", re.S)
_ROW = re.compile(r"<tr(?P<attributes>[^>]*)>(?P<cells>.*?)</tr>", re.S)
_HEAD = re.compile(r"<th(?P<attributes>[^>]*)>(?P<text>.*?)</th>", re.S)
_CELL = re.compile(r"<td(?P<attributes>[^>]*)>")
_SPAN = re.compile(r'colspan="(\d+)"')


def labelled(page: str) -> str:
    """The page, each cell of its tables with the title of its column, and of the group that it is in."""
    return _TABLE.sub(lambda m: _table(m[0]), page)


def _table(table: str) -> str:
    titles: list[str] = []

    def row(found: re.Match[str]) -> str:
        nonlocal titles
        attributes, cells = found["attributes"], found["cells"]
        if "<td" not in cells:
            own = _titles(cells)
            titles = [f"{group}: {name}" if group and name else name or group
                      for group, name in zip(titles, own, strict=False)] if titles else own  # fmt: skip
            return f"<tr{_with_class(attributes, 'head')}>{cells}</tr>"
        at = iter(titles)

        def cell(c: re.Match[str]) -> str:
            label = next(at, "")
            return f'<td{c["attributes"]} data-label="{html.escape(label)}">' if label else c[0]

        return f"<tr{attributes}>{_CELL.sub(cell, cells)}</tr>"

    return _ROW.sub(row, table)


def _titles(cells: str) -> list[str]:
    found = []
    for head in _HEAD.finditer(cells):
        text = re.sub(r"<.*", "", head["text"], flags=re.S)  # up to a key that the title has
        span = _SPAN.search(head["attributes"])
        found += [html.unescape(text).strip()] * (int(span[1]) if span else 1)
    return found


def _with_class(attributes: str, name: str) -> str:
    if 'class="' in attributes:
        return attributes.replace('class="', f'class="{name} ', 1)
    return f'{attributes} class="{name}"'
