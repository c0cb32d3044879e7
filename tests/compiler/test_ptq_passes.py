"""Passes: needs are checked before they run, the state after each; the list that is shown is the one that runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from networks import Builder, residual
from recipe_runs import run_recipe

from sateen.cli.main import build_parser
from sateen.compiler.ptq import layer_passes
from sateen.compiler.ptq.adaround import AdaRound
from sateen.compiler.ptq.always import Calibrate, Rounding, Scales
from sateen.compiler.ptq.equalize import Equalize
from sateen.compiler.ptq.gptq import Gptq
from sateen.compiler.ptq.kept import code_version, digest
from sateen.compiler.ptq.merge_pool import MergePool
from sateen.compiler.ptq.passes import Context, Pass, check_order, run_passes
from sateen.compiler.ptq.recipe import PASSES, RECIPES, Recipe
from sateen.compiler.ptq.reconstruct import Reconstruct
from sateen.compiler.ptq.smooth import Smooth
from sateen.compiler.ptq.state import Fitted, State
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.options import Options
from sateen.errors import ConfigError, ModelError
from sateen.formats import parse_format
from sateen.ir.nodes import Conv, Expression

PAGE = (Path(__file__).resolve().parents[2] / "docs/ptq.md").read_text(encoding="utf-8")
OPTIONS = Options(parse_format("int4"), parse_format("int6"))


def labels(passes):
    return [p.label for p in passes]


def start(**changes):
    graph, b = residual()
    return State(fuse(graph)), Context(b.samples(16), replace(OPTIONS, **changes))


# -- the list ----------------------------------------------------------------------------------------------


def test_calibration_comes_where_it_is_needed():
    recipe = Recipe("all", (MergePool(), Equalize(), Smooth(), Gptq(), AdaRound(), Reconstruct()))
    assert labels(recipe.steps()) == [
        "mergepool", "equalize", "calibrate", "smooth", "calibrate", "branches", "scales", "gptq and adaround",
        "reconstruct", "rounding",
    ]  # fmt: skip
    assert labels(Recipe("none").steps(calibrated=False)) == ["scales", "rounding"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_shows_the_list(name):
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
    assert row.split("|")[2].strip() == ", ".join(labels(RECIPES[name].steps()))


def test_the_page_and_the_help_name_what_there_is():
    assert f"in this order: {', '.join(PASSES)} " in PAGE
    for name in (*PASSES, *labels(Recipe("r").steps())):
        assert f"- **{name}**" in PAGE, name
    compile_help = next(
        a.choices["compile"] for a in build_parser()._actions if a.choices and "compile" in a.choices
    )
    text = " ".join(compile_help.format_help().split())
    assert re.search(r"--ptq RECIPE (.*?)\(default", text)[1].startswith(", ".join(RECIPES))


@pytest.mark.parametrize("name", [n for n in RECIPES if n != "learned"])
def test_what_runs_is_the_list(name):
    graph, b = residual()
    _, record = run_recipe(
        graph, b.samples(16), RECIPES[name], weight_format="int4", activation_format="int4"
    )
    assert list(record["seconds"]) == [*labels(RECIPES[name].steps()), "all"]


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ([Gptq()], "recipe 'r': gptq needs plan, which no pass before it gives"),
        ([Rounding(), Calibrate(), Scales()], "rounding needs plan, .*; put scales before it"),
        ([Calibrate(), Equalize(), Smooth()], "smooth needs statistics, which equalize has undone; put calibrate"),
        ([Calibrate(), Scales(), Smooth(), Gptq()], "gptq needs plan, which smooth has undone; put scales before it"),
    ],
)  # fmt: skip
def test_a_pass_that_lacks_what_it_needs(passes, message):
    with pytest.raises(ConfigError, match=message):
        check_order("r", passes)


# -- the state ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Toy(Pass):
    """Halves the weights; or does not what it says."""

    breaks: str = ""
    name = "toy"
    needs = ("plan",)
    gives = ("fitted",)
    undoes = ("statistics",)

    def run(self, state: State, context: Context) -> State:
        context.progress(1, 2)
        graph, fmt = state.network.graph, context.options.weight_format
        fitted = {}
        for conv in (n for n in graph.nodes if isinstance(n, Conv)):
            scale = np.abs(conv.weight).max((1, 2, 3)) / fmt.max
            grid = np.rint(conv.weight / scale[:, None, None, None]).clip(fmt.min, fmt.max)
            fitted[conv.name] = Fitted(grid * scale[:, None, None, None], scale, conv.bias)
        first = next(iter(fitted))
        old = fitted[first]
        match self.breaks:
            case "nothing":
                return state
            case "grid":
                fitted[first] = replace(old, weight=old.weight * 1.01)
            case "scale":
                fitted[first] = replace(old, scale=-old.scale)
            case "shape":
                fitted[first] = replace(old, bias=old.bias[1:])
            case "nan":
                fitted[first] = replace(old, bias=old.bias * np.nan)
            case "name":
                fitted["nobody"] = old
            case "plan":
                state = replace(state, plan=replace(state.plan, quants={}))
            case "format":
                other = replace(state.plan.quants["x"], format=parse_format("int5"))
                state = replace(state, plan=replace(state.plan, quants={**state.plan.quants, "x": other}))
        return replace(state, fitted=fitted)


def test_a_pass_of_ones_own():
    state, context = start()
    done = []
    context = replace(context, progress=lambda i, n: done.append(i / n))
    found = run_passes(state, [Calibrate(), Scales(), Toy(), Rounding()], context)
    assert found.statistics is None, "undone"
    assert done == sorted(done) and done[-1] == 1
    for op in found.quantized.ops:
        if op.name in found.fitted:
            np.testing.assert_allclose(op.weight.scale, found.fitted[op.name].scale, rtol=1e-3)


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("nothing", "no fitted, which it says that it gives"),
        ("grid", "Conv 'conv0': a fitted weight is no value of int4 times its scale"),
        ("scale", "Conv 'conv0': scale -.*; it must be positive"),
        ("shape", "Conv 'conv0': its fitted weights have another shape"),
        ("nan", "Conv 'conv0': its fitted weights hold NaN or infinity"),
        ("name", "'nobody' has fitted weights, but is no Conv"),
        ("plan", "'average_pool6' has no scale"),
        ("format", "'x' is int5, not int6"),
    ],
)
def test_a_pass_that_leaves_something_wrong_is_named(breaks, message):
    state, context = start()
    with pytest.raises(ModelError, match=rf"pass toy \(after calibrate, scales\): {message}"):
        run_passes(state, [Calibrate(), Scales(), Toy(breaks)], context)


def test_statistics_of_another_network():
    state, context = start()
    found = run_passes(state, [Calibrate()], context)
    lacking = replace(found.statistics, tensors={"x": found.statistics.tensors["x"]})
    with pytest.raises(ModelError, match="'add4' has no statistics"):
        replace(found, statistics=lacking).verify(context.options)


# -- what is kept ------------------------------------------------------------------------------------------


def test_an_interrupted_compile_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path))
    monkeypatch.setattr(layer_passes, "LONG", 0.0)
    state, context = start()
    steps = Recipe("r", (Gptq(), AdaRound(20))).steps()

    def interrupt(i, n):
        if i > 0.7 * n:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_passes(state, steps, replace(context, progress=interrupt))
    first = {p: p.stat().st_mtime_ns for p in tmp_path.glob("layers/*.npz")}
    convs = [n for n in state.network.graph.nodes if isinstance(n, Conv)]
    assert 0 < len(first) < len(convs)
    resumed = run_passes(state, steps, context)
    assert all(p.stat().st_mtime_ns == t for p, t in first.items())
    assert len(list(tmp_path.glob("layers/*.npz"))) == len(convs)
    monkeypatch.setattr(layer_passes, "_fitted", None)  # nothing is found anew
    assert run_passes(state, steps, context).fitted.keys() == resumed.fitted.keys()
    monkeypatch.undo()
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path / "another"))
    fresh = run_passes(state, steps, context)
    for name, found in fresh.fitted.items():
        for part in ("weight", "scale", "bias"):
            np.testing.assert_array_equal(getattr(found, part), getattr(resumed.fitted[name], part))
    assert not list((tmp_path / "another").glob("layers/*.npz")), "what takes no time is not kept"


def test_what_is_kept_is_of_the_same_inputs():
    x = Expression("x")
    swish = Expression("mul", (), (x, Expression("sigmoid", (), (x,))))
    other = Expression("mul", (), (x, Expression("tanh", (), (x,))))
    b = Builder()
    graph = b.graph(b.conv(b.input(3, 3, 2), 4))
    moved = replace(graph, nodes=(replace(graph.nodes[0], weight=graph.nodes[0].weight + 1e-9),))
    different = [
        swish, other, graph, moved, Gptq(), Gptq(sweeps=9), AdaRound(), parse_format("int4"), parse_format("e4m3"),
        parse_format("e4m3b9"), np.zeros(4), np.zeros(4, np.float32), np.zeros((2, 2)), {"a": 1}, {"b": 1}, (1, 2),
        ((1,), 2), "1, 2", 1, 1.0, True, None,
    ]  # fmt: skip
    assert len({digest(d) for d in different}) == len(different)
    assert digest(swish) == digest(
        Expression("mul", (), (y := Expression("x"), Expression("sigmoid", (), (y,))))
    )
    assert re.fullmatch("[0-9a-f]{64}", code_version())
    with pytest.raises(TypeError, match="no hash of object"):
        digest(object())
