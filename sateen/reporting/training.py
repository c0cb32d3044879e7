"""The page about a training run: its loss, and its layers, with nothing loaded from elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sateen.files import write_file
from sateen.reporting.charts import escape, ticks

if TYPE_CHECKING:
    from sateen.compiler.training import Plan, Settings

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 240, 56, 28, 12
_STYLE = """body{font:14px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
svg{max-width:100%;height:auto}.wide{overflow-x:auto}h1,td:first-child{overflow-wrap:anywhere}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left;min-width:8rem}svg text{font-size:12px;fill:#555}.loss{stroke:#b4552d}
.accuracy{stroke:#2d6cb4}.test{stroke:#3a8a4d}.curve{fill:none;stroke-width:2}.grid{stroke:#e4e4e4}
.bar{display:flex;height:.8rem;min-width:12rem}.bar i{height:100%}i.key{display:inline-block;width:.8rem;height:.8rem;
margin:0 .3rem 0 .6rem;vertical-align:-.1rem}.ff{background:#2d6cb4}.bp{background:#b4552d}.wu{background:#3a8a4d}
.update{background:#8c8c8c}
@media(max-width:30rem){td,th{padding:.2rem .4rem}body{margin:1rem auto}svg text{font-size:22px}}"""
_PASSES = {
    "ff": ("FF", "forward (FF)"), "bp": ("BP", "gradients of activations (BP)"),
    "wu": ("WU", "gradients of weights (WU)"), "update": ("update", "update"),
}  # fmt: skip
"""Heads of columns, and what they are."""


def write_page(
    path: Path,
    plan: Plan,
    settings: Settings,
    rows: list[dict[str, Any]],
    cycles: dict[str, Any] | None = None,
) -> None:
    """`rows` are those of `compiler.training.loop.curve`."""
    curves = [("loss", "loss"), ("accuracy", "accuracy, training samples")]
    curves += [("test", "accuracy, test samples")] if "test" in rows[-1] else []
    told = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{escape(str(value))}</td></tr>"
        for name, value in asdict(settings).items()
    )
    layers = "".join(
        f"<tr><td>{escape(layer.name)}</td><td>{layer.kind}</td><td>{' × '.join(map(str, layer.shape))}</td>"
        f"<td>{plan.macs(layer):,}</td><td>{layer.forward_pattern}</td><td>{layer.backward_pattern}</td></tr>"
        for layer in plan.trainable
    )
    head = "<tr><th>layer</th><th></th><th>taps × inputs × outputs</th><th>multiplications a sample</th>"
    head += "<th>forward</th><th>backward</th></tr>"
    sections = [
        f"<h1>Training of {escape(plan.graph.name or 'the network')}</h1>",
        *(f"<h2>{escape(title)}</h2>{_curve(rows, key)}" for key, title in curves),
        *([] if cycles is None else [_cycles(cycles, settings.batch)]),
        f'<h2>Layers</h2><div class="wide"><table>{head}{layers}</table></div>',
        f"<h2>Settings</h2><table>{told}</table>",
    ]
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Training</title><style>{_STYLE}</style>"
    )
    write_file(path, text + "\n".join(sections) + "</html>\n", "report")


def _cycles(cycles: dict[str, Any], batch: int) -> str:
    """A row for each layer, its passes apart, and as a bar."""
    named = dict.fromkeys(name for kind in _PASSES for name in cycles["layers"][kind])
    counts = [(name, [cycles["layers"][kind].get(name, 0) for kind in _PASSES]) for name in named]
    most = max(max(sum(row) for _, row in counts), 1)
    counts.append(("all", [cycles[kind] for kind in _PASSES]))
    total = sum(counts[-1][1]) or 1

    def line(name: str, row: list[int]) -> str:
        whole = total if name == "all" else most
        parts = zip(_PASSES, row, strict=True)
        bar = "".join(f'<i class="{kind}" style="width:{100 * n / whole:.2f}%"></i>' for kind, n in parts)
        cells = "".join(f"<td>{n:,}</td>" if n else "<td></td>" for n in [*row, sum(row)])
        return f'<tr><td>{escape(name)}</td>{cells}<td><div class="bar">{bar}</div></td></tr>'

    lines = "".join(line(name, row) for name, row in counts)
    heads = "".join(f"<th>{head}</th>" for head, _ in _PASSES.values())
    shares = zip(_PASSES.items(), counts[-1][1], strict=True)
    keys = "".join(
        f'<i class="key {kind}"></i>{title}: {100 * n / total:.0f} %' for (kind, (_, title)), n in shares
    )
    return (
        f"<h2>Cycles of a step</h2><p>Of {batch} samples, by the exact model: {total:,}. A layer's are by how much it "
        f'moves the end of its program.</p><p>{keys}</p><div class="wide"><table>'
        f"<tr><th>layer</th>{heads}<th>all</th><th></th></tr>{lines}</table></div>"
    )


def _curve(rows: list[dict[str, Any]], key: str) -> str:
    """A line over the epochs, as inline SVG."""
    values = [row[key] for row in rows if key in row]
    highest = max(values) or 1.0
    wide, high = _WIDTH - _LEFT - 12, _HEIGHT - _TOP - _BOTTOM

    def at(i: int, value: float) -> tuple[float, float]:
        return _LEFT + wide * (i / max(1, len(values) - 1)), _TOP + high * (1 - value / highest)

    parts = []
    for tick in (t / 1000 for t in ticks(max(1, int(1000 * highest)), 5)):
        y = at(0, tick)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(i, v) for i, v in enumerate(values)))
    parts.append(f'<polyline class="curve {key}" points="{points}"/>')
    ends = ((0, "epoch 1"), (len(values) - 1, f"epoch {len(values)}"))
    for i, text in ends[: min(2, len(values))]:
        anchor = "end" if i else "start"
        parts.append(f'<text x="{at(i, 0)[0]:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{text}</text>')
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {size} role="img" aria-label="{key} by epoch">{"".join(parts)}</svg>'
