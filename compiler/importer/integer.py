"""Integer operators, and graph inputs and outputs that are codes, rewritten: DequantizeLinear, an operator in floating
point, QuantizeLinear.

The walk knows quantizers and real numbers alone. A graph input of codes becomes real with a QuantizeLinear behind it,
an output with a DequantizeLinear before it; `Rewritten.codes` names the tensors that the ports' codes are.
DynamicQuantizeLinear, whose scale depends on the sample, is left out, so that its input is calibrated: its scale counts
as 1, its zero point as 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sateen.compiler.importer.constants import Light
from sateen.compiler.importer.domains import opset_of
from sateen.compiler.importer.integer_forms import (
    ACCUMULATORS,
    DYNAMIC,
    MICROSOFT,
    MOVES,
    WRAPPED,
    Form,
    Operand,
    domain_of,
    form_of,
    given,
    scale_of,
)
from sateen.compiler.importer.loading import graph_inputs
from sateen.compiler.importer.nouns import free_name

CODE_TYPES = frozenset(
    (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2, TensorProto.UINT2)
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A model of quantizers and floating-point operators, as `light`, whose new nodes belong to those of the file, or
    to graph inputs and outputs (`Light.owners`).

    Attributes
    ----------
    codes : for each graph input and output of codes the tensor of the rewritten graph that has them; "" for sums
    dynamic : names of the nodes whose scale depends on the sample, and is calibrated instead
    """

    light: Light
    codes: dict[str, str] = field(default_factory=dict)
    dynamic: tuple[str, ...] = ()


def in_floating_point(light: Light) -> Rewritten:
    """The model without integer operators; as it is where it has none. The argument is not changed."""
    return _Rewriter(light).run() if _has_integers(light.model.graph) else Rewritten(light)


def _has_integers(graph: onnx.GraphProto) -> bool:
    """Whether anything computes with codes, or is given or returned as codes."""
    ports = [*graph_inputs(graph), *graph.output]
    if any(p.type.tensor_type.elem_type in (*CODE_TYPES, TensorProto.INT32) for p in ports):
        return True
    codes: set[str] = set()
    for node in graph.node:
        domain, op = domain_of(node.domain), node.op_type
        if domain == MICROSOFT or (not domain and (op == DYNAMIC or form_of("", op, 9))):
            return True
        if op == "QuantizeLinear" or (op in MOVES and codes.intersection(node.input)):
            codes.update(node.output)
        elif codes.intersection(node.input) and (op in WRAPPED or op in ("Relu", "Cast")):
            return True
    return bool(codes.intersection(o.name for o in graph.output))


@dataclass(frozen=True, slots=True)
class _Codes:
    """What is known of a tensor of codes: names of scale and zero point, and of the tensor that a quantizer wrote."""

    scale: str
    zero: str
    root: str
    dynamic: bool = False


