"""What the file states of nodes that simplification erases unread: Dropout in any mode, a Transpose, Pad, Concat or
Expand that looks as if it did nothing, whether it fits its input or not."""

from __future__ import annotations

from sateen.compiler.importer.constants import Constants, Light
from sateen.compiler.importer.domains import opset_of
from sateen.compiler.importer.loading import infer_shapes
from sateen.compiler.importer.nouns import Finding, OnnxNode, Unsupported, axis_in

MOVES = ("Transpose", "Pad", "Concat", "Expand")


def stated(light: Light, kept: set[str]) -> list[Finding]:
    """What is wrong with nodes as the file has them; `kept` are the names of those that simplification leaves.

    Its nodes have names, and nothing is simplified yet.
    """
    graph = light.model.graph
    opset = opset_of(light.model)
    constants = Constants(graph, light.arrays)
    used = {i for n in graph.node for i in n.input} | {o.name for o in graph.output}
    gone = [n for n in graph.node if n.op_type in MOVES and n.name not in kept]
    shapes = _shapes(light) if gone else {}
    found = []
    for proto in graph.node:
        node = OnnxNode(proto, opset)
        try:
            if proto.op_type in ("Dropout", "BatchNormalization"):
                _check_training(node, constants, used)
            elif proto in gone and proto.input[0] in shapes:
                _check_shape(node, shapes[proto.input[0]], constants)
        except Unsupported as e:
            found.append(Finding(proto.name, proto.op_type, False, e.reason, e.remedy))
    return found


def _shapes(light: Light) -> dict[str, list[int]]:
    """By tensor, as far as ONNX infers them; 0 for a dimension that is open."""
    graph = infer_shapes(light)
    infos = [i for i in (*graph.input, *graph.value_info) if i.type.tensor_type.HasField("shape")]
    return {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos}


def _check_training(node: OnnxNode, constants: Constants, used: set[str]) -> None:
    remedy = "export the model for inference"
    extra = used.intersection(node.proto.output[1:]) - {""}
    if node.op_type == "BatchNormalization":
        if node.integer("training_mode", 0) or extra:
            raise Unsupported("it is in training mode", remedy)
        return
    mode = node.input(2) if node.opset >= 12 else ""
    training = constants.get(mode) if mode else None
    if mode and training is None:
        raise Unsupported(f"its training_mode '{mode}' is computed", remedy)
    if training is not None and training.any():
        raise Unsupported("it is in training mode", remedy)
    if extra:
        raise Unsupported("its second output, the mask, is used", remedy)


def _check_shape(node: OnnxNode, shape: list[int], constants: Constants) -> None:
    rank = len(shape)
    operand = constants.get(node.input(1))
    if node.op_type == "Concat":
        axis_in(node.integer("axis", 1), rank)
    elif node.op_type == "Transpose":
        perm = node.integers("perm", range(rank))
        if sorted(perm) != list(range(rank)):
            raise Unsupported(f"perm = {list(perm)} on {rank} dimensions", "give each dimension once")
    elif node.op_type == "Pad" and operand is not None and not node.input(3):
        if operand.size != 2 * rank:
            raise Unsupported(f"{operand.size} pads for {rank} dimensions", f"give {2 * rank}")
    elif node.op_type == "Expand" and operand is not None:
        sizes = zip(shape[::-1], operand.ravel()[::-1], strict=False)
        if any(s > 1 and t not in (1, s) for s, t in sizes):
            raise Unsupported(
                f"it expands {tuple(shape)} to {operand.ravel().tolist()}",
                "only dimensions of 1 are repeated",
            )
