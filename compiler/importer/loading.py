"""From a path to a model that is worth reading, and from there to one that is simple to read.

`load_model` gives the file as it is; `complete` names every node, fixes an unknown batch to 1 and inlines functions;
`simplify` lets onnxslim fold constants (docs/adr/0001-graph-simplifier.md).
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from sateen.compiler.importer import isolated
from sateen.compiler.importer.constants import Light, as_inputs, lightened, sketch, without_inputs
from sateen.compiler.importer.control import has_control, unrolled
from sateen.compiler.importer.domains import DEFAULT, QUANTIZERS, opset_of
from sateen.compiler.importer.external import load_external
from sateen.compiler.importer.fused import MISPLACED
from sateen.compiler.importer.integer_forms import MICROSOFT
from sateen.compiler.importer.refused import RANDOM_OPERATORS
from sateen.compiler.importer.rewrite import rewrite
from sateen.compiler.importer.shapes import fill, forget_shapes
from sateen.compiler.importer.versions import modernized
from sateen.errors import ModelError

_FREE_INITIALIZERS = 4
"""The ir_version from which on initializers need not be inputs."""
_logger = logging.getLogger("sateen")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def load_model(path: str | Path) -> onnx.ModelProto:
    """Read and check a model file, external data included.

    Raises ModelError if it is missing, truncated, no ONNX, or lacks external data.
    """
    isolated.start()
    path = Path(path)
    where = f"model {path}"
    if not path.exists():
        raise ModelError(f"{where}: no such file; give the path of an ONNX file")
    if not path.is_file():
        raise ModelError(f"{where}: not a file; give the path of an ONNX file")
    try:
        size = path.stat().st_size
        if size >= onnx.checker.MAXIMUM_PROTOBUF:
            raise ModelError(
                f"{where}: {size:,} bytes; a model in one file has less than {onnx.checker.MAXIMUM_PROTOBUF:,}: save "
                "it with onnx.save(model, FILE, save_as_external_data=True)"
            )
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
    load_external(model, path, where)
    validate(model, where)
    return modernized(model)


def validate(model: onnx.ModelProto, where: str = "model") -> None:
    """Raise ModelError unless the model is well formed and its opset is known."""
    opset = opset_of(model)
    newest = onnx.defs.onnx_opset_version()
    if not opset:
        raise ModelError(
            f"{where}: it does not say which version of ONNX's operators it uses (opset_import); export it again, or "
            "add it: model.opset_import.append(onnx.helper.make_opsetid('', 17)), with the version it was made for"
        )
    if opset > newest:
        raise ModelError(
            f"{where}: opset {opset} is newer than {newest}, the newest of the onnx package here; "
            f"export it for opset {newest} or older, or install a newer onnx"
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
    try:
        isolated.call("check", _completed(sketch(model)).SerializeToString())
    except isolated.Died as e:
        raise ModelError(f"{where}: ONNX's own checker broke down on it ({e}); export it again") from None
    except Exception as e:
        raise ModelError(f"{where}: not valid ONNX ({_first_line(e)}); export it again") from None


def _completed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy with what runtimes do without and the checker does not: some type of each output, a version
    of each domain (which converters leave out), ONNX Runtime's domain of its own operators, and, before version 4 of
    the file format, initializers among the inputs."""
    typed = all(
        o.type.HasField("tensor_type") and o.type.tensor_type.HasField("shape") for o in model.graph.output
    )
    versions = {o.domain for o in model.opset_import}
    unversioned = {n.domain for n in model.graph.node if n.domain not in DEFAULT} - versions
    misplaced = [k for k, n in enumerate(model.graph.node) if n.op_type in MISPLACED and n.domain in DEFAULT]
    if misplaced and MICROSOFT not in versions:
        unversioned.add(MICROSOFT)
    if typed and not unversioned and not misplaced and model.ir_version >= _FREE_INITIALIZERS:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, _FREE_INITIALIZERS)
    copy.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in sorted(unversioned))
    for k in misplaced:
        copy.graph.node[k].domain = MICROSOFT
    for o in copy.graph.output:
        if not o.type.WhichOneof("value"):
            o.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        if o.type.HasField("tensor_type"):
            o.type.tensor_type.shape.SetInParent()
    return copy


def node_names(model: onnx.ModelProto) -> list[str]:
    """A name of its own for each node: its ONNX name, or operator and position."""
    seen: set[str] = set()
    names = []
    for i, node in enumerate(model.graph.node):
        name = base = node.name or f"{node.op_type}_{i}"
        n = 1
        while name in seen:
            n += 1
            name = f"{base}_{n}"
        seen.add(name)
        names.append(name)
    return names


