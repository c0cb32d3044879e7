"""The ONNX package's own tests of operators, through `check`, PTQ and the integers of the reference engine.

    python benchmarks/backend_tests.py                        writes the tables of docs/results/backend_tests.md
    python benchmarks/backend_tests.py --only Resize --list   every case of an operator, one a line

Each case of `onnx.backend.test` (operators, small graphs, modules of PyTorch) is a model, inputs, and what must come
out. What a network has as a constant is made one: weights, scales, sizes, axes. A case of two operands counts twice,
with the second one computed and constant. The case's own inputs are the samples for calibration and the input.

An output agrees where it has at least `SQNR` dB to what the package expects, or to what ONNX's reference implementation
makes of the inputs as the codes have them, which are all that the machine sees of an input, or to ONNX Runtime. What is
right before it is rounded, and not after, is called coarse.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from generated import update
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

import sateen
from sateen.errors import SateenError

SQNR = {"int8": 25.0, "e4m3": 18.0}
"""dB that an output must have, by the format of weights and activations."""

EXACT = 60.0
"""dB that the imported network must have in floating point."""

DATA = {
    **dict.fromkeys(("Conv", "ConvTranspose", "BatchNormalization", "PRelu", "DeformConv"), 1),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "InstanceNormalization"), 1),
    **dict.fromkeys(("RMSNormalization", "Clip", "Pad", "Resize", "Upsample", "Slice", "Split"), 1),
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "TopK", "Dropout"), 1),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "QuantizeLinear", "DequantizeLinear", "QLinearConv"), 1),
    **dict.fromkeys(("QLinearMatMul", "ConvInteger", "MatMulInteger", "Gather", "CumSum", "Trilu"), 1),
    **dict.fromkeys(("GatherElements", "GatherND", "Compress", "Swish", "CastLike"), 1),
    "Attention": 3,
}
"""Leading operands that are computed in a network; of others, those of floating point."""
EITHER = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Max",
        "Min",
        "Sum",
        "Mean",
        "Pow",
        "PRelu",
        "Gemm",
        "MatMul",
        "Concat",
        "Where",
        "Greater",
        "Less",
        "GreaterOrEqual",
        "LessOrEqual",
        "Equal",
        "Mod",
    ]
)
"""Operators whose second operand is as often a constant."""
OUTSIDE = {
    **dict.fromkeys(("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"), "training"),
    **dict.fromkeys(("Bernoulli", "Multinomial"), "random"),
}
"""Operators of no network that is compiled."""
INDICES = ("ArgMax", "ArgMin", "TopK")
"""Operators that give int64."""
TRAINING = ("ai.onnx.preview.training", "ai.onnx.training")
FLOATS = (np.float16, np.float32, np.float64)
LARGEST = 1e20
"""Of inputs and outputs: some cases have none, infinity, or what was in memory."""
CODES = (np.int8, np.uint8)
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer", "DynamicQuantizeLinear")


EXPANDED = " (as a function)"
STATES = ("agrees", "coarse", "refused", "wrong", "crashed")


@dataclass(frozen=True, slots=True)
class Case:
    """A model with the inputs that stay, what it must give, and how it is called."""

    name: str
    operator: str
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a case, one of `STATES`; and why, or in dB how near."""

    state: str
    why: str = ""


# -- the cases ---------------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    """All in scope, in the package's order: fixed shapes of at most four dimensions, real numbers in and out, or codes
    of eight bits where the operator is one of quantized networks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [c for c in collect_testcases(None) if c.kind == "node"]
    known = {c.name: _operator(c.model) for c in found}
    for case in found:
        base, expanded, _ = case.name.partition("_expanded")
        operator = known.get(base, "graphs")
        for inputs, outputs in case.data_sets[:1]:
            name = case.name.removeprefix("test_")
            yield from _variants(name, operator, case.model, inputs, outputs, bool(expanded))
    for kind in ("simple", "pytorch-operator", "pytorch-converted"):
        for case in load_model_tests(kind=kind):
            model, inputs, outputs = _stored(case.model_dir)
            if inputs is not None:
                name = case.name.removeprefix("test_")
                yield from _variants(name, _operator(model), model, inputs, outputs)


def _stored(folder: str) -> tuple[onnx.ModelProto, list[np.ndarray] | None, list[np.ndarray]]:
    from pathlib import Path

    model, data = onnx.load(f"{folder}/model.onnx"), sorted(Path(folder).glob("test_data_set_*"))
    if not data:
        return model, None, []
    read = []
    for what in ("input", "output"):
        files = sorted(data[0].glob(f"{what}_*.pb"), key=lambda f: int(f.stem.split("_")[1]))
        tensors = [onnx.TensorProto.FromString(f.read_bytes()) for f in files]
        read.append([onnx.numpy_helper.to_array(t) for t in tensors])
    return model, read[0], read[1]


def _operator(model: onnx.ModelProto) -> str:
    operators = {n.op_type for n in model.graph.node}
    return operators.pop() if len(operators) == 1 else "graphs"


