"""Reconstruction in torch: block by block, rounding and scales are learned that bring a block's output, or the
network's prediction, near to what the float network has there.

Ref: Li et al., BRECQ, arXiv 2102.05426; Wei et al., QDrop, arXiv 2203.05740; Liu et al., PD-Quant, arXiv 2212.07048.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from sateen.compiler.ptq.blocks import Block
from sateen.compiler.ptq.kept import Kept
from sateen.compiler.ptq.reconstruct import Reconstruct
from sateen.compiler.ptq.torch_graph import channels_second
from sateen.compiler.ptq.torch_rounding import ROUNDINGS, AdaRound, FlexRound, Rounded, grown
from sateen.compiler.ptq.torch_simulate import (
    Folded,
    Layer,
    Rule,
    Tensors,
    constants,
    fixed_rules,
    folded_zeros,
    mixed,
    run,
)
from sateen.compiler.quantize.activations import ActivationPlan
from sateen.compiler.quantize.calibrate import Progress
from sateen.formats import Format
from sateen.ir.fused import FusedGraph
from sateen.ir.nodes import Conv, Node
from sateen.ir.quantized import Quant

_BATCH = 64  # samples that go through at a time where nothing is learned
_LEAST = 1e-12
_CHECKS = 8  # of what has been learned so far, on all samples; the best stays


@dataclass(frozen=True, slots=True)
class Learned:
    """Of one block: weights by Conv, scales by group of tensors, the share of the error that is left."""

    weights: dict[str, Rounded]
    scales: dict[str, float]
    left: float

    def to_arrays(self) -> dict[str, np.ndarray]:
        text = {"names": list(self.weights), "scales": self.scales, "left": self.left}
        arrays = {"text": np.frombuffer(json.dumps(text).encode(), np.uint8)}
        for i, r in enumerate(self.weights.values()):
            arrays |= {f"{i} grid": r.grid, f"{i} scale": r.scale, f"{i} bias": r.bias}
        return arrays

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Learned:
        text = json.loads(arrays["text"].tobytes())
        weights = {
            n: Rounded(*(arrays[f"{i} {part}"] for part in ("grid", "scale", "bias")))
            for i, n in enumerate(text["names"])
        }
        return Learned(weights, text["scales"], text["left"])


@dataclass(frozen=True, slots=True)
class Task:
    """One block: what it reads, as in the float network and as quantized, and what it should give, (N, C, H, W)."""

    block: Block
    real: Tensors
    coarse: Tensors
    targets: Tensors
    tail: tuple[Node, ...]  # from the block's outputs to the network's, for their prediction
    predictions: Tensors  # the float network's outputs; empty if only the block's own count


class Objective:
    """What is made small: the squared errors of a block's outputs and, if asked, the divergence of the predictions,
    each as a share of what it is at the start."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.reference: dict[str, float] = {}

    def parts(self, outputs: Mapping[str, torch.Tensor], rows: slice | torch.Tensor) -> Tensors:
        """Mean errors of some samples, for which the block has the tensors `outputs`."""
        found = {t: F.mse_loss(outputs[t], y[rows]) for t, y in self.task.targets.items()}
        if self.task.predictions:
            outputs = {t: outputs[t] for t in self.task.block.outputs}
            beside = {t: x[rows] for t, x in self.task.real.items() if t not in outputs}
            tensors = run(self.task.tail, beside | outputs, {}, {})
            for t, y in self.task.predictions.items():
                found[f"{t} prediction"] = divergence(tensors[t], y[rows])
        return found

    def measure(self, layers: Mapping[str, Layer], rules: Mapping[str, Rule]) -> dict[str, float]:
        """The same over all samples, everything rounded."""
        block, coarse = self.task.block, self.task.coarse
        count = len(next(iter(coarse.values())))
        sums: dict[str, float] = {}
        with torch.no_grad():
            for i in range(0, count, _BATCH):
                rows = slice(i, min(i + _BATCH, count))
                found = run(block.nodes, {t: coarse[t][rows] for t in block.inputs}, layers, rules)
                for name, value in self.parts(found, rows).items():
                    sums[name] = sums.get(name, 0.0) + float(value) * (rows.stop - rows.start) / count
        return sums

    def total(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([p / self.reference[n] for n, p in parts.items() if n in self.reference]).sum()

    def score(self, measured: Mapping[str, float]) -> float:
        return sum(v / self.reference[n] for n, v in measured.items() if n in self.reference)


def divergence(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of the classes (along C) that logits x predict from those that y predict; squared error of a single number."""
    if x.shape[1] == 1:
        return F.mse_loss(x, y)
    p, q = F.log_softmax(y, dim=1), F.log_softmax(x, dim=1)
    return (p.exp() * (p - q)).sum(dim=1).mean()


def learn_block(
    task: Task,
    start: Mapping[str, Rounded],
    quants: Mapping[str, Quant],
    groups: Mapping[str, str],
    free: Iterable[str],
    fmt: Format,
    folded: Folded,
    options: Reconstruct,
    index: int,
    progress: Callable[[float], None],
) -> Learned:
    """The block's weights, the scales of its `free` groups of tensors, and how much of the error is left of 1.

    By their own objective they are never worse than the start.
    """
    block = task.block
    inside = [n.output for n in block.nodes if n.output in groups]
    known = [*inside, *(t for t in block.inputs if t in quants)]
    rules, fixed = fixed_rules(quants, known), constants(start, fmt, folded)
    objective = Objective(task)
    before = objective.measure(fixed, rules)
    power = {t: float(y.square().mean()) for t, y in task.targets.items()}
    objective.reference = {n: v for n, v in before.items() if v > _LEAST * power.get(n, 1.0)}
    if not objective.reference or not block.convs:
        return Learned(dict(start), {}, 1.0)
    some = {t: x[:_BATCH] for t, x in task.real.items()}
    with torch.no_grad():
        reach = {n: float(y.std()) for n, y in run(block.nodes, some, {}, {}).items()}
    modules: dict[str, FlexRound | AdaRound] = {
        c.name: ROUNDINGS[options.rounding](
            c.weight, start[c.name], fmt, reach[c.output], scales=options.scales
        )
        for c in block.convs
    }
    sizes = {g: torch.zeros((), requires_grad=True) for g in sorted(free)}

    def present_rules() -> dict[str, Rule]:
        return {
            t: (s * grown(sizes[groups[t]]) if groups.get(t) in sizes else s, f, z)
            for t, (s, f, z) in rules.items()
        }

    groups_of_rates = [
        {"params": [p for m in modules.values() for p in m.parameters()], "lr": options.rate},
        {
            "params": [p for m in modules.values() for p in m.scales()] + list(sizes.values()),
            "lr": options.scale_rate,
        },
    ]
    optimizer = torch.optim.Adam(groups_of_rates)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.iterations)
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence((options.seed, index)).generate_state(1)[0])
    )
    count = len(next(iter(task.coarse.values())))
    size = min(options.batch, count)
    order = torch.empty(0, dtype=torch.long)
    every = max(1, options.iterations // _CHECKS)
    least, best = float(len(objective.reference)), (dict(start), dict[str, float](), rules)

    def hardened() -> tuple[dict[str, Rounded], dict[str, float], dict[str, Rule]]:
        """Weights, scales and rules as they would stay."""
        found = {
            g: float(np.float32(quants_of(g, groups, quants).scale * grown(s).item()))
            for g, s in sizes.items()
        }
        now = {t: replace(quants[t], scale=found.get(groups.get(t, ""), quants[t].scale)) for t in known}
        return dict(start) | {n: m.result() for n, m in modules.items()}, found, fixed_rules(now, known)

    for i in range(options.iterations):
        if len(order) < size:
            order = torch.randperm(count, generator=generator)
        rows, order = order[:size], order[size:]
        part = i / options.iterations
        x = {
            t: mixed(_some(task.real[t], rows), _some(task.coarse[t], rows), options.drop, generator)
            for t in block.inputs
        }
        current = dict(fixed)
        for name, module in modules.items():
            scale = module.scale.detach().flatten()
            current[name] = Layer(module.weight(part), module.bias(), scale, fmt, folded[name])
        found = run(block.nodes, x, current, present_rules(), options.drop, generator)
        loss = objective.total(objective.parts(found, rows))
        for module in modules.values():
            penalty = module.penalty(part)
            loss = loss if penalty is None else loss + penalty
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
        schedule.step()
        progress((i + 1) / options.iterations)
        if (i + 1) % every == 0 or i + 1 == options.iterations:
            candidate = hardened()
            score = objective.score(objective.measure(constants(candidate[0], fmt, folded), candidate[2]))
            if score < least:
                least, best = score, candidate
    return Learned(best[0], best[1], least / len(objective.reference))


def _some(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return x[rows].contiguous(memory_format=torch.channels_last)


def quants_of(group: str, groups: Mapping[str, str], quants: Mapping[str, Quant]) -> Quant:
    return quants[next(t for t, g in groups.items() if g == group)]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch on so many threads: with one, sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def learn_network(
    network: FusedGraph,
    blocks: list[Block],
    arrays: Mapping[str, np.ndarray],
    plan: ActivationPlan,
    groups: Mapping[str, str],
    fmt: Format,
    start: dict[str, Rounded],
    options: Reconstruct,
    kept: Kept,
    progress: Progress | None = None,
) -> tuple[dict[str, Rounded], dict[str, Quant], list[dict[str, float | str]]]:
    """All blocks in order, each seeing what those before it give once they are learned.

    groups : of the tensors whose scale may be learned, which of them share it
    """
    graph, quants, results = network.graph, dict(plan.quants), dict(start)
    real = {p.name: channels_second(p.to_hwc(arrays[p.name])) for p in graph.inputs}
    coarse = {p.name: channels_second(plan.rounded(p.name, p.to_hwc(arrays[p.name]))) for p in graph.inputs}
    rounded_tensors = set(groups)
    settled: set[str] = set()
    folded = folded_zeros(network)
    statements: list[dict[str, float | str]] = []
    predicted: Tensors = {}
    if options.loss == "prediction":
        predicted = _all(graph.nodes, real, {}, {}, [o.tensor for o in graph.outputs])
    done: set[str] = set()
    for i, block in enumerate(blocks):
        done |= {n.name for n in block.nodes}
        tail = tuple(n for n in graph.nodes if n.name not in done)
        targets = _all(block.nodes, real, {}, {}, block.outputs)
        inside = [n.output for n in block.nodes if n.output in rounded_tensors]
        free = {groups[t] for t in inside} - settled if options.scales else set()
        settled |= {groups[t] for t in inside}

        def report(part: float, i: int = i) -> None:
            if progress:
                progress(round(1000 * (i + part)), 1000 * len(blocks))

        if block.convs:
            stored = kept.load(i)
            if stored is not None:
                found = Learned.from_arrays(stored)
            else:
                task = Task(block, real, coarse, targets, tail, predicted)
                first = block_start(block, results)
                found = learn_block(task, first, quants, groups, free, fmt, folded, options, i, report)
                kept.store(i, found.to_arrays())
            results |= found.weights
            for t, g in groups.items():
                if g in found.scales:
                    quants[t] = replace(quants[t], scale=found.scales[g])
            statements.append({"block": block.name, "left": round(found.left, 6)})
        report(1.0)
        layers = constants(block_start(block, results), fmt, folded)
        known = [*inside, *(t for t in block.inputs if t in quants)]
        real |= targets
        coarse |= _all(block.nodes, coarse, layers, fixed_rules(quants, known), block.outputs)
        needed = {t for n in tail for t in n.inputs} | {o.tensor for o in graph.outputs}
        for tensors in (real, coarse):
            for name in set(tensors) - needed:
                del tensors[name]
    return results, quants, statements


def block_start(block: Block, rounded_weights: Mapping[str, Rounded]) -> dict[str, Rounded]:
    return {n.name: rounded_weights[n.name] for n in block.nodes if isinstance(n, Conv)}


def _all(
    nodes: Iterable[Node],
    tensors: Mapping[str, torch.Tensor],
    layers: Mapping[str, Layer],
    rules: Mapping[str, Rule],
    wanted: Iterable[str],
) -> Tensors:
    """Tensors `wanted` of all samples."""
    nodes, wanted = tuple(nodes), tuple(wanted)
    used = {t for n in nodes for t in n.inputs} & set(tensors)
    count = len(next(iter(tensors.values())))
    parts: dict[str, list[torch.Tensor]] = {t: [] for t in wanted}
    with torch.no_grad():
        for i in range(0, count, _BATCH):
            found = run(nodes, {t: tensors[t][i : i + _BATCH] for t in used}, layers, rules)
            for t in wanted:
                parts[t].append(found[t])
    return {t: torch.cat(p) for t, p in parts.items()}
