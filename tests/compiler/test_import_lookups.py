"""Integer inputs that choose rows of a table: looked up by the host, in all that follows as in ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from onnx_nets import Net

from sateen.compiler.export.compare import compare_with_onnxruntime
from sateen.compiler.export.model import export_onnx
from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.importer import check_model, import_model
from sateen.compiler.quantize import calibrate, quantize
from sateen.errors import DataError, ModelError
from sateen.sim.reference import run_reference

WORDS = 20


def text(kind: int = TensorProto.INT64, *, positions: bool = True) -> Net:
    """Rows of one table, plus rows of another by the same input, plus one for each place."""
    net = Net()
    ids = net.input("N", 6, name="ids", kind=kind)
    wide = net("Cast", ids, to=TensorProto.INT64)
    y = net("Gather", net.random(WORDS, 8), wide)
    if positions:
        y = net("Add", y, net("Gather", net.random(WORDS, 8), ids))
        y = net("Add", y, net.random(1, 6, 8))
    y = net("Relu", net("MatMul", y, net.random(8, 5)))
    return net.output(net("ReduceMean", y, axes=[1], keepdims=0))


def ids(n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(-WORDS, WORDS, (n, 6))


def agree(net: Net, feeds: dict[str, np.ndarray]) -> None:
    model = net.model()
    graph = import_model(model)
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    (got,) = float_outputs(graph, run_float(graph, feeds)).values()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
@pytest.mark.parametrize("positions", [False, True])
def test_rows(kind, positions):
    dtype = np.int64 if kind == TensorProto.INT64 else np.int32
    net = text(kind, positions=positions)
    agree(net, {"ids": ids().astype(dtype)})
    graph = import_model(net.model())
    assert {p.source for p in graph.inputs} == {"ids"} and len(graph.inputs) == 1 + positions
    assert all(f.supported for f in check_model(net.model()))


def test_one_of_many():
    net = Net()
    x = net.input("N", 6, name="ids", kind=TensorProto.INT64)
    hot = net("OneHot", x, net.constant(WORDS, np.int64), net.constant([0, 1], np.float32))
    agree(net.output(net("MatMul", hot, net.random(WORDS, 4))), {"ids": np.abs(ids()) % WORDS})


def test_quantized_and_exported():
    graph = import_model(text().model())
    x = {"ids": ids(16)}
    quantized = quantize(
        graph, calibrate(graph, x), weight_format="int8", activation_format="int8", power_of_two=True
    )
    (y,) = run_reference(quantized, x).values()
    (real,) = float_outputs(graph, run_float(graph, x)).values()
    assert np.corrcoef(y.ravel(), real.ravel())[0, 1] > 0.99
    assert [(i.name, i.type.tensor_type.elem_type) for i in export_onnx(quantized).graph.input] == [
        ("ids", TensorProto.INT64)
    ]
    found = compare_with_onnxruntime(quantized, x)
    assert found["codes"] > 0 and found["differing"] == 0 and found["skipped"] == ""


@pytest.mark.parametrize("wrong", [WORDS, -WORDS - 1, 0.5])
def test_an_index_that_is_none(wrong):
    graph = import_model(text().model())
    x = {"ids": ids()}
    quantized = quantize(graph, calibrate(graph, x), weight_format="int8", activation_format="int8")
    bad = x["ids"].astype(np.float64)
    bad[1, 2] = wrong
    with pytest.raises(
        DataError, match=f"input 'ids': it holds {wrong}.* table of {WORDS}: give integers from 0 to 19"
    ):
        run_reference(quantized, {"ids": bad})


def test_integers_that_are_used_elsewhere_are_refused():
    net = text()
    net.output(net("Cast", net("Add", "ids", net.constant(1, np.int64)), to=TensorProto.FLOAT))
    with pytest.raises(ModelError, match="input 'ids': its type is int64"):
        import_model(net.model())