def _variants(
    name: str,
    operator: str,
    model: onnx.ModelProto,
    inputs: Sequence[object],
    outputs: Sequence[object],
    expanded: bool = False,
) -> Iterator[Case]:
    """The cases that become of one; `expanded` is an operator as the function that ONNX defines it by."""
    if operator in OUTSIDE or name.startswith("training_"):
        return
    given = dict(zip([i.name for i in model.graph.input], inputs, strict=False))
    expected = dict(zip([o.name for o in model.graph.output], outputs, strict=False))
    if not _in_scope(model, operator, given, expected):
        return
    arrays = {k: np.asarray(v) for k, v in given.items()}
    stored = {i.name for i in model.graph.initializer}
    free = [k for k in arrays if k not in stored]
    kept = _data(operator, free, arrays)
    if not kept:
        return
    results = {k: np.asarray(v) for k, v in expected.items()}
    counts = [len(kept), 1] if operator in EITHER and len(kept) > 1 else [len(kept)]
    for n in counts:
        text = name if n == counts[0] else f"{name} (constant)"
        fixed = [k for k in free if k not in kept[:n]]
        made = _with_constants(model, {k: arrays[k] for k in fixed})
        yield Case(text, operator + EXPANDED * expanded, made, {k: arrays[k] for k in kept[:n]}, results)


def _data(operator: str, free: Sequence[str], arrays: Mapping[str, np.ndarray]) -> list[str]:
    if operator in DATA:
        return list(free[: DATA[operator]])
    return [k for k in free if arrays[k].dtype in FLOATS]


def _in_scope(
    model: onnx.ModelProto, operator: str, inputs: Mapping[str, object], outputs: Mapping[str, object]
) -> bool:
    arrays = [a for a in (*inputs.values(), *outputs.values())]
    if not arrays or not outputs or not all(isinstance(a, np.ndarray | np.generic) for a in arrays):
        return False
    if any(o.domain in TRAINING or "ml" in o.domain for o in model.opset_import):
        return False
    if any(np.ndim(a) > 4 or np.size(a) == 0 for a in arrays):
        return False
    declared = [*model.graph.input, *model.graph.output]
    if any(not d.HasField("dim_value") for i in declared for d in i.type.tensor_type.shape.dim):
        return False
    kinds = (*FLOATS, *(CODES if any(q in operator for q in QUANTIZED) else ()))
    first = next(iter(inputs.values()), None)
    sums = np.int32 if "Integer" in operator else np.int64 if operator in INDICES else None
    return (
        first is not None
        and np.asarray(first).dtype in kinds
        and all(np.asarray(a).dtype in kinds or np.asarray(a).dtype == sums for a in outputs.values())
        and all(float(np.abs(a).max()) < LARGEST for a in map(np.asarray, arrays) if a.dtype in FLOATS)
    )


def _with_constants(model: onnx.ModelProto, constants: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = [i for i in made.graph.input if i.name not in constants]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, k) for k, a in constants.items())
    return made


# -- one case ----------------------------------------------------------------------------------------------


def verdict(case: Case, formats: str) -> Verdict:
    """What becomes of the case with weights and activations of the format."""
    try:
        network = sateen.load(case.model)
        refused = [f for f in network.findings if f.supported is False]
        if refused or network.graph is None:
            return Verdict("refused", refused[0].reason if refused else "not checked")
        shapes = {p.source: p.shape for p in network.graph.inputs}
        batched = all(case.inputs[k].shape != s for k, s in shapes.items())
        inputs = {k: case.inputs[k] if batched else case.inputs[k][None] for k in shapes}
        own = None if network.graph.quantizers else formats  # a quantized file brings its own
        quantized = network.quantize(weights=own, activations=own, calibration=inputs)
        found = quantized.run(inputs)
    except SateenError as e:
        return Verdict("refused", str(e))
    except Exception as e:  # what a benchmark of crashes is for
        return Verdict("crashed", f"{type(e).__name__}: {e}")
    return _compared(case, found, network, quantized, inputs, formats)


def _compared(
    case: Case,
    found: Mapping[str, np.ndarray],
    network: sateen.Network,
    quantized: sateen.QuantizedNetwork,
    inputs: dict[str, np.ndarray],
    formats: str,
) -> Verdict:
    least = SQNR[formats]
    near = _least_sqnr(case.expected, found)
    if near < least:
        near = max(near, _least_sqnr(_of_the_codes(case, quantized), found))
    if near >= least:
        return Verdict("agrees", f"{near:.1f} dB")
    expected = _of_onnxruntime(case)  # which reads Resize's text otherwise than the package's data
    if _least_sqnr(expected, found) >= least:
        return Verdict("agrees", "with ONNX Runtime")
    exact = _least_sqnr(case.expected, network.run(inputs))
    return Verdict("coarse" if exact > EXACT else "wrong", f"{near:.1f} dB; before rounding {exact:.1f} dB")


