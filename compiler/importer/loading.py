"""From a path to a model that is worth reading, and from there to one that is simple to read.

`load_model` gives the file as it is; `prepare` names every node, fixes an unknown batch to 1, inlines
functions and lets onnxslim fold constants (docs/adr/0001-graph-simplifier.md).
"""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from sateen.compiler.importer.domains import QONNX, QUANTIZERS
from sateen.compiler.importer.refused import RANDOM_OPERATORS
from sateen.errors import ModelError

OLDEST_OPSET = 9
_logger = logging.getLogger("sateen")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def load_model(path: str | Path) -> onnx.ModelProto:
    """Read and check a model file, external data included.

    Raises ModelError if it is missing, truncated, no ONNX, older than opset 9, or lacks external data.
    """
    path = Path(path)
    where = f"model {path}"
    if not path.exists():
        raise ModelError(f"{where}: no such file; give the path of an ONNX file")
    if not path.is_file():
        raise ModelError(f"{where}: not a file; give the path of an ONNX file")
    try:
        size = path.stat().st_size
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except DecodeError:
        raise ModelError(
            f"{where}: not an ONNX file, or cut short ({size} bytes); export or copy it again"
        ) from None
    except OSError as e:
        raise ModelError(f"{where}: cannot be read ({e.strerror or _first_line(e)})") from None
    if not model.graph.node and not model.graph.output:
        raise ModelError(
            f"{where}: holds no graph ({size} bytes): not an ONNX file, or cut short; export or copy it again"
        )
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as e:
        raise ModelError(
            f"{where}: its external data cannot be read ({_first_line(e)}); put it beside the model"
        ) from None
    validate(model, where)
    return model


def validate(model: onnx.ModelProto, where: str = "model") -> None:
    """Raise ModelError unless the model is well formed and its opset is known."""
    opset = opset_of(model)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"{where}: opset {opset} is outside {OLDEST_OPSET} to {newest}; "
            f"convert it with onnx.version_converter.convert_version(model, 17)"
        )
    nodes = model.graph.node
    texts = [t for n in nodes for t in (n.name, n.op_type, n.domain, *n.input, *n.output)]
    if not all(isinstance(t, str) for t in texts):  # protobuf hands out undecodable text as bytes
        raise ModelError(
            f"{where}: a node's name is not UTF-8 text: the file is damaged; export or copy it again"
        )
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(f"{where}: tensor '{tensor.name}' has its data in another file; load it first")
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:  # the checker serializes, which has this limit
        return
    try:
        onnx.checker.check_model(_completed(model))
    except Exception as e:
        raise ModelError(f"{where}: not valid ONNX ({_first_line(e)}); export it again") from None


def _completed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy with what runtimes do without and the checker does not: some type of each output, and
    a version of each domain of quantizers (which the Keras converter of the qonnx package leaves out)."""
    typed = all(
        o.type.HasField("tensor_type") and o.type.tensor_type.HasField("shape") for o in model.graph.output
    )
    versions = {o.domain for o in model.opset_import}
    unversioned = {n.domain for n in model.graph.node if n.domain in QONNX} - versions
    if typed and not unversioned:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in sorted(unversioned))
    for o in copy.graph.output:
        if not o.type.WhichOneof("value"):
            o.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        if o.type.HasField("tensor_type"):
            o.type.tensor_type.shape.SetInParent()
    return copy


def opset_of(model: onnx.ModelProto) -> int:
    """Of the default domain; 1 where the model does not say."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def name_nodes(model: onnx.ModelProto) -> None:
    """Give each node its own name, in place: its ONNX name, or operator and position."""
    seen: set[str] = set()
    for i, node in enumerate(model.graph.node):
        name = base = node.name or f"{node.op_type}_{i}"
        n = 1
        while name in seen:
            n += 1
            name = f"{base}_{n}"
        seen.add(name)
        node.name = name


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Without initializers, which older models list as inputs too."""
    constant = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [i for i in graph.input if i.name not in constant]


def _fix_batch(graph: onnx.GraphProto) -> None:
    """An unknown first dimension becomes 1; all other shapes are forgotten, to be inferred anew."""
    fixed = False
    for value in graph_inputs(graph):
        dims = value.type.tensor_type.shape.dim
        if value.type.HasField("tensor_type") and dims and not dims[0].dim_value > 0:
            dims[0].dim_value = 1
            fixed = True
    if fixed:
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
        del graph.value_info[:]


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A simpler model with the same meaning for one sample; the argument is not changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if copy.functions:
        with contextlib.suppress(Exception):  # then the call itself is reported as not supported
            copy = onnx.inliner.inline_local_functions(copy)
    name_nodes(copy)
    _fix_batch(copy.graph)
    return simplify(copy)


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded, dead nodes removed by onnxslim; the model itself if onnxslim cannot cope."""
    import onnxslim  # loads sympy: only when a model is imported

    slim_logger = logging.getLogger("onnxslim")
    level = slim_logger.level
    if any(n.op_type in RANDOM_OPERATORS.split() for n in model.graph.node):
        return model  # to be refused, not to be taken for constants
    if any(n.op_type in QUANTIZERS for n in model.graph.node):
        return model  # folding would lose the scales of weights
    work = onnx.ModelProto()
    work.CopyFrom(model)  # onnxslim changes what it is given
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            slim = onnxslim.slim(
                work,
                # BatchNormalization and the like are folded by our own passes, which keep the nodes' names.
                skip_optimizations=["graph_fusion", "subexpression_elimination", "weight_tying"],
            )
        if slim is None or not _same_interface(model, slim):
            raise ValueError("the simplified model has other inputs or outputs")
        return slim
    except Exception as e:
        _logger.info("onnxslim: %s; importing the model as it is", _first_line(e))
        return model
    finally:
        slim_logger.setLevel(level)


def _same_interface(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    inputs = {i.name for i in graph_inputs(b.graph)} <= {i.name for i in graph_inputs(a.graph)}
    return inputs and [o.name for o in a.graph.output] == [o.name for o in b.graph.output]
