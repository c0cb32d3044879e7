"""Random ONNX graphs that turn, cut, join and reduce tensors of one to five dimensions, the batch not always first.

What the importer takes must compute what ONNX Runtime computes; what it cannot it refuses, naming the node.

python benchmarks/layout_graphs.py --count 2000 [--seed 0] [--save FOLDER]
"""

from __future__ import annotations

import argparse
import collections
import math
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from layout_growth import MOST_ELEMENTS, Grower
from onnx import TensorProto, helper

import sateen
from sateen.compiler.importer import import_model
from sateen.errors import ModelError


def layout_graph(rng: np.random.Generator) -> onnx.ModelProto:
    """A random network of one to eight nodes, with one or two outputs."""
    g = Grower(rng)
    for _ in range(int(rng.integers(1, 9))):
        g.grow()
        if math.prod(g.shape) > MOST_ELEMENTS:
            break
    if not g.nodes:
        g.then("Relu", g.x, shape=g.shape)
    if g.chance(0.1):
        g.softmax()
    written = {o for n in g.nodes for o in n.output} & set(g.shapes)
    last = g.x if g.x in written else g.nodes[-1].output[0]
    names = [last]
    if g.chance(0.15):
        names.append(g.pick(sorted(written)))
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in dict.fromkeys(names)]
    used = {i for n in g.nodes for i in n.input}
    inputs = [i for i in g.inputs if i.name in used or g.chance(0.3)] or g.inputs[:1]
    graph = helper.make_graph(g.nodes, "layouts", inputs, outputs, g.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", g.opset)], ir_version=8)


# -- what the importer makes of it ---------------------------------------------------------------------------

REFUSAL = re.compile(r"^(\w+ '\w+'|graph (in|out)put '\w+'): ")


def samples(model: onnx.ModelProto, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    constant = {t.name for t in model.graph.initializer}
    sizes = {
        i.name: [d.dim_value or 1 for d in i.type.tensor_type.shape.dim]
        for i in model.graph.input
        if i.name not in constant
    }
    return {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in sizes.items()}


def runtime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime says, without its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def verdict(model: onnx.ModelProto) -> str:
    """ "equal" or "refused"; anything else says what is wrong with the importer."""
    feeds = samples(model)
    want = runtime(model, feeds)  # first: a graph that ONNX refuses is a fault of the generator
    try:
        network = sateen.load(model)
        listed = [f for f in network.findings if not f.supported]
    except ModelError as e:
        return f"check raises {e}"
    except Exception as e:
        return f"check crashes with {type(e).__name__}: {e}"
    try:
        import_model(model)
    except ModelError as e:
        if not REFUSAL.match(str(e)) or "malformed" in str(e) or "\n" in str(e):
            return f"unclear refusal: {e}"
        return "refused" if listed else f"check says yes, import refuses: {e}"
    except Exception as e:
        return f"crash: {type(e).__name__}: {e}"
    if listed:
        return f"check says no, import takes it: {listed[0]}"
    if any(len(p.shape) == feeds[p.name].ndim for p in network.graph.inputs):  # the whole file is one sample
        feeds = {name: x[None] for name, x in feeds.items()}
    got = network.run(feeds)
    if list(got) != list(want):
        return f"outputs {list(got)} instead of {list(want)}"
    for name, y in want.items():
        if got[name].shape == (1, *y.shape):  # an output without a batch has one sample in front
            y = y[None]
        if got[name].shape != y.shape:
            return f"shape {got[name].shape} instead of {y.shape}"
        if not np.allclose(got[name], y, rtol=1e-3, atol=1e-3, equal_nan=True):
            return f"numbers: {np.nanmax(np.abs(got[name] - y))} off"
    return "equal"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first graph; each has its own")
    parser.add_argument("--save", type=Path, help="folder for graphs that fail")
    args = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    for seed in range(args.seed, args.seed + args.count):
        model = layout_graph(np.random.default_rng(seed))
        said = verdict(model)
        counts[said if said in ("equal", "refused") else "failed"] += 1
        if said not in ("equal", "refused"):
            print(f"seed {seed}: {said}", flush=True)
            if args.save:
                args.save.mkdir(parents=True, exist_ok=True)
                onnx.save(model, args.save / f"{seed}.onnx")
    print(", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
    raise SystemExit(bool(counts["failed"]))


if __name__ == "__main__":
    main()
