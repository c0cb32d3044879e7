"""Reconstruction: rounding of weights, biases and scales learned by gradients, so that each block of the network, once
quantized, gives what the float network's does.

Weights are rounded by FlexRound or AdaRound, on the format's own grid; scales, those of activations too, move by their
gradient through the rounding; some activations, by chance, are left unrounded while a block learns. What is found goes
on as weights on the grid and as scales, which the integer network keeps. Needs PyTorch, the extra `learn`.

Ref: Li et al., BRECQ, arXiv 2102.05426; Lee et al., FlexRound, arXiv 2306.00317; Wei et al., QDrop, arXiv 2203.05740;
Liu et al., PD-Quant, arXiv 2212.07048; Esser et al., LSQ, arXiv 1902.08153.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sateen.arrays import read_npz, write_npz
from sateen.compiler.ptq.blocks import UNITS, Block, split_blocks
from sateen.compiler.ptq.hessian import choose_samples
from sateen.compiler.quantize.activations import ActivationPlan, rescaled
from sateen.compiler.quantize.calibrate import Progress
from sateen.compiler.quantize.scales import weight_scales
from sateen.compiler.quantize.weights import check_weights
from sateen.errors import ConfigError
from sateen.files import cache_dir, load_entry, store_entry
from sateen.formats import Format
from sateen.ir.fused import FusedGraph
from sateen.ir.graph import Conv, Graph

if TYPE_CHECKING:
    from sateen.compiler.ptq.torch_rounding import Rounded

LOSSES = ("mse", "prediction")
ROUNDINGS = ("flexround", "adaround")

_logger = logging.getLogger("sateen")
_VERSION = 5  # of what the cache holds
_NOTHING = np.zeros(0)


@dataclass(frozen=True, slots=True)
class Reconstruct:
    """Options of `reconstruct`.

    unit : what is learned at a time: "layer", "block" (between places where the network is one tensor), "network"
    rounding : "flexround", "adaround"
    loss : "mse" of the unit's outputs; "prediction" adds the divergence of the network's outputs
    scales : learn those of activations, and with FlexRound those of weights
    drop : share of activations that is not rounded while learning
    iterations, batch : steps of Adam for each unit, samples in each
    rate, scale_rate : of the rounding; of scales and biases. They fall to 0 along a cosine
    seed : of the choice of samples and of what is dropped
    threads : of torch. With 1 the result is the same in each run on the same machine
    """

    unit: str = "block"
    rounding: str = "flexround"
    loss: str = "mse"
    scales: bool = True
    drop: float = 0.5
    iterations: int = 400
    batch: int = 32
    rate: float = 0.002
    scale_rate: float = 0.001
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for name, choices in (("unit", UNITS), ("rounding", ROUNDINGS), ("loss", LOSSES)):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"reconstruct: {name} = {getattr(self, name)!r}; it must be {', '.join(choices)}"
                )
        if not 0 <= self.drop < 1:
            raise ConfigError(f"reconstruct: drop = {self.drop}; it must be at least 0 and below 1")
        for name in ("iterations", "batch", "rate", "scale_rate", "threads"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"reconstruct: {name} = {getattr(self, name)}; it must be positive")
        if self.seed < 0:
            raise ConfigError(f"reconstruct: seed = {self.seed}; it must not be negative")


@dataclass(frozen=True, slots=True)
class Learned:
    """Of one block: weights by Conv, scales by group of tensors, the share of the error that is left."""

    weights: dict[str, Rounded]
    scales: dict[str, float]
    left: float


def require_torch() -> None:
    """Raises ConfigError where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            "reconstruct needs PyTorch, which is not installed; install it with: pip install 'sateen[learn]', "
            "or use --ptq best, which needs none"
        )