def name_nodes(model: onnx.ModelProto) -> None:
    """Give each node its own name, in place."""
    for node, name in zip(model.graph.node, node_names(model), strict=True):
        node.name = name


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Without initializers, which older models list as inputs too."""
    constant = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [i for i in graph.input if i.name not in constant]


def any_batch(graph: onnx.GraphProto) -> bool:
    """Whether the file leaves the batch of an input open. Where another has that size elsewhere, as states of recurrent
    layers do, it is one sample's dimension like any other."""
    inputs = graph_inputs(graph)
    later = {d.dim_param for value in inputs for d in value.type.tensor_type.shape.dim[1:]}
    return not later.intersection(_open_batches(graph)) and any(_any_batch(value) for value in inputs)


def _open_batches(graph: onnx.GraphProto) -> set[str]:
    """Names of open first dimensions."""
    found = (v.type.tensor_type.shape.dim[0].dim_param for v in graph_inputs(graph) if _any_batch(v))
    return {name for name in found if name}


def _any_batch(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return (
        value.type.HasField("tensor_type")
        and len(dims) > 0
        and (dims[0].dim_value < 0 or not dims[0].HasField("dim_value"))
    )


def _fix_batch(graph: onnx.GraphProto) -> None:
    """An unknown first dimension becomes 1, and so does what shares its name; all other shapes are forgotten, to be
    inferred anew."""
    fixed, named = False, dict.fromkeys(_open_batches(graph), 1)
    for value in graph_inputs(graph):
        if _any_batch(value):
            value.type.tensor_type.shape.dim[0].dim_value = 1
            fixed = True
        fill(value, named)
    if fixed:
        forget_shapes(graph)


def complete(model: onnx.ModelProto) -> Light:
    """The model for one sample, each node with a name and functions inlined; the argument is not changed."""
    light = lightened(model)
    copy = light.model
    kept = (name for name, n in zip(node_names(model), model.graph.node, strict=True) if not light.lacks(n))
    for node, name in zip(copy.graph.node, kept, strict=True):  # by its place in the file
        node.name = name
    if copy.functions:
        with contextlib.suppress(isolated.ForeignError):  # then the call itself is reported as not supported
            inlined = isolated.call("inline", as_inputs(light).SerializeToString())
            copy = onnx.load_model_from_string(inlined)
            without_inputs(copy, light.arrays)
    name_nodes(copy)
    _fix_batch(copy.graph)
    return rewrite(straightened(Light(copy, light.arrays)))


def straightened(light: Light) -> Light:
    """Without control flow, as far as that is known."""
    if not has_control(light):
        return light
    inferred = infer_shapes(light)
    infos = (*inferred.input, *inferred.value_info)
    shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in infos}
    return unrolled(light, shapes)


def infer_shapes(light: Light) -> onnx.GraphProto:
    """The graph with the shapes that ONNX infers; empty if it cannot."""
    with contextlib.suppress(Exception):
        shaped = isolated.call("infer", as_inputs(light).SerializeToString())
        return onnx.load_model_from_string(shaped).graph
    return onnx.GraphProto()


def prepare(model: onnx.ModelProto) -> Light:
    """A simpler model with the same meaning for one sample; the argument is not changed."""
    return simplify(complete(model))


def simplify(light: Light) -> Light:
    """Constants folded, dead nodes removed by onnxslim; the model itself if onnxslim cannot cope."""
    model = light.model
    if any(n.op_type in RANDOM_OPERATORS.split() for n in model.graph.node):
        return light  # to be refused, not to be taken for constants
    if any(n.op_type in QUANTIZERS for n in model.graph.node):
        return light  # folding would lose the scales of weights
    try:
        slim = onnx.load_model_from_string(isolated.call("slim", as_inputs(light).SerializeToString()))
        without_inputs(slim, light.arrays)
        if not _same_interface(model, slim):
            raise ValueError("the simplified model has other inputs or outputs")
        found = lightened(slim)
        return Light(found.model, light.arrays | found.arrays, light.owners, light.refused)
    except Exception as e:
        _logger.info("onnxslim: %s; importing the model as it is", _first_line(e))
        return light


def _same_interface(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    inputs = {i.name for i in graph_inputs(b.graph)} <= {i.name for i in graph_inputs(a.graph)}
    return inputs and [o.name for o in a.graph.output] == [o.name for o in b.graph.output]
