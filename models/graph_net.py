"""A floating-point IR graph as a PyTorch network, so that any imported model can be fine-tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from sateen.errors import ModelError
from sateen.formats import SparsityPattern
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Add, Concat, Conv, Node, Pool


class GraphNet(nn.Module):
    """The graph with one input and one output: (N, *ONNX shape) to what the last node gives, (N, values).

    Host operations on the output, a softmax, are left out. Normalization is folded already in such a graph;
    `normalize` puts it back, which training needs where pruning has changed the scale of activations.

    Parameters
    ----------
    scale : of the input; it is divided by it, and the weights that read it are multiplied, so that the network
        computes the same and its weights are of a size that trains

    Raises ModelError for several inputs or outputs, and for activations that are no clip.
    """

    def __init__(self, graph: Graph, scale: float = 1.0) -> None:
        super().__init__()
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ModelError(
                f"'{graph.name}': {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; one each trains"
            )
        self.graph = graph
        self.observe: Callable[[int, torch.Tensor], None] | None = None
        source = graph.inputs[0].name
        readers = graph.consumers(source)
        self.scale = scale if all(isinstance(n, Conv) for n in readers) else 1.0
        self.layers = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        for i, node in enumerate(graph.nodes):
            if isinstance(node, Conv):
                factor = self.scale if node.input == source else 1.0
                self.layers[str(i)] = _layer(node, factor)
            elif isinstance(node, Activation) and node.function != "clip":
                raise ModelError(
                    f"Activation '{node.name}': {node.function} cannot be trained; only clips can"
                )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        port = self.graph.inputs[0]
        axes = (port.axes[2], port.axes[0], port.axes[1])  # channels first
        x = x.reshape(len(x), *port.view).permute(0, *(a + 1 for a in axes)) / self.scale
        tensors = {port.name: x}
        for i, node in enumerate(self.graph.nodes):
            tensors[node.output] = self._run(i, node, [tensors[t] for t in node.inputs])
            if self.observe:
                self.observe(i, tensors[node.output])
        return tensors[self.graph.outputs[0].tensor].flatten(1)

    def normalize(self, x: torch.Tensor) -> None:
        """A batch normalization behind each Conv but the last, such that the network computes the same.

        x : samples (N, *ONNX shape), which give its mean and variance
        """
        found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.observe = lambda i, y: found.update({i: (y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0))})
        with torch.no_grad():
            self.eval()(x)
        self.observe = None
        for i, node in enumerate(self.graph.nodes):
            if isinstance(node, Conv) and node.output != self.graph.outputs[0].tensor:
                mean, variance = found[i]
                norm = nn.BatchNorm2d(len(mean))
                with torch.no_grad():
                    for target, value in (
                        (norm.running_mean, mean),
                        (norm.running_var, variance),
                        (norm.weight, (variance + norm.eps).sqrt()),
                        (norm.bias, mean),
                    ):
                        assert target is not None
                        target.copy_(value)
                self.norms[str(i)] = norm

    def _run(self, index: int, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        match node:
            case Conv():
                x = (
                    inputs[0]
                    if node.channels is None
                    else inputs[0][:, torch.from_numpy(node.channels.ravel())]
                )
                y = self.layers[str(index)](_padded(x, node.pads, 0.0))
                return self.norms[str(index)](y) if str(index) in self.norms else y
            case Add():
                return inputs[0] + inputs[1]
            case Activation():
                return inputs[0].clamp(node.low, node.high)
            case Concat():
                return torch.cat(inputs, 1)
            case Pool(kind="max"):
                x = _padded(inputs[0], node.pads, -torch.inf)
                return nn.functional.max_pool2d(x, node.kernel, node.stride, 0, node.dilation)
            case Pool():
                if node.dilation != (1, 1):
                    raise ModelError(f"Pool '{node.name}': dilated averages cannot be trained")
                return nn.functional.avg_pool2d(_padded(inputs[0], node.pads, 0.0), node.kernel, node.stride)
        raise ModelError(f"'{node.name}': a {type(node).__name__} cannot be trained")

    def names(self) -> dict[str, str]:
        """Module name, as in `named_modules`, of each Conv by its own name."""
        return {n.name: f"layers.{i}" for i, n in enumerate(self.graph.nodes) if isinstance(n, Conv)}

    def to_graph(self, patterns: Mapping[str, SparsityPattern] | None = None) -> Graph:
        """The graph with the weights as they are now; `patterns` marks Convs by name."""
        nodes, norms = list(self.graph.nodes), dict(self.norms.items())
        for i, node in enumerate(nodes):
            if isinstance(node, Conv):
                layer = self.layers[str(i)]
                factor = self.scale if node.input == self.graph.inputs[0].name else 1.0
                weight, bias = _folded(layer, norms.get(str(i)))
                nodes[i] = replace(
                    node,
                    weight=np.ascontiguousarray(weight.transpose(0, 2, 3, 1) / factor),
                    bias=bias,
                    sparsity=(patterns or {}).get(node.name, node.sparsity),
                )
        return replace(self.graph, nodes=tuple(nodes))


def _layer(conv: Conv, factor: float) -> nn.Conv2d:
    out, kh, kw, depth = conv.weight.shape
    layer = nn.Conv2d(depth * conv.groups, out, (kh, kw), conv.stride, 0, conv.dilation, conv.groups)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(conv.weight.transpose(0, 3, 1, 2) * factor))
        assert layer.bias is not None
        layer.bias.copy_(torch.from_numpy(conv.bias))
    return layer


def _padded(x: torch.Tensor, pads: tuple[int, int, int, int], value: float) -> torch.Tensor:
    top, left, bottom, right = pads
    return nn.functional.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def _folded(layer: nn.Module, norm: nn.Module | None) -> tuple[np.ndarray, np.ndarray]:
    """Weight (O, I, KH, KW) and bias (O,), float64, with the normalization that follows; zeros stay zeros."""
    weight, bias = (v.detach().double().numpy() for v in (layer.weight, layer.bias))
    if norm is None:
        return weight, bias.copy()
    found = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    scale, offset, mean, variance = (v.detach().double().numpy() for v in found)
    gain = scale / np.sqrt(variance + norm.eps)
    return weight * gain[:, None, None, None], (bias - mean) * gain + offset
