"""The domains that operators are imported from."""

from __future__ import annotations

import onnx

DEFAULT = ("", "ai.onnx")
OLDEST_OPSET = 9
"""Of the default domain; older ones are converted to it."""
GENERAL = "qonnx.custom_op.general"
CHANNELS_LAST = "qonnx.custom_op.channels_last"
QONNX = (GENERAL, "onnx.brevitas", "finn.custom_op.general")
"""QONNX's own domain, that of Brevitas' exporter, and FINN's older one."""

QUANTIZERS: dict[str, tuple[str, ...]] = {
    "QuantizeLinear": DEFAULT,
    "DequantizeLinear": DEFAULT,
    **{name: QONNX for name in ("Quant", "IntQuant", "FloatQuant", "BipolarQuant", "Trunc")},
}


def opset_of(model: onnx.ModelProto) -> int:
    """Of the default domain; 0 where the model does not say."""
    return next((o.version for o in model.opset_import if o.domain in DEFAULT), 0)


def known(op_type: str, domain: str) -> bool:
    """Whether the operator of that name in that domain is the one that the handlers know."""
    return domain in QUANTIZERS.get(op_type, DEFAULT)
