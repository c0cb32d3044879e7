"""The imported network: floating-point operations on channel-last tensors without a batch dimension.

Every tensor is (H, W, C): a vector is (1, 1, C), a sequence (1, L, C). Ports keep the ONNX view of the graph's
inputs and outputs. The compiler's passes map one Graph to another; `verify` holds between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sateen.errors import ModelError
from sateen.ir.nodes import Node
from sateen.ir.ports import Output, Port, Shape
from sateen.ir.quant import Quantizer


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in topological order; `shapes` has every tensor's (H, W, C).

    `quantizers` has those tensors that the model file rounds, and how.
    """

    name: str
    inputs: tuple[Port, ...]  # the tensor has the port's name
    outputs: tuple[Output, ...]
    nodes: tuple[Node, ...]
    shapes: dict[str, Shape]
    quantizers: dict[str, Quantizer] = field(default_factory=dict)
    unused: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    """Inputs that the file declares and no output depends on: shapes without the batch, None where open."""
    remarks: tuple[str, ...] = ()
    """What differs from the file, to be said where it is quantized."""
    ties: tuple[tuple[str, ...], ...] = ()
    """Tensors that play one part, such as a state after each step, and so share a scale; those that are still there."""
    _readers: dict[str, tuple[Node, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _writers: dict[str, Node] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Filled when first asked for: the nodes do not change."""

    def verify(self) -> None:
        """Raise ModelError unless every tensor is written once, before it is read, and has a shape."""
        known = {p.name for p in self.inputs}
        for node in self.nodes:
            for i in node.inputs:
                if i not in known:
                    raise ModelError(
                        f"{type(node).__name__} '{node.name}': input '{i}' is not written before it"
                    )
            if node.output in known:
                raise ModelError(
                    f"{type(node).__name__} '{node.name}': output '{node.output}' is written twice"
                )
            if node.output not in self.shapes:
                raise ModelError(f"{type(node).__name__} '{node.name}': output '{node.output}' has no shape")
            known.add(node.output)
        for output in self.outputs:
            if output.tensor not in known:
                raise ModelError(f"graph output '{output.port.name}': '{output.tensor}' is not written")

    def rounded(self, tensor: str, x: np.ndarray) -> np.ndarray:
        """The tensor's values as the model file has them: rounded where it says so."""
        quantizer = self.quantizers.get(tensor)
        return x if quantizer is None else quantizer.round(x)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """In order, each once."""
        if not self._readers:
            found: dict[str, list[Node]] = {}
            for node in self.nodes:
                for i in dict.fromkeys(node.inputs):
                    found.setdefault(i, []).append(node)
            self._readers.update((t, tuple(nodes)) for t, nodes in found.items())
        return self._readers.get(tensor, ())

    def producer(self, tensor: str) -> Node | None:
        """The node that writes it; None for an input."""
        if not self._writers:
            self._writers.update((n.output, n) for n in self.nodes)
        return self._writers.get(tensor)
