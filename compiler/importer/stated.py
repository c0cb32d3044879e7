"""What the file states of a node that may be gone before the walk: simplification erases a Dropout in any mode."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from sateen.compiler.importer.loading import opset_of
from sateen.compiler.importer.nouns import Finding


def training(model: onnx.ModelProto) -> list[Finding]:
    """The nodes that the file wants in training mode. `model` has its nodes named, and nothing simplified yet."""
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is not None:
                constants[node.output[0]] = value
        elif node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    opset = opset_of(model)
    used = {i for n in model.graph.node for i in n.input} | {o.name for o in model.graph.output}
    found = []
    for node in model.graph.node:
        reason = ""
        if node.op_type == "Dropout":
            mode = node.input[2] if opset >= 12 and len(node.input) > 2 else ""
            if mode and mode not in constants:
                reason = f"its training_mode '{mode}' is computed"
            elif mode and numpy_helper.to_array(constants[mode]).any():
                reason = "it is in training mode"
            elif used.intersection(node.output[1:]) - {""}:
                reason = "its second output, the mask, is used"
        elif node.op_type == "BatchNormalization":
            mode_on = any(a.name == "training_mode" and a.i for a in node.attribute)
            if mode_on or used.intersection(node.output[1:]) - {""}:
                reason = "it is in training mode"
        if reason:
            found.append(Finding(node.name, node.op_type, False, reason, "export the model for inference"))
    return found
