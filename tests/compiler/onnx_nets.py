"""ONNX networks of a few nodes, and the comparison of our import with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.importer import import_model
from sateen.ir.graph import Graph

IR_VERSION = {9: 4, 11: 6, 13: 7, 17: 8, 21: 10}
RUNTIME_OPSET = 24
"""The newest opset that onnxruntime of the lock file runs."""


class Net:
    """Nodes one after another; each call returns the name of its (first) output."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, *shape: int | str, name: str = "x", kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def random(self, *shape: int, low: float | None = None, scale: float = 0.5) -> str:
        """A float constant, normal around 0, or uniform in [low, low + 1]."""
        values = self.rng.normal(0, scale, shape) if low is None else self.rng.uniform(low, low + 1, shape)
        return self.constant(values.astype(np.float32))

    def constant(self, values: object, dtype: object = None) -> str:
        name = f"w{len(self.initializers)}"
        array = np.asarray(values, dtype)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def __call__(
        self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: object
    ) -> str:
        n = len(self.nodes)
        names = [f"{op.lower()}{n}" + (f"_{k}" if k else "") for k in range(outputs)]
        self.nodes.append(
            helper.make_node(op, list(inputs), names, name=f"{op}{n}", domain=domain, **attributes)
        )
        return names[0]

    def conv(
        self, x: str, channels: int, outputs: int, *kernel: int, group: int = 1, **attributes: object
    ) -> str:
        weight = self.random(outputs, channels // group, *kernel)
        return self("Conv", x, weight, self.random(outputs), group=group, **attributes)

    def output(self, *names: str) -> Net:
        self.outputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]
        return self

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.initializers)
        ir = max((v for k, v in IR_VERSION.items() if k <= self.opset), default=3)
        domains = sorted({n.domain for n in self.nodes if n.domain})
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def samples(
    model: onnx.ModelProto, seed: int = 1, low: float | None = None, batch: int = 2
) -> dict[str, np.ndarray]:
    """Random inputs: `batch` samples, or as many as the model fixes."""
    rng = np.random.default_rng(seed)
    constant = {t.name for t in model.graph.initializer}
    out = {}
    for info in model.graph.input:
        if info.name not in constant:
            dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
            shape = (dims[0] or batch, *dims[1:]) if dims else ()
            x = rng.normal(0, 1, shape) if low is None else rng.uniform(low, low + 2, shape)
            kind = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            out[info.name] = np.asarray(x * 50 if np.issubdtype(kind, np.integer) else x).astype(kind)
    return out


def runtime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime says, without its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def compare(net: Net | onnx.ModelProto, low: float | None = None, tolerance: float = 1e-4) -> Graph:
    """Import, run both, assert equal shapes and values; the model must come out unchanged."""
    model = net.model() if isinstance(net, Net) else net
    before = model.SerializeToString(deterministic=True)
    graph = import_model(model)
    assert model.SerializeToString(deterministic=True) == before
    feeds = samples(model, low=low)
    want = runtime(model, feeds)
    ports = {p.source: p.shape for p in graph.inputs}  # all of an input may be one sample
    given = {k: x[None] if x.shape == ports.get(k) else x for k, x in feeds.items()}
    got = float_outputs(graph, run_float(graph, given))
    assert list(got) == list(want)
    for name, y in want.items():
        if got[name].shape == (1, *y.shape):  # an output without a batch has its one sample in front
            y = y[None]
        assert got[name].shape == y.shape, (name, got[name].shape, y.shape)
        np.testing.assert_allclose(got[name], y, rtol=tolerance, atol=tolerance, err_msg=name)
    return graph


def kinds(graph: Graph) -> Sequence[str]:
    """Types of the nodes, in order."""
    return [type(n).__name__ for n in graph.nodes]
