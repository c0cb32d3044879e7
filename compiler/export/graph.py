"""An ONNX graph being written: nodes, constants, and the shape of every value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx import helper as oh

Dim = int | str


class GraphWriter:
    """Values are known by name; a name that is taken gets a number."""

    def __init__(self, reserved: Sequence[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.values: dict[str, onnx.ValueInfoProto] = {}
        self._shapes: dict[str, tuple[Dim, ...]] = {}
        self._names = set(reserved)

    def shape(self, value: str) -> tuple[Dim, ...]:
        return self._shapes[value]

    def input(self, name: str, shape: tuple[Dim, ...], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        """An input under exactly this name."""
        self._shapes[name] = shape
        return oh.make_tensor_value_info(name, kind, shape)

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        shape: Sequence[Dim],
        kind: int = TensorProto.FLOAT,
        *,
        exact_name: bool = False,
        **attributes: Any,
    ) -> str:
        """Append a node with one output; returns the output's name."""
        output = name if exact_name else self.unique(name)
        self.nodes.append(oh.make_node(op, list(inputs), [output], name=output, **attributes))
        self._shapes[output] = tuple(shape)
        self.values[output] = oh.make_tensor_value_info(output, kind, list(shape))
        return output

    def top_k(
        self, x: str, k: str, name: str, shape: Sequence[Dim], axis: int, largest: bool
    ) -> tuple[str, str]:
        """Append a TopK; names of its values and indices."""
        outputs = self.unique(f"{name}_values"), self.unique(f"{name}_indices")
        self.nodes.append(
            oh.make_node("TopK", [x, k], outputs, name=outputs[0], axis=axis, largest=int(largest))
        )
        for output, kind in zip(outputs, (TensorProto.FLOAT, TensorProto.INT64), strict=True):
            self._shapes[output] = tuple(shape)
            self.values[output] = oh.make_tensor_value_info(output, kind, list(shape))
        return outputs

    def constant(self, array: np.ndarray, name: str) -> str:
        name = self.unique(name)
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
        self._shapes[name] = array.shape
        return name

    def typed(self, name: str, kind: int, codes: np.ndarray, bits: int) -> str:
        """A constant of a small type from uint8 codes of any shape, packed low bits first."""
        name = self.unique(name)
        flat: np.ndarray = codes.reshape(-1)
        if bits < 8:
            per_byte = 8 // bits
            flat = np.append(flat, np.zeros(-len(flat) % per_byte, np.uint8)).reshape(-1, per_byte)
            flat = np.bitwise_or.reduce(flat << (bits * np.arange(per_byte)).astype(np.uint8), axis=1)
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=list(codes.shape))
        tensor.raw_data = flat.astype(np.uint8).tobytes()
        self.initializers.append(tensor)
        self._shapes[name] = codes.shape
        return name

    def unique(self, name: str) -> str:
        found, i = name, 0
        while found in self._names:
            i += 1
            found = f"{name}_{i}"
        self._names.add(found)
        return found