class _Rewriter:
    def __init__(self, light: Light) -> None:
        self.light = light
        self.model = onnx.ModelProto()
        self.model.CopyFrom(light.model)
        self.graph = self.model.graph
        self.taken = {t for n in self.graph.node for t in (n.name, *n.input, *n.output)}
        self.nodes: list[onnx.NodeProto] = []
        self.owners = dict(light.owners)
        self.codes: dict[str, _Codes] = {}
        self.sums: set[str] = set()
        self.names: dict[str, str] = {}  # tensors that have another name in the nodes to come
        self.dynamic: list[str] = []
        self.owner = ""
        self.constant_names = self._constants()
        self.opset = opset_of(self.model)

    def run(self) -> Rewritten:
        constant = self.constant_names
        file = sorted(self.graph.node, key=lambda n: any(o not in constant for o in n.output))
        results = {o.name for o in self.graph.output}
        ports: dict[str, str] = {}
        for info in graph_inputs(self.graph):
            if info.type.tensor_type.elem_type in CODE_TYPES and (codes := self._input(info, file)):
                ports[info.name] = codes
        for node in file:
            self.owner = self.owners.get(node.name, node.name)
            for i, name in enumerate(node.input):
                node.input[i] = self.names.get(name, name)
            self._node(node, results)
        for info in self.graph.output:
            name = self.names.get(info.name, info.name)
            if name in self.codes and not self.codes[name].dynamic:
                ports[info.name] = self._output(info, name)
            elif name in self.sums and info.type.tensor_type.elem_type == TensorProto.INT32:
                ports[info.name] = ""
                info.type.tensor_type.elem_type = TensorProto.FLOAT
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        return Rewritten(
            replace(self.light, model=self.model, owners=self.owners), ports, tuple(self.dynamic)
        )

    def _constants(self) -> set[str]:
        """Names of tensors that depend on no graph input."""
        known = {t.name for t in self.graph.initializer} | {
            t.values.name for t in self.graph.sparse_initializer
        }
        known |= {*self.light.arrays, ""}
        for node in self.graph.node:
            if all(i in known for i in node.input):
                known.update(node.output)
        return known

    # -- ports ---------------------------------------------------------------------------------------------

    def _input(self, info: onnx.ValueInfoProto, nodes: Sequence[onnx.NodeProto]) -> str:
        """A QuantizeLinear behind an input of codes, of the scale by which the file reads them; "" if it says none."""
        found = scale_of(info.name, nodes)
        if found is None:
            return ""
        self.owner = info.name
        scale, zero = found
        kind = info.type.tensor_type.elem_type
        if not scale:
            scale = self.constant(np.float32(1), f"{info.name}_scale")
        if not zero:
            zero = self.unique(f"{info.name}_zero_point")
            self.graph.initializer.append(helper.make_tensor(zero, kind, [], [0]))
        codes = self.node("QuantizeLinear", [info.name, scale, zero], f"{info.name}_codes")
        info.type.tensor_type.elem_type = TensorProto.FLOAT
        self.names[info.name] = codes
        self.codes[codes] = _Codes(scale, zero, codes)
        return codes

    def _output(self, info: onnx.ValueInfoProto, name: str) -> str:
        """A DequantizeLinear before an output of codes."""
        self.owner = info.name
        codes = self.codes[name]
        if name == info.name:  # the nodes so far write it, and may read it
            name = self.unique(f"{info.name}_codes")
            for node in self.nodes:
                for names in (node.input, node.output):
                    for i, other in enumerate(names):
                        if other == info.name:
                            names[i] = name
        self.node("DequantizeLinear", [name, codes.scale, codes.zero], "", output=info.name)
        info.type.tensor_type.elem_type = TensorProto.FLOAT
        return name if codes.root == info.name else codes.root

    # -- nodes ---------------------------------------------------------------------------------------------

    def _node(self, node: onnx.NodeProto, results: set[str]) -> None:
        domain, op = domain_of(node.domain), node.op_type
        if op == DYNAMIC and not domain and len(node.output) == 3 and not results.intersection(node.output):
            return self._dynamic(node)
        quantizer = domain in ("", MICROSOFT) and op in ("QuantizeLinear", "DequantizeLinear")
        if quantizer and len(node.input) > 1:
            return self._quantizer(node)
        form = form_of(domain, op, len(node.input)) if domain in ("", MICROSOFT) else None
        if form is not None:
            return self._form(node, form)
        read = [i for i in node.input if i in self.codes]
        if not domain and op in MOVES:
            self.nodes.append(node)
            first = self.codes.get(node.input[0]) if node.input else None
            if first is not None:
                self.codes[node.output[0]] = first
            if node.input and node.input[0] in self.sums:
                self.sums.add(node.output[0])
            return None
        if not domain and read and not any(self.codes[i].dynamic for i in read):
            if op in WRAPPED and node.input[0] in self.codes and self._alike(node, read):
                return self._wrapped(node, read)
            if op == "Relu":
                return self._relu(node)
            if op == "Cast":
                return self._numbers(node)
        self.nodes.append(node)
        return None

    def _dynamic(self, node: onnx.NodeProto) -> None:
        y, scale, zero = node.output
        self.dynamic.append(node.name)
        self.nodes.append(helper.make_node("Identity", [node.input[0]], [y], name=node.name))
        self.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), scale))
        self.graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), zero))
        self.codes[y] = _Codes(scale, zero, y, dynamic=True)

    def _quantizer(self, node: onnx.NodeProto) -> None:
        """The file's own, of ONNX's domain or ONNX Runtime's."""
        node.domain = ""
        codes = self.codes.get(node.input[0])
        if node.op_type == "QuantizeLinear":
            zero = node.input[2] if len(node.input) > 2 else ""
            self.codes[node.output[0]] = _Codes(node.input[1], zero, node.output[0])
        elif codes is not None and codes.dynamic:
            node = helper.make_node("Identity", [node.input[0]], node.output, name=node.name)
        self.nodes.append(node)

    def _form(self, node: onnx.NodeProto, form: Form) -> None:
        """Operands made real, the floating-point operator, and its result made codes."""
        attributes = {
            a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in form.left_out
        }
        last = any(a.name == "channels_last" and a.i for a in node.attribute)
        inputs = [node.input[i] for i in form.plain]
        scales = []
        axis = 0 if form.op == "Conv" or attributes.get("transB") else -1
        for operand in form.operands:
            scale = self._scale(node, operand)
            scales.append(scale)
            x = self.real(node.input[operand.codes], scale, given(node, operand.zero), axis)
            if last and operand is form.operands[0]:
                x = self.node("Transpose", [x], f"{x}_first", perm=[0, 3, 1, 2])
            inputs.append(x)
        bias = given(node, form.bias)
        added = bias if form.op == "MatMul" else ""
        if bias and not added:
            inputs.append(self._bias(bias, scales, attributes.get("alpha", 1.0)))
        if form.op == "ReduceMean" and self.opset >= 18 and "axes" in attributes:
            inputs.append(self.constant(np.array(attributes.pop("axes"), np.int64), f"{node.name}_axes"))
        result = form.result and (given(node, form.result[0]), given(node, form.result[1]))
        coded = result is not None and result[0] != ""
        sums = node.op_type in ACCUMULATORS
        other = coded or added or last or sums
        y = self.unique(f"{node.output[0]}_real") if other else node.output[0]
        self.nodes.append(helper.make_node(form.op, inputs, [y], name=node.name, **attributes))
        if last:
            y = self.node("Transpose", [y], f"{y}_last", perm=[0, 2, 3, 1])
        if added:
            self.node("Add", [y, added], "", output=node.output[0])
        elif coded:
            assert result is not None
            self.node("QuantizeLinear", [y, *result], "", output=node.output[0])
            self.codes[node.output[0]] = _Codes(*result, node.output[0])
        elif sums:
            unit = self.node("Mul", [self._double(s) for s in scales], f"{y}_unit")
            self.node("Div", [y, unit], "", output=node.output[0])
            self.sums.add(node.output[0])

    def _scale(self, node: onnx.NodeProto, operand: Operand) -> str:
        """The name of an operand's scale; of one that is given without, that of the quantizer that wrote it, or 1."""
        if operand.scale >= 0:
            return node.input[operand.scale]
        name = node.input[operand.codes]
        known = self.codes.get(name)
        if known is None or known.dynamic or name in self.constant_names:
            return self.constant(np.float32(1), f"{node.name}_one")
        return known.scale

    def _bias(self, bias: str, scales: Sequence[str], alpha: float) -> str:
        """int32 in steps of the sum, which the products of the scales are, in float64 so that none is lost."""
        scale = self.node("Mul", [self._double(s) for s in scales], f"{bias}_scale")
        if alpha != 1:
            factor = self.constant(np.float64(alpha), f"{bias}_alpha")
            scale = self.node("Mul", [scale, factor], f"{bias}_scale")
        return self.node("DequantizeLinear", [bias, scale], f"{bias}_real", axis=-1)

    def _double(self, name: str) -> str:
        return self.node("Cast", [name], f"{name}_double", to=TensorProto.DOUBLE)

    def _alike(self, node: onnx.NodeProto, read: Sequence[str]) -> bool:
        """Whether all operands have one scale and one zero point: codes joined must mean the same."""
        if node.op_type != "Concat":
            return True
        pairs = [self._pair(self.codes[i]) for i in read]
        return len(read) == len(node.input) and all(p == pairs[0] for p in pairs)

    def _pair(self, codes: _Codes) -> tuple[object, ...]:
        return tuple(self._value(name) for name in (codes.scale, codes.zero))

    def _value(self, name: str) -> object:
        """A constant's number where it is at hand, else its name."""
        for tensor in self.graph.initializer:
            if tensor.name == name:
                return numpy_helper.to_array(tensor).ravel().tolist()
        for node in self.nodes:
            if node.op_type == "Constant" and name in node.output:
                return [numpy_helper.to_array(a.t).ravel().tolist() for a in node.attribute]
        return name

    def _wrapped(self, node: onnx.NodeProto, read: Sequence[str]) -> None:
        """The same operator on what the codes stand for."""
        codes = self.codes[read[0]]
        real = {i: self.real(i, self.codes[i].scale, self.codes[i].zero) for i in dict.fromkeys(read)}
        inputs = [real.get(i, i) for i in node.input]
        if node.op_type == "Pad":
            inputs += [""] * (3 - len(inputs))
            inputs[2] = self.real(inputs[2] or self.typed_zero(codes), codes.scale, codes.zero)
        outputs = [o and self.unique(f"{o}_real") for o in node.output]
        wrapped = onnx.NodeProto()
        wrapped.CopyFrom(node)
        del wrapped.input[:], wrapped.output[:]
        wrapped.input.extend(inputs)
        wrapped.output.extend(outputs)
        self.nodes.append(wrapped)
        for y, name in zip(outputs, node.output, strict=True):
            if name:
                zero = codes.zero or self.typed_zero(codes)
                self.node("QuantizeLinear", [y, codes.scale, zero], "", output=name)
                self.codes[name] = _Codes(codes.scale, zero, name)

    def _relu(self, node: onnx.NodeProto) -> None:
        """Codes of at least 0, whatever that stands for."""
        codes = self.codes[node.input[0]]
        inputs = [node.input[0], self.typed_zero(codes)]
        self.nodes.append(helper.make_node("Clip", inputs, node.output, name=node.name))
        self.codes[node.output[0]] = codes

    def _numbers(self, node: onnx.NodeProto) -> None:
        """Codes cast to floating point, the numbers that they are: real / scale + zero point."""
        codes = self.codes[node.input[0]]
        real = self.real(node.input[0], codes.scale, codes.zero)
        scaled = self.node("Div", [real, codes.scale], f"{node.name}_scaled")
        zero = codes.zero or self.typed_zero(codes)
        kind = helper.get_node_attr_value(node, "to")
        offset = self.node("Cast", [zero], f"{node.name}_offset", to=kind)
        self.nodes.append(helper.make_node("Add", [scaled, offset], node.output, name=node.name))

    # -- what is written -----------------------------------------------------------------------------------

    def real(self, codes: str, scale: str, zero: str, axis: int = 0) -> str:
        """What codes stand for; codes of a dynamic scale are real already."""
        known = self.codes.get(codes)
        if known is not None and known.dynamic:
            return codes
        inputs = [codes, scale, *([zero] if zero else [])]
        return self.node("DequantizeLinear", inputs, f"{codes}_real", axis=axis)

    def typed_zero(self, codes: _Codes) -> str:
        """The code 0 of the same type."""
        if not codes.zero:
            return self.constant(np.uint8(0), f"{codes.root}_zero_point")
        return self.node("Sub", [codes.zero, codes.zero], f"{codes.zero}_0")

    def constant(self, value: Any, name: str) -> str:
        name = self.unique(name)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: Iterable[str], name: str, *, output: str = "", **attributes: Any) -> str:
        """A node that the file does not have."""
        output = output or self.unique(name)
        own = self.unique(f"{self.owner}/{op}")
        self.owners[own] = self.owner
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=own, **attributes))
        return output

    def unique(self, name: str) -> str:
        found = free_name(name, self.taken)
        self.taken.add(found)
        return found
