"""Networks with steps that the machine lacks: matrix layers in exact integer arithmetic, the steps between in float.

A vision transformer is such a network: layer normalization, softmax and products of two computed tensors are not
there yet. `cut` takes an ONNX model apart into chains of layers that Sateen imports, quantizes and runs bit-exactly,
each from float values to float values, and into what lies between, which ONNX Runtime computes in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.utils import Extractor

import sateen
from sateen.compiler.importer import load_model, prepare
from sateen.compiler.ptq import Recipe
from sateen.ir.quantized import QuantizedGraph
from sateen.sim import run_reference

Engine = Callable[[QuantizedGraph, dict[str, np.ndarray]], dict[str, np.ndarray]]
MATRIX = {"Conv", "Gemm", "MatMul"}
FOLLOW = {"Add", "BatchNormalization", "Relu", "Gelu"}
"""What stays with the layer before it: biases and functions of one tensor."""


@dataclass(frozen=True)
class Stage:
    """A part of the model with any batch size; `network` is set where the machine can run it."""

    session: onnxruntime.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    network: sateen.Network | None = None

    def run(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """In float32."""
        found = self.session.run(list(self.outputs), {i: tensors[i] for i in self.inputs})
        return dict(zip(self.outputs, found, strict=True))


@dataclass(frozen=True)
class CutNetwork:
    """Stages in the order in which they run, from the model's one input to its one output."""

    stages: tuple[Stage, ...]

    @property
    def output(self) -> str:
        return self.stages[-1].outputs[0]

    def run(
        self,
        x: np.ndarray,
        quantized: Mapping[str, QuantizedGraph] | None = None,
        engine: Engine = run_reference,
    ) -> dict[str, np.ndarray]:
        """All tensors between stages, and the output. `quantized` is by a part's output; without it all is float."""
        tensors = {self.stages[0].inputs[0]: x}
        for stage in self.stages:
            if quantized is None or stage.network is None:
                tensors |= stage.run(tensors)
                continue
            graph = quantized[stage.outputs[0]]
            feeds = {graph.inputs[0].name: tensors[stage.inputs[0]]}
            tensors[stage.outputs[0]] = engine(graph, feeds)[graph.outputs[0].port.name]
        return tensors

    def quantize(
        self, samples: np.ndarray, recipe: Recipe, weights: str, activations: str
    ) -> tuple[Callable[[np.ndarray, Engine], np.ndarray], int]:
        """A function from inputs and what runs the parts to outputs (N, ...), and the number of weights.

        Each part is calibrated on what the float network gives it.
        """
        tensors = self.run(samples)
        quantized = {
            s.outputs[0]: s.network.quantize(
                weights=weights,
                activations=activations,
                calibration={s.inputs[0]: tensors[s.inputs[0]]},
                ptq=recipe,
            ).graph
            for s in self.stages
            if s.network is not None
        }
        count = sum(c.codes.size for q in quantized.values() for op in q.ops for c in op.constants)
        return lambda x, engine: self.run(x, quantized, engine)[self.output], count


def cut(path: Path) -> CutNetwork:
    """The stages of a model with one input and one output, batch first in every tensor."""
    light = prepare(load_model(path))
    light.model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in light.arrays.items())
    model = onnx.shape_inference.infer_shapes(light.model)
    graph = model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ends = {o.name for o in graph.output}

    def single(node: onnx.NodeProto, kinds: set[str]) -> bool:
        """Whether it computes on one tensor and on constants, of one value for each channel at most."""
        computed = [i for i in node.input if i and i not in constants]
        if node.op_type not in kinds or len(computed) != 1:
            return False
        return node.op_type != "Add" or all(constants[i].ndim <= 1 for i in node.input if i in constants)

    groups: list[tuple[list[onnx.NodeProto], bool]] = []
    taken: set[str] = set()
    for node in graph.node:
        if node.name in taken:
            continue
        chain = [node] if single(node, MATRIX) else []
        while chain and len(after := readers.get(chain[-1].output[0], [])) == 1:
            if chain[-1].output[0] in ends or not single(after[0], MATRIX | FOLLOW):
                break
            chain.append(after[0])
        taken |= {n.name for n in chain}
        if chain:
            groups.append((chain, True))
        elif groups and not groups[-1][1]:
            groups[-1][0].append(node)
        else:
            groups.append(([node], False))
    extractor = Extractor(model)
    return CutNetwork(tuple(_stage(extractor, constants, ends, groups, k) for k in range(len(groups))))


def _stage(
    extractor: Extractor,
    constants: Mapping[str, np.ndarray],
    ends: set[str],
    groups: list[tuple[list[onnx.NodeProto], bool]],
    k: int,
) -> Stage:
    nodes, exact = groups[k]
    made = {o for n in nodes for o in n.output}
    read = {i for j, (others, _) in enumerate(groups) if j != k for n in others for i in n.input}
    inputs = tuple(dict.fromkeys(i for n in nodes for i in n.input if i and i not in made | constants.keys()))
    outputs = tuple(o for n in nodes for o in n.output if o in read | ends)
    part = extractor.extract_model(list(inputs), list(outputs))
    network = sateen.load(part) if exact else None
    for value in (*part.graph.input, *part.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del part.graph.value_info[:]
    return Stage(onnxruntime.InferenceSession(part.SerializeToString()), inputs, outputs, network)