def reconstruct(
    network: FusedGraph,
    samples: Mapping[str, np.ndarray],
    plan: ActivationPlan,
    weight_format: Format,
    options: Reconstruct = Reconstruct(),
    *,
    start: tuple[Graph, Mapping[str, np.ndarray]] | None = None,
    power_of_two: bool = False,
    progress: Progress | None = None,
) -> tuple[Graph, dict[str, np.ndarray], ActivationPlan, dict[str, Any]]:
    """The graph with all weights on the format's grid, each Conv's scales (O,), the activations' quantizers, and
    what there is to say: the share of its error that each block has left, and blocks that were learned by layers.

    Zeros of the float weights stay zero, so N:M patterns do. With `power_of_two` scales stay as they are.

    Parameters
    ----------
    network : the float one, which is the target
    start : where learning begins, what `gptq` gives; by default weights are rounded to nearest

    Raises
    ------
    ConfigError
        PyTorch is not installed.
    DataError
        Samples that `calibrate` would refuse.
    ModelError, FormatError
        Weights that are not finite, or of a sign that the format lacks.
    """
    require_torch()
    from sateen.compiler.ptq.torch_graph import differentiable
    from sateen.compiler.ptq.torch_learn import learn_network, threads
    from sateen.compiler.ptq.torch_rounding import nearest

    if power_of_two:
        options = replace(options, scales=False)
    graph = network.graph
    blocks, by_layer = split_blocks(network, options.unit, differentiable)
    if by_layer:
        _logger.warning("reconstruct: no gradient through all of %s; learned by layers", "; ".join(by_layer))
    convs = [n for n in graph.nodes if isinstance(n, Conv)]
    given = {n.name: n for n in (start[0] if start else graph).nodes if isinstance(n, Conv)}
    scales = dict(start[1]) if start else {}
    first = {}
    for conv in convs:
        weight = check_weights(given[conv.name], weight_format)
        scale = scales.get(conv.name)
        if scale is None:
            scale = weight_scales(weight, weight_format, power_of_two=power_of_two)
        first[conv.name] = nearest(weight, scale, given[conv.name].bias, weight_format)
    arrays = choose_samples(graph, samples)
    groups = _groups(network, plan)
    cache = Cache.of(graph, arrays, first, plan, groups, blocks, weight_format, options)
    with threads(options.threads):
        found, quants, errors = learn_network(
            network, blocks, arrays, plan, groups, weight_format, first, options, cache, progress
        )
    nodes = tuple(
        replace(n, weight=found[n.name].weight, bias=found[n.name].bias) if isinstance(n, Conv) else n
        for n in graph.nodes
    )
    learned = {t: q.scale for t, q in quants.items() if q.scale != plan.quants[t].scale}
    plan = rescaled(network, plan, learned) if learned else plan
    statement = {"blocks": errors, "by_layer": by_layer, "scales": options.scales}
    return (
        replace(graph, nodes=nodes),
        {name: r.scale for name, r in found.items()},
        plan,
        statement,
    )


def _groups(network: FusedGraph, plan: ActivationPlan) -> dict[str, str]:
    """Tensors that are rounded where a node writes them: which of them share a scale. Inputs keep theirs."""
    graph, groups = network.graph, network.scale_groups
    written = {n.output for n in graph.nodes}
    fixed = {groups[p.name] for p in graph.inputs if p.name in groups}
    return {
        t: g for t, g in groups.items() if t in written - network.raw and g not in fixed and t in plan.quants
    }


class Cache:
    """Results of blocks, by all that they depend on: a run that was interrupted goes on after the last one."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    @staticmethod
    def of(
        graph: Graph,
        arrays: Mapping[str, np.ndarray],
        start: Mapping[str, Rounded],
        plan: ActivationPlan,
        groups: Mapping[str, str],
        blocks: list[Block],
        fmt: Format,
        options: Reconstruct,
    ) -> Cache:
        digest = hashlib.sha256()
        text: list[Any] = [
            _VERSION,
            importlib.metadata.version("torch"),
            fmt.name,
            asdict(options),
            groups,
            plan.terms,
        ]
        text += [[t, q.format.name, q.scale, q.zero_point] for t, q in plan.quants.items()]
        text += [[n.name for n in b.nodes] for b in blocks]
        text += [
            repr(replace(n, weight=_NOTHING, bias=_NOTHING) if isinstance(n, Conv) else n)
            for n in graph.nodes
        ]
        digest.update(json.dumps(text).encode())
        for x in arrays.values():
            digest.update(np.ascontiguousarray(x).tobytes())
        for conv in (n for n in graph.nodes if isinstance(n, Conv)):
            r = start[conv.name]
            for x in (conv.weight, conv.bias, r.grid, r.scale, r.bias):
                digest.update(np.ascontiguousarray(x).tobytes())
        return Cache(cache_dir() / "reconstruct", digest.hexdigest())

    def _path(self, index: int) -> Path:
        return self.folder / f"{self.key}-{index}.npz"

    def load(self, index: int) -> Learned | None:
        from sateen.compiler.ptq.torch_rounding import Rounded

        kept = load_entry(self._path(index))
        if kept is None:  # it is learned again
            return None
        arrays = read_npz(io.BytesIO(kept), f"cache {self._path(index)}")
        text = json.loads(arrays["text"].tobytes())
        weights = {
            n: Rounded(*(arrays[f"{i} {part}"] for part in ("grid", "scale", "bias")))
            for i, n in enumerate(text["names"])
        }
        return Learned(weights, text["scales"], text["left"])

    def store(self, index: int, learned: Learned) -> None:
        """A cache that cannot be written is none: nothing else is lost."""
        text = {"names": list(learned.weights), "scales": learned.scales, "left": learned.left}
        arrays = {"text": np.frombuffer(json.dumps(text).encode(), np.uint8)}
        for i, r in enumerate(learned.weights.values()):
            arrays |= {f"{i} grid": r.grid, f"{i} scale": r.scale, f"{i} bias": r.bias}
        data = io.BytesIO()
        write_npz(data, arrays)
        store_entry(self._path(index), data.getvalue())
