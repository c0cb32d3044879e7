"""The walk over an ONNX graph: what every tensor is, which IR nodes come out, and what was wrong where.

A tensor is a constant (NumPy array) or a Value: an IR tensor and the layout in which ONNX sees it. The layout
of a graph input is *open* until a node says which of its dimensions are H, W and C, so a first walk only
collects these decisions and a second one builds the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from sateen.compiler.functions import X
from sateen.compiler.importer.constants import Light, array_of, type_name
from sateen.compiler.importer.domains import DEFAULT, QUANTIZERS, known, opset_of
from sateen.compiler.importer.integer_forms import MICROSOFT, MOVES
from sateen.compiler.importer.integer_forms import REFUSED as REFUSED_INTEGER
from sateen.compiler.importer.layout import (
    Astray,
    Layout,
    batch_dim,
    row_major,
    split_axes,
)
from sateen.compiler.importer.loading import graph_inputs, infer_shapes
from sateen.compiler.importer.nouns import (
    FLOAT_TYPES,
    NOT_CHECKED,
    Finding,
    GivenConstant,
    OnnxNode,
    Undecided,
    Unsupported,
    Value,
    View,
)
from sateen.compiler.importer.open_layouts import Layouts
from sateen.compiler.importer.refused import RANDOM_OPERATORS, REFUSED
from sateen.ir.nodes import Arrange, Expression, Node
from sateen.ir.pieces import pieces_of
from sateen.ir.ports import Shape
from sateen.ir.quant import Quant, Quantizer

Handler = Callable[["Walk", OnnxNode], Sequence["Value | np.ndarray"]]


class Walk(Layouts):
    """State of one walk; handlers (`ops_*.py`) read values and emit IR nodes through it.

    Args:
        light: a simplified model (`loading.simplify`).
        handlers: by operator, each with how it runs, for the report.
        views: the decided layouts of graph inputs; None in the first walk, where all are open.
        any_batch: whether the file leaves the batch open; it is 1 here, but no dimension of size 1.
        whole: what the file calls its inputs is one sample, whose dimension 0 is no batch.
    """

    def __init__(
        self,
        light: Light,
        handlers: dict[str, tuple[Handler, str]],
        views: dict[str, View] | None = None,
        any_batch: bool = False,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.light = light
        self.model = model = light.model
        self.opset = opset_of(model)
        self.handlers = handlers
        self.final = views is not None
        self.views = dict(views or {})
        self.values: dict[str, Value | np.ndarray | None] = {}  # None: written by a node that failed
        self.nodes: list[Node] = []
        self.unary: dict[
            str, tuple[str, Expression]
        ] = {}  # IR tensor: the tensor it is a function of, and which
        self.given: dict[str, GivenConstant] = {}  # constants that come from a quantizer
        self.codes: set[str] = set()  # ONNX tensors that hold codes, not values
        self.quantizers: dict[str, Quantizer] = {}  # IR tensor: the quantizer that wrote it
        self.quants: dict[str, Quant] = {}  # ONNX tensor of codes that a quantizer wrote: what they stand for
        self.ties: list[tuple[str, ...]] = []  # IR tensors that are to share a scale
        self.findings: list[Finding] = []
        self.any_batch = any_batch
        self.whole = whole
        self._uses = Counter(i for n in model.graph.node for i in n.input)
        self._uses.update(o.name for o in model.graph.output)
        self._inferred: dict[str, tuple[int, ...]] | None = None

    # -- the walk -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Walk over inputs and nodes; problems end up in `findings`."""
        for tensor in self.model.graph.initializer:
            self.values[tensor.name] = array_of(tensor)
        self.values.update(self.light.arrays)
        for info in graph_inputs(self.model.graph):
            if not self.used(info.name):
                continue
            try:
                self.values[info.name] = self._input(info)
            except Unsupported as e:
                self.findings.append(Finding(info.name, "graph input", False, e.reason, e.remedy))
                self.values.setdefault(info.name, None)
        for proto in self.model.graph.node:
            self._node(OnnxNode(proto, self.opset))

    def _node(self, node: OnnxNode) -> None:
        operands = [self.values.get(i) for i in node.inputs if i]
        handler, how = self.handlers.get(node.op_type, (None, ""))
        own = known(node.op_type, node.proto.domain)
        foldable = node.proto.domain in DEFAULT and node.op_type not in QUANTIZERS
        results: Sequence[Value | np.ndarray]
        self.unsure = False
        try:
            if node.op_type in RANDOM_OPERATORS.split():
                raise refuse_operator(node)
            if foldable and (not operands or all(isinstance(k, np.ndarray) for k in operands)):
                results = self._fold(node)
                how = "constant"
            elif node.name in self.light.refused:
                raise Unsupported(*self.light.refused[node.name])
            elif handler is None or not own:
                raise refuse_operator(node)
            elif any(k is None for k in operands):
                raise Undecided("an input is not known", "")
            else:
                self._check_codes(node)
                results = self._handled(handler, node)
                guess = any(isinstance(r, Value) and self.is_open(r) for r in results)
                self.unsure = guess and (self.unsure or node.op_type in QUANTIZERS)
            if self.unsure:
                self.findings.append(Finding(node.name, node.op_type, None, NOT_CHECKED))
            else:
                self.findings.append(Finding(node.name, node.op_type, True, how))
        except Undecided:
            self.findings.append(Finding(node.name, node.op_type, None, NOT_CHECKED))
            results = ()
        except Unsupported as e:
            self.findings.append(Finding(node.name, node.op_type, False, e.reason, e.remedy, e.limit))
            results = ()
        except Exception as e:  # an attribute or constant of a kind that no handler expects
            reason = (
                f"it is malformed ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else 'no details'})"
            )
            self.findings.append(Finding(node.name, node.op_type, False, reason, "export the model again"))
            results = ()
        for i, name in enumerate(node.proto.output):
            if name:
                self.values[name] = results[i] if i < len(results) else self.assumed(name)

    def _handled(self, handler: Handler, node: OnnxNode) -> Sequence[Value | np.ndarray]:
        """What the handler gives; again, with pixels in one row, where it meets dimensions that end inside a row."""
        count, sure = len(self.nodes), self.unsure
        try:
            return handler(self, node)
        except Astray:
            del self.nodes[count:]
            operands = {i: v for i in node.inputs if isinstance(v := self.values.get(i), Value)}
            found = {i: self._in_one_row(node.name, v) for i, v in operands.items() if not self.is_open(v)}
            if len(self.nodes) == count:
                raise
            self.unsure = sure
            self.values.update(found)
            return handler(self, node)

    def _in_one_row(self, name: str, x: Value) -> Value:
        """x with all its pixels in one row, where one of its dimensions ends inside a row of several; else x."""
        h, w, c = hwc = self.hwc(x)
        try:
            for dim in x.layout:
                split_axes(dim, hwc)
            return x
        except Astray:
            if min(h, w) == 1:
                return x
            at = np.arange(h * w)
            pieces = pieces_of(0, np.zeros((3, 1), np.int64), np.stack([at, at // w, at % w]))
            out = self.fresh(f"{x.tensor}.row")
            made = Arrange(f"{name}.row", (x.tensor,), tuple(pieces), out)
            return Value(self.emit(made, (1, h * w, c)), x.layout, x.host)

    def _check_codes(self, node: OnnxNode) -> None:
        """Codes may be moved, clipped and dequantized; all but the last pass the mark on."""
        if not self.codes.intersection(node.inputs) or node.op_type == "DequantizeLinear":
            return
        if node.op_type not in (*MOVES, "Clip"):
            raise Unsupported(
                f"it computes with the codes of '{next(i for i in node.inputs if i in self.codes)}'",
                "put a DequantizeLinear before it",
            )
        self.codes.update(node.proto.output)

    def _fold(self, node: OnnxNode) -> Sequence[np.ndarray]:
        """A node with constant inputs, computed by ONNX's reference implementation."""
        feeds = {i: self.values[i] for i in node.inputs if i}
        given = self.given.get(node.input(0))
        if given is not None and node.op_type in MOVES:
            name = node.input(0)
            fixed, scale = (self.fold(node, feeds | {name: a})[0] for a in (given.fixed, given.scale))
            self.given[node.proto.output[0]] = GivenConstant(given.format, fixed, scale, given.why)
        return self.fold(node, feeds)

    def fold(self, node: OnnxNode, feeds: dict[str, Value | np.ndarray | None]) -> Sequence[np.ndarray]:
        """The outputs of a node for constant `feeds`."""
        graph = onnx.helper.make_graph(
            [node.proto],
            "constant",
            [onnx.helper.make_value_info(i, onnx.TypeProto()) for i in feeds],
            [onnx.helper.make_value_info(o, onnx.TypeProto()) for o in node.proto.output if o],
        )
        imports = [
            onnx.helper.make_opsetid("" if o.domain in DEFAULT else o.domain, o.version)
            for o in self.model.opset_import
        ]
        if node.op_type == "QuantizeLinear":  # the reference starts with opset 19
            imports = [onnx.helper.make_opsetid("", max(19, self.opset))]
        model = onnx.helper.make_model(graph, opset_imports=imports)
        try:
            results = iter(ReferenceEvaluator(model).run(None, feeds))
        except Exception as e:
            lines = [line.strip() for line in str(e).splitlines() if line.strip()]
            raise Unsupported(
                f"all its inputs are constant, but ONNX's evaluator does not compute it: {(lines or [repr(e)])[0]}",
                "store its result as an initializer: with onnxslim, or by constant folding in the exporter",
            ) from None
        return [np.asarray(next(results)) if o else np.zeros(0) for o in node.proto.output]

    def assumed(self, name: str) -> Value | None:
        """A stand-in for the output of a node that failed, so that the nodes after it are checked as well."""
        if self._inferred is None:
            self._inferred = {}
            inferred = infer_shapes(self.light)
            for info in (*inferred.value_info, *inferred.output):
                dims = info.type.tensor_type.shape.dim
                if info.type.tensor_type.HasField("shape") and all(d.dim_value > 0 for d in dims):
                    self._inferred[info.name] = tuple(d.dim_value for d in dims)
        shape = self._inferred.get(name)
        if not shape or (self.batch > 1 and shape[0] != self.batch):
            return None
        self.open[name] = (-1, None)
        return Value(name, (batch_dim(shape[0]), *row_major(shape[1:])))

    def _input(self, info: onnx.ValueInfoProto) -> Value:
        if not info.type.HasField("tensor_type"):
            raise Unsupported("not a tensor", "export the model with tensor inputs")
        tensor = info.type.tensor_type
        if not tensor.HasField("shape"):
            raise Unsupported(
                "its shape is not known", "export the model with fixed input shapes, batch first"
            )
        consumers = [n for n in self.model.graph.node if info.name in n.input]
        if tensor.elem_type not in FLOAT_TYPES and not all(n.op_type == "Cast" for n in consumers):
            kind = type_name(tensor.elem_type)
            remedy = f"export the model with float inputs, or say what it always is: --value {info.name}=1"
            raise Unsupported(f"its type is {kind}", remedy if not tensor.shape.dim else remedy.split(",")[0])
        shape = []
        for i, d in enumerate(tensor.shape.dim):
            if d.dim_value == 0 and d.HasField("dim_value"):
                raise Unsupported(
                    f"dimension {i} is 0, so that it holds nothing", "export sizes of at least 1"
                )
            if d.dim_value <= 0:
                what = (
                    f"dimension {i} is dynamic ('{d.dim_param}')"
                    if d.dim_param
                    else f"dimension {i} is unknown"
                )
                sizes = ",".join(
                    str(x.dim_value or ("?" if k else 1)) for k, x in enumerate(tensor.shape.dim)
                )
                raise Unsupported(
                    what,
                    f"only the batch, dimension 0, may be dynamic: give its sizes with --shape {info.name}={sizes}",
                )
            shape.append(d.dim_value)
        if not shape:
            return self._number(info.name)
        if not self.whole and self.names and shape[0] != self.batch:
            self.open[info.name] = (-1, None)  # a stand-in
            self.values[info.name] = Value(info.name, row_major(shape))
            raise Unsupported(
                f"its dimension 0 is {shape[0]}, and that of the input before it {self.batch}: not one batch",
                "export the model with the same batch first in all inputs",
            )
        self.batch = 1 if self.whole else shape[0]
        first: Layout = () if self.whole else (batch_dim(shape[0]),)
        shape = shape if self.whole else shape[1:]
        self.names.add(info.name)
        view = self.views.get(info.name)
        if view is None and self.final:
            reason = f"its shape {tuple(shape)} without the batch has more than three dimensions"
            remedy = "export the model for inputs of at most (batch, channels, height, width)"
            self.findings.append(Finding(info.name, "graph input", False, reason, remedy))
        if view is None:
            self.open[info.name] = (-1, None)
            return Value(info.name, (*first, *row_major(shape)))
        layout = view.layout(shape)
        if layout is None:
            raise Unsupported(
                f"its shape {tuple(shape)} is not split along whole dimensions into {view.hwc}",
                "export the model without the Reshape after it",
            )
        self.shapes[info.name] = view.hwc
        return Value(info.name, (*first, *layout))

    def _number(self, name: str) -> Value:
        """An input without dimensions: one number for each sample."""
        dims = [i.type.tensor_type.shape.dim for i in graph_inputs(self.model.graph)]
        if not self.whole and any(d[0].dim_value > 1 for d in dims if d):
            raise Unsupported("it is one number for a batch of several", "export the model for a batch of 1")
        self.names.add(name)
        self.shapes[name] = (1, 1, 1)
        return Value(name, ())

    # -- what handlers read -------------------------------------------------------------------------------

    def value(self, node: OnnxNode, i: int = 0) -> Value:
        """Computed input i. Raises Unsupported for a constant."""
        value = self.values[node.input(i)]
        if not isinstance(value, Value):
            raise Unsupported(f"input {i} is constant", "give the computed tensor as this input")
        return value

    def constant(self, node: OnnxNode, i: int) -> np.ndarray | None:
        """Constant input i; None if it is left out. Raises Unsupported if it is computed."""
        name = node.input(i)
        if not name:
            return None
        value = self.values[name]
        if not isinstance(value, np.ndarray):
            raise Unsupported(f"input {i} '{name}' is not constant", "make it a constant of the model")
        return value

    def weights(self, node: OnnxNode, i: int) -> np.ndarray | None:
        """Constant input i as float64, all finite."""
        value = self.constant(node, i)
        if value is None:
            return None
        if value.size == 0:
            raise Unsupported(
                f"tensor '{node.input(i)}' of shape {value.shape} holds nothing", "export the model again"
            )
        if value.dtype.kind not in "fiub" and value.dtype.name != "bfloat16":
            raise Unsupported(
                f"tensor '{node.input(i)}' has type {value.dtype}", "export the model in float32"
            )
        value = value.astype(np.float64)
        if not np.isfinite(value).all():
            at = tuple(int(k) for k in np.argwhere(~np.isfinite(value))[0])
            raise Unsupported(
                f"tensor '{node.input(i)}' holds {value[at]} at index {list(at)}",
                "train or export the model again",
            )
        return value

    def used(self, name: str) -> bool:
        return bool(name) and self._uses[name] > 0

    # -- what handlers write ------------------------------------------------------------------------------

    def emit(self, node: Node, shape: Shape) -> str:
        """Append an IR node; returns its output tensor."""
        self.nodes.append(node)
        self.shapes[node.output] = shape
        return node.output

    def problems(self) -> list[Finding]:
        return [f for f in self.findings if f.supported is False]

    def unary_of(self, value: Value) -> tuple[str, Expression]:
        """The IR tensor that this one is a function of, element by element, and the function."""
        return self.unary.get(value.tensor, (value.tensor, X))


def refuse_operator(node: OnnxNode) -> Unsupported:
    """Why an operator without a handler is refused, and what helps."""
    if node.proto.domain == MICROSOFT and node.op_type in REFUSED_INTEGER:
        return Unsupported(REFUSED_INTEGER[node.op_type], "give the floating-point model, or another layer")
    if node.proto.domain not in DEFAULT and not (
        node.op_type in QUANTIZERS and known(node.op_type, node.proto.domain)
    ):
        return Unsupported(
            f"operators of domain '{node.proto.domain}' are not supported",
            "export the model in standard ONNX operators or QONNX's quantizers",
        )
    reason, remedy = REFUSED.get(
        node.op_type,
        ("the operator is not supported", "replace it by a supported one, or compute it on the host"),
    )
    return Unsupported(reason, remedy)
