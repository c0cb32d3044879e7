"""From a file to a build in stages, each a value that can be looked at, kept and used again.

net = sateen.load("net.onnx")
quantized = net.quantize(weights="int4", activations="int8", calibration="samples.npz")
for name in ("mac256", "sat256"):
    print(name, quantized.map(name).cycles)
build = quantized.map("sat256", sparsity="2:8").write("build")

Only `write` makes Verilog and files. What `sateen.compile` writes for the same options is the same to the byte.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sateen.errors import ModelError
from sateen.formats import SparsityPattern, parse_sparsity
from sateen.ir.graph import Graph
from sateen.ir.quantized import QuantizedGraph
from sateen.machine.config import AcceleratorConfig
from sateen.mapped import MappedNetwork
from sateen.options import (
    DEFAULT_PRESET,
    DEFAULT_PTQ,
    Arrays,
    Machine,
    Shapes,
    SparsityMap,
    Values,
    as_config,
    choose_config,
    choose_patterns,
    choose_recipe,
    default_machine,
    model_path,
)
from sateen.samples import is_random, load_samples

if TYPE_CHECKING:
    from onnx import ModelProto

    from sateen.compiler.check import Finding
    from sateen.compiler.pipeline import Host, Quantized
    from sateen.compiler.ptq.recipe import Recipe


def load(
    model: str | Path | ModelProto,
    *,
    shapes: Shapes | None = None,
    values: Values | None = None,
    until: Sequence[str] = (),
) -> Network:
    """Read an ONNX file.

    Parameters
    ----------
    model : the file's path, or what `onnx.load` makes of one
    shapes : of inputs whose sizes the file leaves open, the batch first: {"input": (1, 3, 320, 320)}
    values : inputs that are the same for every sample, and so constants: {"sr": 16000}
    until : tensors of the file at which it is cut; what follows is left to the host

    Returns
    -------
    Network
        What is not supported is in its `findings`.

    Raises
    ------
    ModelError
        The file cannot be read at all.

    Examples
    --------
    >>> network = sateen.load("net.onnx")
    >>> network.supported, len(network.findings)
    """
    from sateen.compiler.check import checked
    from sateen.compiler.pipeline import parted

    path = model_path(model) if isinstance(model, str | Path) else Path("model.onnx")
    source, host = parted(path if isinstance(model, str | Path) else model, until)
    graph, findings = checked(source, shapes, values)
    return Network(path, tuple(findings), graph, host)


@dataclass(frozen=True, eq=False)
class Network:
    """An ONNX file as it was read: one finding for each of its nodes, and the float graph if all are supported.

    Examples
    --------
    >>> network = sateen.load("net.onnx")
    >>> [f.node for f in network.findings if f.supported is False]
    """

    path: Path
    findings: tuple[Finding, ...] = field(repr=False)
    """As `sateen.check` gives them."""
    graph: Graph | None = field(repr=False)
    """See `sateen.ir.graph`; None where a finding says that something is not supported."""
    host: Host | None = field(default=None, repr=False)
    """What follows, where the file was cut."""

    @property
    def supported(self) -> bool:
        """Whether all nodes are."""
        return all(f.supported for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: "model", "supported", and "nodes", the findings."""
        nodes = [f.to_dict() for f in self.findings]
        return {"model": str(self.path), "supported": self.supported, "nodes": nodes}

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Compute the network in float64, roundings that the file asks for included.

        Parameters
        ----------
        inputs : an .npz file or arrays by input, batch first

        Returns
        -------
        dict
            Outputs by name, batch first.

        Raises
        ------
        ModelError, DataError
            A network that is not supported; inputs that do not fit.

        Examples
        --------
        >>> logits = network.run({"input": images})["logits"]
        >>> logits.argmax(axis=1)
        """
        from sateen.compiler.float_executor import float_outputs, run_float

        graph = self._graph()
        checked = _fitting(graph, inputs, graph.unused)
        return float_outputs(graph, run_float(graph, checked))

    def without_channels(
        self, keep: float, *, calibration: Arrays, machine: Machine = DEFAULT_PRESET
    ) -> Network:
        """Remove whole channels, those that matter the least: a smaller network, as `compile(channels=keep)` maps it.

        Parameters
        ----------
        keep : the most that is left of the array's work, above 0 to 1
        calibration : real samples, an .npz file or arrays by input, batch first
        machine : whose words channels are removed by

        Returns
        -------
        Network

        Raises
        ------
        ModelError, DataError, ConfigError
            A network that is not supported, or quantized; samples that do not fit; more than can be removed.

        Examples
        --------
        >>> smaller = network.without_channels(0.75, calibration="samples.npz", machine="tiny")
        >>> smaller.quantize(calibration="samples.npz").map("tiny").cycles
        """
        from sateen.compiler.prune.channels import Words, prune_channels

        graph = self._graph()
        samples = load_samples(calibration, lambda: graph.inputs, "calibration data")
        used = {name: a for name, a in samples.items() if name not in graph.unused}
        config = as_config(machine)
        words = Words(config.elements, config.cols)
        return replace(self, graph=prune_channels(graph, keep, samples=used, words=words)[0])

    def quantize(
        self,
        *,
        weights: str | None = None,
        activations: str | None = None,
        calibration: Arrays | None = None,
        ptq: str | Path | Recipe = DEFAULT_PTQ,
        scales: str | None = None,
        power_of_two: bool = False,
        sparsity: str = "dense",
        sparsity_method: str = "sparsegpt",
        sparsity_map: SparsityMap | None = None,
    ) -> QuantizedNetwork:
        """Bring the network into codes; all machines then compute the same bits.

        Parameters
        ----------
        weights, activations : format names such as "int8", "e3m2"; by default int8, or those of a file that is
            quantized already
        calibration : real samples, an .npz file or arrays by input, batch first; a file that says how every tensor is
            rounded needs none
        ptq : a recipe: "fast", "balanced", "best", "learned" (needs PyTorch), a TOML file's path, a `Recipe`
        scales : how it finds scales of activations, if not its own way: "mse", "minmax", "percentile", "entropy"
        power_of_two : all scales are powers of two
        sparsity, sparsity_method : "N:M" to prune to, and how: "sparsegpt", "wanda", "magnitude", "keep"
        sparsity_map : patterns of single layers, in the place of `sparsity`: a TOML file, or {"conv1": "2:4"}

        Returns
        -------
        QuantizedNetwork

        Raises
        ------
        ModelError, DataError, FormatError, ConfigError
            A network that is not supported; samples that do not fit; unknown formats; unknown options.

        Examples
        --------
        >>> quantized = network.quantize(weights="int4", calibration="samples.npz")
        >>> quantized.run({"input": images})["logits"]
        """
        ports = self._graph().inputs
        samples = (
            None if calibration is None else load_samples(calibration, lambda: ports, "calibration data")
        )
        config = choose_config(None, None, weights, activations)
        pattern, layers = choose_patterns(sparsity, sparsity_map)
        options = _Options(
            samples=samples,
            random=is_random(calibration),
            recipe=choose_recipe(ptq, scales, power_of_two),
            fixed=(weights is not None, activations is not None),
            method=sparsity_method,
            layers=layers,
        )
        made = QuantizedNetwork(self, config, pattern, options)
        _ = made.graph  # errors come here, not at the first use
        return made

    def _graph(self) -> Graph:
        if self.graph is None or not self.supported:
            problems = [f for f in self.findings if f.supported is False]
            raise ModelError(f"{problems[0]} ({len(problems)} in all: see findings)")
        return self.graph


@dataclass(frozen=True, eq=False)
class _Options:
    samples: dict[str, np.ndarray] | None
    recipe: Recipe
    fixed: tuple[bool, bool]
    method: str
    random: bool
    layers: dict[str, SparsityPattern]


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A network in codes, which any number of machines can be made for.

    Examples
    --------
    >>> quantized = network.quantize(calibration="samples.npz")
    >>> {name: quantized.map(name).cycles for name in ("tiny", "mac256")}
    """

    network: Network
    config: AcceleratorConfig = field(repr=False)
    """The configuration whose formats it has."""
    sparsity: SparsityPattern
    options: _Options = field(repr=False)
    _made: dict[tuple[str, ...], Quantized] = field(default_factory=dict, repr=False)

    @cached_property
    def graph(self) -> QuantizedGraph:
        """The definition of right, see `sateen.ir.quantized`."""
        patterns = (self.sparsity, *self.options.layers.values())
        return self._for(default_machine(patterns, self.config), self.sparsity).graph

    @property
    def formats(self) -> tuple[str, str]:
        """Names of the formats of weights and activations."""
        _ = self.graph  # the file may bring its own
        made = next(iter(self._made.values())).config
        return made.weight_format, made.activation_format

    @property
    def record(self) -> dict[str, Any]:
        """What the recipe did, with every option, and "seconds" of each pass."""
        _ = self.graph
        return dict(next(iter(self._made.values())).record)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Compute the outputs, bit for bit those of any machine, in NumPy.

        Parameters
        ----------
        inputs : an .npz file or arrays by input, batch first

        Returns
        -------
        dict
            Outputs by name, float32, batch first.

        Raises
        ------
        DataError
            Inputs that do not fit.

        Examples
        --------
        >>> logits = quantized.run({"input": images})["logits"]
        >>> logits.argmax(axis=1)
        """
        from sateen.sim.reference import run_reference

        return run_reference(self.graph, _fitting(self.graph, inputs, self.network._graph().unused))

    def map(
        self,
        machine: Machine = DEFAULT_PRESET,
        *,
        sparsity: str | None = None,
        dataflow: str = "auto",
        batch: int = 1,
    ) -> MappedNetwork:
        """Make the program for one machine, whose formats become those of the network. No Verilog, no files.

        Parameters
        ----------
        machine : a preset's name, a configuration, or a TOML file's path
        sparsity : "N:M"; with another pattern than the network's, weights are pruned to it first
        dataflow : "weight_stationary", "output_stationary", or "auto" for the faster one of each layer
        batch : samples that a run computes together, so that weights are read once for all where that is faster

        Returns
        -------
        MappedNetwork

        Raises
        ------
        ConfigError
            An unknown preset or option; a machine that is too small, or not built for the pattern.
        ModelError
            Samples cannot share a run.

        Examples
        --------
        >>> mapped = quantized.map("sat256", sparsity="2:8")
        >>> mapped.cycles
        """
        from sateen.compiler.pipeline import map_network

        config = as_config(machine, *self.formats)
        pattern = self.sparsity if sparsity is None else parse_sparsity(sparsity)
        quantized = self._for(config, pattern)
        return MappedNetwork(self.network.path, quantized, map_network(quantized, dataflow, batch))

    def _for(self, config: AcceleratorConfig, pattern: SparsityPattern) -> Quantized:
        """As `sateen.compile` would for this machine: it depends on the patterns that weights obey already."""
        from sateen.compiler.pipeline import check_built_for, quantize_graph
        from sateen.compiler.prune.one_shot import recognise

        assert self.network.graph is not None
        marks: tuple[str, ...] = ()
        if pattern.dense and not self.options.layers:
            known = [p for p in map(parse_sparsity, config.patterns) if not p.dense]
            marks = tuple(entry.pattern.name for entry in recognise(self.network.graph, known)[1])
        key = (pattern.name, *marks)
        for p in (pattern, *self.options.layers.values()):
            check_built_for(p, config)
        if key not in self._made:
            found = quantize_graph(
                self.network.graph,
                str(self.network.path),
                config=config,
                calibration=self.options.samples,
                fixed_formats=self.options.fixed,
                recipe=self.options.recipe,
                sparsity=pattern,
                sparsity_method=self.options.method,
                random=self.options.random,
                sparsity_layers=self.options.layers,
            )
            self._made[key] = replace(found, host=self.network.host)
        made = self._made[key]
        formats = {
            "weight_format": made.config.weight_format,
            "activation_format": made.config.activation_format,
        }
        return replace(made, config=config.replace(**formats))

    def to_dict(self) -> dict[str, Any]:
        """Plain values: "model", "weights", "activations", "sparsity", "ptq"."""
        weights, activations = self.formats
        return {
            "model": str(self.network.path),
            "weights": weights,
            "activations": activations,
            "sparsity": self.sparsity.name,
            "ptq": self.options.recipe.name,
        }


def _fitting(graph: Graph | QuantizedGraph, inputs: Arrays, unused: Container[str]) -> dict[str, np.ndarray]:
    """One array for each of the graph's inputs, without those that the file declares and nothing uses, or DataError."""
    from sateen.arrays import check_ports

    ports = {p.source: list(p.shape) for p in graph.inputs}
    loaded = load_samples(inputs, lambda: graph.inputs, "inputs")
    given = {name: a for name, a in loaded.items() if name not in unused}
    return check_ports(given, ports, "inputs")
