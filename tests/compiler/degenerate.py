"""Statistics that say nothing, and layers to match: constant, equal, dead, tiny and huge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from networks import Builder
from recipe_runs import run_recipe

from sateen.compiler.float_executor import run_float
from sateen.compiler.ptq.recipe import Recipe
from sateen.errors import SateenError
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv
from sateen.sim.reference import run_reference

COUNT = 9


def _rng() -> np.random.Generator:
    return np.random.default_rng(5)


def samples_of(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """(COUNT, *shape), channels first."""
    rng = _rng()
    x = rng.normal(0, 1, (COUNT, *shape))
    one = x[:1].repeat(COUNT, 0)
    match kind:
        case "zero":
            return np.zeros_like(x)
        case "constant":
            return np.full_like(x, 0.7)
        case "one sample":
            return one
        case "nearly one sample":
            return one * (1 + 1e-9 * x)
        case "offset":
            return 1e6 + 1e-3 * x
        case "channels constant":
            x[:] = rng.normal(0, 3, (1, shape[0], 1, 1))
            return x
        case "one channel alive":
            x[:, 1:] = 0
            return x
        case "channels equal":
            return x[:, :1].repeat(shape[0], 1)
        case "rank one":
            return rng.normal(0, 1, (COUNT, 1, 1, 1)) * one
        case "one value":
            x[...] = 0
            x[3, -1, -1, -1] = 2
            return x
        case "negative":
            return -np.abs(x)
        case "tiny":
            return 1e-30 * x
        case "subnormal":
            return 1e-310 * x
        case "huge":
            return 1e12 * x
    raise ValueError(kind)


DATA = (
    "zero", "constant", "one sample", "nearly one sample", "offset", "channels constant", "one channel alive",
    "channels equal", "rank one", "one value", "negative", "tiny", "subnormal", "huge",
)  # fmt: skip
LAYERS = ("normal", "zero", "equal", "one channel", "rows equal", "tiny", "huge", "sparse")


def network(kind: str) -> Graph:
    """Convolutions around a Relu, a residual and a pool, with weights of the kind."""
    b = Builder(2)
    c = 1 if kind == "one channel" else 3
    y = b.clip(b.conv(b.input(3, 3, c), c, 3))
    y = b.add(b.conv(y, c, 1), y)
    graph = b.graph(b.gemm(b.pool(y, "average", 3), 1 if kind == "one channel" else 2))
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Conv):
            w = node.weight.copy()
            match kind:
                case "zero":
                    w[...] = 0
                case "equal":
                    w[...] = 0.25
                case "rows equal":
                    w[:] = w[:1]
                case "tiny":
                    w *= 1e-25
                case "huge":
                    w *= 1e9
                case "sparse":
                    w[..., 1:] = 0
                    w[0] = 0
            node = replace(node, weight=w)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def given(graph: Graph, kind: str) -> dict[str, np.ndarray]:
    return {p.name: samples_of(kind, p.shape) for p in graph.inputs}


CASES = [(d, "normal") for d in DATA] + [
    (d, k) for k in LAYERS[1:] for d in ("one sample", "rank one", "zero")
]


def assert_quantized(
    recipe: Recipe, data: str, layers: str, weights: str = "int4", activations: str = "int8"
) -> None:
    """The recipe gives a network whose outputs are numbers, near to the float network's where eight bits of activations
    have a range to be near to; or an error of its own."""
    graph = network(layers)
    samples = given(graph, data)
    try:
        found, _ = run_recipe(graph, samples, recipe, weight_format=weights, activation_format=activations)
    except SateenError as e:
        assert "hardly excite" in str(e) or "steps of" in str(e), e
        return
    real, got = run_float(graph, samples), run_reference(found, samples)
    for output in graph.outputs:
        expected, y = output.present(real[output.tensor]), got[output.port.name]
        assert np.isfinite(y).all()
        if activations == "int8":
            assert np.abs(y - expected).max() <= 2 * np.abs(expected).max() + 1e-6
