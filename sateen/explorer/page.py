"""A study as one page of HTML: fronts, parallel coordinates, importances, a table with filters; it needs no network."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from sateen.explorer.goals import METRICS
from sateen.explorer.libraries import library
from sateen.explorer.study import Study, Trial
from sateen.files import write_file

FILE = "study.html"
SHOWN = (
    "fps",
    "cycles",
    "clock",
    "lut",
    "ff",
    "dsp",
    "bram",
    "energy",
    "bytes",
    "accuracy",
    "agreement",
    "drop",
    "sqnr",
)
COUNTED = ("lut", "ff", "dsp", "bram", "clock")
CHOSEN = {"weights": "weight_format", "activations": "activation_format"} | {
    name: name for name in ("rows", "cols", "lanes", "group")
}
"""Fields of the configuration, by their titles, which are short enough to stand side by side."""
HEIGHT = 420


def write_page(study: Study, members: Sequence[Mapping[str, Any]], importances: Mapping[str, Any]) -> Path:
    """Write STUDY/study.html; its path. `members` are those of `Study.members`."""
    plotly = library("plotly")
    figures = [
        *_fronts(study),
        _parallel(study),
        *([_importance(importances)] if any(importances.values()) else []),
    ]
    charts = [
        plotly.io.to_html(
            figure,
            full_html=False,
            include_plotlyjs=i == 0,
            default_height=HEIGHT,
            config={"displaylogo": False, "responsive": True},
        )
        for i, figure in enumerate(figures)
    ]
    columns = [name for name in SHOWN if members and members[0].get(name) is not None]
    counts = [name for name in COUNTED if any(name in (m["counted"] or ()) for m in members)]
    rows = [
        {
            "index": m["index"],
            "cells": [
                *(_text(m[name]) for name in columns),
                *(_text(m["counted"][name]) if name in (m["counted"] or ()) else "" for name in counts),
            ],
            "choice": [
                m["weights"],
                m["activations"],
                m["recipe"],
                sparsity_text(m),
                _shape(m["configuration"]),
            ],
            "toml": Path(m["toml"]).read_text(encoding="utf-8"),
            "command": m["command"],
            "outside": "; ".join(m["outside"]),
            "reason": (m["counted"] or {}).get("reason", ""),
        }
        for m in members
    ]
    titles = [(name, METRICS[name].unit, METRICS[name].source) for name in columns]
    made = "placed" if study.about["board"] else "synthesized"
    titles += [(f"{name}, {made}", METRICS[name].unit, "measured") for name in counts]
    about = study.about
    environment = Environment(loader=PackageLoader("sateen.explorer", "."), autoescape=True)
    text = environment.get_template("study.html.j2").render(
        title=f"{Path(about['model']).name} on {about['device']}",
        trials=len(study.trials),
        objectives=about["objectives"],
        limits=about["limits"],
        clock=about["clock_source"],
        charts=charts,
        titles=titles,
        rows=rows,
    )
    path = study.folder / FILE
    write_file(path, text, "page")
    return path


def _fronts(study: Study) -> list[Any]:
    """A scatter plot for each pair of objectives."""
    go = library("plotly.graph_objects")
    names = study.about["objectives"]
    members = {t.number for t in study.front()}
    measured = [t for t in study.trials if t.state == "measured" and study.goals.kept(t.metrics)]
    figures = []
    for x, y in combinations(names, 2) if len(names) > 1 else [(names[0], "cycles")]:
        figure = go.Figure()
        for on_front in (False, True):
            mine = [t for t in measured if (t.number in members) == on_front and t.metrics.get(x) is not None]
            figure.add_scatter(
                x=[t.metrics[x] for t in mine],
                y=[t.metrics[y] for t in mine],
                text=[_label(t) for t in mine],
                mode="markers",
                name="on the front" if on_front else "keeps the limits",
                marker={"size": 10 if on_front else 6, "color": "#d62728" if on_front else "#9aa7b5"},
                hovertemplate=f"%{{text}}<br>{x} %{{x}}<br>{y} %{{y}}<extra></extra>",
            )
        figure.update_layout(
            title=f"{y} against {x}",
            xaxis_title=f"{x}, {METRICS[x].unit} ({METRICS[x].source})",
            yaxis_title=f"{y}, {METRICS[y].unit} ({METRICS[y].source})",
            template="plotly_white",
        )
        figures.append(figure)
    return figures


def _parallel(study: Study) -> Any:
    """Choices and metrics of what was measured, a line each; dragging along an axis filters."""
    go = library("plotly.graph_objects")
    names = study.about["objectives"]
    measured = [t for t in study.trials if t.state == "measured" and study.goals.known(t.metrics)]
    dimensions: list[dict[str, Any]] = []
    for title, name in CHOSEN.items():
        values = [getattr(t.candidate.config, name) for t in measured]
        if len(set(values)) > 1:
            kinds = sorted(set(values)) if isinstance(values[0], int) else list(dict.fromkeys(sorted(values)))
            dimensions.append(
                {
                    "label": title,
                    "values": [kinds.index(v) for v in values],
                    "tickvals": list(range(len(kinds))),
                    "ticktext": [str(k) for k in kinds],
                }
            )
    dimensions += [{"label": n, "values": [t.metrics[n] for t in measured]} for n in names]
    members = {t.number for t in study.front()}
    figure = go.Figure(
        go.Parcoords(
            line={
                "color": [int(t.number in members) for t in measured],
                "colorscale": [[0, "#b8c4d0"], [1, "#d62728"]],
                "cmin": 0,
                "cmax": 1,
            },
            dimensions=dimensions,
        )
    )
    figure.update_layout(title="Choices and metrics; red: on the front", template="plotly_white")
    return figure


def _importance(importances: Mapping[str, Mapping[str, float]]) -> Any:
    go = library("plotly.graph_objects")
    figure = go.Figure()
    for name, shares in importances.items():
        known = sorted(shares.items(), key=lambda pair: pair[1], reverse=True)
        figure.add_bar(x=[k for k, _ in known], y=[v for _, v in known], name=name)
    figure.update_layout(
        title="How much each choice decides on an objective (PED-ANOVA)",
        yaxis_title="share",
        template="plotly_white",
    )
    return figure


def _label(t: Trial) -> str:
    config = t.candidate.config
    text = (
        f"trial {t.number}: {config.weight_format} × {config.activation_format}, {t.candidate.sparsity}, "
        f"{config.rows} × {config.cols} × {config.lanes}"
    )
    return html.escape(text)


def sparsity_text(member: Mapping[str, Any]) -> str:
    pattern = "by layer" if member["layers"] else str(member["sparsity"])
    return pattern if member["channels"] == 1 else f"{pattern}, channels {member['channels']:g}"


def _shape(config: Mapping[str, Any]) -> str:
    return f"{config['rows']} × {config['cols']} × {config['lanes']}"


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.2f}"