def _least_sqnr(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    return min(_sqnr(np.asarray(expected[k]), v) for k, v in found.items() if k in expected)


def _sqnr(expected: np.ndarray, found: np.ndarray) -> float:
    if found.size != expected.size:
        return -np.inf
    wanted, got = (np.asarray(a, np.float64).ravel() for a in (expected, found))
    if expected.dtype in CODES and np.abs(wanted - got).max() <= 1:
        return np.inf
    noise, signal = float(((wanted - got) ** 2).sum()), float((wanted**2).sum())
    return np.inf if noise == 0 else -np.inf if signal == 0 else 10 * np.log10(signal / noise)


def _of_the_codes(case: Case, quantized: sateen.QuantizedNetwork) -> dict[str, np.ndarray]:
    """What ONNX's reference implementation gives for the inputs as they are once they are codes."""
    graph = quantized.graph
    feeds = {k: a for k, a in case.inputs.items()}
    for port in graph.inputs:
        x = case.inputs[port.source]
        if x.dtype not in FLOATS or port.host:
            continue
        batch = x if x.shape != port.shape else x[None]
        quant = graph.tensors[port.name].quant
        terms = graph.terms(port)
        codes = quant.quantize_terms(port.to_hwc(np.asarray(batch, np.float64)), terms)
        values = quant.dequantize(codes)
        values = values.reshape(*values.shape[:-1], terms, -1).sum(axis=-2)
        feeds[port.source] = port.from_hwc(values).reshape(x.shape).astype(x.dtype)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(case.model).run(None, feeds)
    except Exception:
        return case.expected
    return dict(zip([o.name for o in case.model.graph.output], results, strict=True))


def _of_onnxruntime(case: Case) -> dict[str, np.ndarray]:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(case.model.SerializeToString())
        results = session.run(None, dict(case.inputs))
    except Exception:
        return case.expected
    return dict(zip([o.name for o in case.model.graph.output], results, strict=True))


# -- the tables --------------------------------------------------------------------------------------------


def tables(results: Iterable[tuple[Case, Mapping[str, Verdict]]]) -> str:
    by_operator: dict[str, list[Mapping[str, Verdict]]] = defaultdict(list)
    for case, verdicts in results:
        by_operator[case.operator].append(verdicts)
    lines = [
        "| operator | cases | "
        + " | ".join(f"agree at {f}" for f in SQNR)
        + " | "
        + " | ".join(STATES[1:])
        + " |"
    ]
    lines.append("|---|--:|" + "--:|" * (len(SQNR) + 4))
    reasons: Counter[tuple[str, str]] = Counter()
    total: list[Mapping[str, Verdict]] = []
    for operator, found in sorted(by_operator.items(), key=lambda e: e[0].lower()):
        lines.append(_row(_shown(operator), found))
        total += found
        for verdicts in found:
            refused = next((v for v in verdicts.values() if v.state == "refused"), None)
            if refused is not None:
                reasons[operator, _kind(refused.why)] += 1
    lines.append(_row("**all**", total))
    lines += ["", "| operator | refused | why |", "|---|--:|---|"]
    lines += [f"| {_shown(o)} | {n} | {why} |" for (o, why), n in sorted(reasons.items(), key=lambda e: e[0])]
    return "\n".join(lines)


def _row(name: str, found: Sequence[Mapping[str, Verdict]]) -> str:
    def count(state: str, formats: Iterable[str] = SQNR) -> int:
        return sum(any(v[f].state == state for f in formats) for v in found)

    agree = " | ".join(str(count("agrees", [f])) for f in SQNR)
    return (
        f"| {name} | {len(found)} | {agree} | "
        + " | ".join(str(count(state)) for state in ("coarse", "refused", "wrong", "crashed"))
        + " |"
    )


def _shown(operator: str) -> str:
    name, expanded, _ = operator.partition(EXPANDED)
    return f"`{name}`{expanded}" if name[0].isupper() else name


_LONGEST = 100


def _kind(why: str) -> str:
    """The reason without the sizes and names of the one case."""
    counts = re.sub(r"-?\d+", "N", why).replace("|", "/")
    kind = re.sub(r"[\[(][N, ]*[\])]|'[^']*'", "…", counts)
    return kind if len(kind) <= _LONGEST else f"{kind[:_LONGEST]} …"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="OPERATOR", help="may be repeated")
    parser.add_argument("--list", action="store_true", help="each case, in the place of the tables")
    args = parser.parse_args(arguments)
    results = []
    bad = 0
    for case in cases():
        if args.only and case.operator not in args.only:
            continue
        verdicts = {f: verdict(case, f) for f in SQNR}
        results.append((case, verdicts))
        bad += any(v.state in ("wrong", "crashed") for v in verdicts.values())
        if args.list:
            said = "; ".join(f"{f}: {v.state} {v.why}" for f, v in verdicts.items())
            print(f"{case.operator} {case.name}: {said}", flush=True)
    if args.only and not args.list:
        print(tables(results))
    elif not args.list:
        update("docs/results/backend_tests.md", "cases", tables(results))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
