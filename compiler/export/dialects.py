"""How a quantized tensor is written: ONNX's QuantizeLinear and DequantizeLinear, or QONNX's Quant and FloatQuant."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import onnx
from onnx import TensorProto
from onnx import helper as oh

from sateen.compiler.export.graph import GraphWriter
from sateen.formats import Format
from sateen.formats.catalog import ONNX_TYPES
from sateen.ir.quantized import Quant

QONNX_DOMAIN = "qonnx.custom_op.general"

_BASE_OPSET = 13  # per-axis DequantizeLinear
_SINCE = {
    "FLOAT8E4M3FN": 19,
    "FLOAT8E5M2": 19,
    "INT4": 21,
    "UINT4": 21,
    "FLOAT4E2M1": 23,
    "INT2": 25,
    "UINT2": 25,
}
"""Opset in which QuantizeLinear knows the type."""


class Dialect(ABC):
    """Writes into one graph."""

    opset: int = _BASE_OPSET
    """Of the default domain."""

    def __init__(self, writer: GraphWriter) -> None:
        self.writer = writer

    @abstractmethod
    def activation(self, x: str, quant: Quant, tensor: str) -> str:
        """The value `x`, rounded as `quant` says; `tensor` names what is new."""

    @abstractmethod
    def weight(self, codes: np.ndarray, fmt: Format, scale: np.ndarray, name: str) -> str:
        """A float value (O, I, KH, KW) from codes of that shape and scales (O,)."""

    @abstractmethod
    def bias(self, integers: np.ndarray, scale: np.ndarray, name: str) -> str:
        """A float value (O,)."""

    @abstractmethod
    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        """What the model imports."""

    def scalar(self, value: float, name: str) -> str:
        return self.writer.constant(np.array(value, np.float32), name)


class Standard(Dialect):
    """For formats that are ONNX types."""

    def __init__(self, writer: GraphWriter, formats: set[Format]) -> None:
        super().__init__(writer)
        self.eight_bit_integers = {f.name for f in formats} <= {"int8", "uint8"}
        self.opset = max([_BASE_OPSET, *(_SINCE.get(ONNX_TYPES[f.name], _BASE_OPSET) for f in formats)])

    def activation(self, x: str, quant: Quant, tensor: str) -> str:
        w = self.writer
        kind = _element_type(quant.format)
        scale = self.scalar(quant.scale, f"{tensor}_scale")
        zero = w.typed(f"{tensor}_zero_point", kind, np.array(quant.zero_code, np.uint8), quant.format.bits)
        codes = w.node("QuantizeLinear", [x, scale, zero], f"{tensor}_codes", w.shape(x), kind)
        return w.node("DequantizeLinear", [codes, scale, zero], f"{tensor}_dequantized", w.shape(x))

    def weight(self, codes: np.ndarray, fmt: Format, scale: np.ndarray, name: str) -> str:
        w = self.writer
        stored = w.typed(f"{name}_codes", _element_type(fmt), codes, fmt.bits)
        scales = w.constant(scale.astype(np.float32), f"{name}_scale")
        return w.node("DequantizeLinear", [stored, scales], name, codes.shape, axis=0)

    def bias(self, integers: np.ndarray, scale: np.ndarray, name: str) -> str:
        w = self.writer
        if any(abs(int(b)) >= 1 << 31 for b in integers):
            real = np.array([int(b) for b in integers], np.float64) * scale
            return w.constant(real.astype(np.float32), name)
        stored = w.constant(integers.astype(np.int32), f"{name}_integers")
        scales = w.constant(scale.astype(np.float32), f"{name}_scale")
        return w.node("DequantizeLinear", [stored, scales], name, integers.shape, axis=0)

    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        return [oh.make_opsetid("", self.opset)]


class Qonnx(Dialect):
    """For all other formats.

    Two details of QONNX differ from ours where a value lies exactly between two codes: FloatQuant without
    mantissa bits rounds up, and Quant adds an odd zero point before it rounds to even.
    """

    def activation(self, x: str, quant: Quant, tensor: str) -> str:
        scale = np.array(quant.scale, np.float32)
        return self._quant(x, quant.format, scale, quant.zero_point, tensor, f"{tensor}_quantized")

    def weight(self, codes: np.ndarray, fmt: Format, scale: np.ndarray, name: str) -> str:
        scale = scale.reshape(-1, 1, 1, 1)
        real = self.writer.constant((fmt.decode(codes) * scale).astype(np.float32), f"{name}_float")
        return self._quant(real, fmt, scale.astype(np.float32), 0, name, name)

    def bias(self, integers: np.ndarray, scale: np.ndarray, name: str) -> str:
        real = np.array([int(b) for b in integers], np.float64) * scale
        return self.writer.constant(real.astype(np.float32), name)

    def _quant(self, x: str, fmt: Format, scale: np.ndarray, zero: int, stem: str, name: str) -> str:
        w, form = self.writer, fmt.qonnx
        sign = -1 if form.negated else 1
        inputs = [x, w.constant(sign * scale, f"{stem}_scale")]
        if form.zero_point:
            inputs.append(self.scalar(sign * zero, f"{stem}_zero_point"))
        inputs += [self.scalar(value, f"{stem}_{what}") for what, value in form.inputs]
        return w.node(
            form.operator,
            inputs,
            name,
            w.shape(x),
            domain=QONNX_DOMAIN,
            **form.attributes,
            rounding_mode="ROUND",
        )

    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        return [oh.make_opsetid("", _BASE_OPSET), oh.make_opsetid(QONNX_DOMAIN, 1)]


def _element_type(fmt: Format) -> int:
    return int(getattr(TensorProto, ONNX_TYPES[fmt.name]))
