"""What is refused, and in which words; files that are no models."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_nets import RUNTIME_OPSET, Net
from test_import_quantized import Qdq

import sateen
from sateen.compiler.check import check_model
from sateen.compiler.importer import import_model, load_model
from sateen.errors import DataError, ModelError


def good() -> Net:
    net = Net()
    y = net("Relu", net.conv(net.input("N", 3, 6, 6), 3, 4, 3, 3))
    return net.output(net("Gemm", net("Flatten", y), net.random(64, 2)))


def refused(net: Net, *words: str) -> str:
    """Import fails in one line that holds all words; `check` says the same of the same node."""
    with pytest.raises(ModelError) as error:
        import_model(net.model())
    message = str(error.value)
    assert "\n" not in message
    problems = [f for f in check_model(net.model()) if f.supported is False]
    for word in words:
        assert any(re.search(word, text) for text in (message, *map(str, problems))), message
    assert problems and all(f.reason and f.remedy for f in problems)
    assert message.startswith(str(problems[0])) or any(message.startswith(str(p)) for p in problems)
    return message


# -- files ----------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="not a file"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"not a model", b"PK\x03\x04" + bytes(100), bytes(range(256)) * 9]
)
def test_other_files(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for function in (load_model, import_model, check_model):
        with pytest.raises(ModelError, match=f"{re.escape(str(path))}.*not (an|valid) ONNX") as error:
            function(path)
        assert "\n" not in str(error.value)


def test_every_truncation_is_an_error_of_one_line(tmp_path):
    data = good().model().SerializeToString()
    path = tmp_path / "m.onnx"
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(ModelError) as error:
            import_model(path)
        assert "\n" not in str(error.value)


def test_damaged_files(tmp_path):
    """Any byte may change: the file still imports or gives one line."""
    data = good().model().SerializeToString()
    rng = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        for function in (import_model, check_model):
            try:
                function(path)
            except ModelError as e:
                assert "\n" not in str(e)


def test_external_data(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(good().model(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    import_model(path)
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelError, match=r"external data.*beside the model"):
        import_model(path)
    with pytest.raises(ModelError, match="in another file"):
        import_model(onnx.load(path, load_external_data=False))


@pytest.mark.parametrize(
    ("opset", "words"),
    [
        (
            99,
            r"opset 99 is newer than \d+, the newest of the onnx package here; export it for opset \d+ or older",
        ),
        (None, r"does not say which version of ONNX's operators.*model.opset_import.append"),
    ],
)
def test_opset(opset, words):
    net = good()
    net.opset = opset or 17
    model = net.model()
    if not opset:
        model.ClearField("opset_import")
    with pytest.raises(ModelError, match=words):
        import_model(model)


@pytest.mark.parametrize("domain", ["qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"])
def test_quantizers_without_a_version_of_their_domain(domain):
    net = Net()
    arguments = [net.constant(v, np.float32) for v in (0.5, 0, 4)]
    net.output(net("Quant", net.input(1, 4), *arguments, domain=domain))
    model = net.model()
    del model.opset_import[1:]
    assert all(f.supported for f in check_model(model))


def test_files_that_name_the_default_domain_and_list_no_initializers_as_inputs():
    """As ONNX Runtime's first quantizer wrote them: version 3 of the file format, domain ai.onnx."""
    net = Net(opset=9)
    y = net("Add", net.conv(net.input(1, 3, 6, 6), 3, 4, 3, 3), net("Neg", net.constant([1.5], np.float32)))
    model = net.output(y).model()
    model.ir_version = 3
    model.opset_import[0].domain = "ai.onnx"
    assert all(f.supported for f in check_model(model))


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (("QuantizeLinear", "DequantizeLinear", "Relu"), "it is not the last node"),
        (("Relu",), "it is not the last node"),
    ],
)
def test_what_follows_a_hardmax(after, words):
    net = Net()
    x = net("Hardmax", net.conv(net.input(1, 3, 4, 4), 3, 3, 1, 1), axis=1)
    arguments = net.constant(0.1, np.float32), net.constant(0, np.int8)
    for operator in after:
        x = net(operator, x, *(() if operator == "Relu" else arguments))
    softmax = next(f for f in check_model(net.output(x).model()) if f.op_type == "Hardmax")
    assert not softmax.supported
    assert re.search(words, softmax.reason)


def test_model_that_breaks_the_rules():
    net = good()
    net.nodes[0].input[0] = "nothing"
    with pytest.raises(ModelError, match="not valid ONNX"):
        import_model(net.model())


# -- models ---------------------------------------------------------------------------------------------------


def test_check_lists_every_node_and_all_problems():
    net = Net()
    x = net.input("N", 3, 8, 8)
    y = net.conv(x, 3, 4, 3, 3)
    y = net("Hardmax", y, axis=1)
    y = net("Relu", y)
    y = net("GridSample", y, net.random(1, 3, 3, 2))
    y = net("Conv", y, net.constant(np.full((2, 4, 1, 1), np.nan), np.float32))
    net.output(net("Flatten", y))
    findings = check_model(net.model())
    assert [f.node for f in findings] == ["Conv0", "Hardmax1", "Relu2", "GridSample3", "Conv4", "Flatten5"]
    assert [f.supported for f in findings] == [True, False, True, False, False, True]
    assert all(f.reason for f in findings) and all(f.remedy for f in findings if not f.supported)
    with pytest.raises(
        ModelError, match=r"^Hardmax 'Hardmax1': .*\(and 2 more: `sateen check` lists them\)$"
    ):
        import_model(net.model())


def test_check_of_a_good_model_names_folded_and_unnamed_nodes():
    net = good()
    net.nodes.insert(0, helper.make_node("Identity", [net.initializers[0].name], ["copy"]))
    net.nodes[1].input[1] = "copy"
    findings = check_model(net.model())
    assert [(f.node, f.supported) for f in findings] == [
        ("Identity_0", True), ("Conv0", True), ("Relu1", True), ("Flatten2", True), ("Gemm3", True),
    ]  # fmt: skip
    assert "removed before import" in findings[0].reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value):
    net = Net()
    w = np.zeros((4, 3, 2, 2), np.float32)
    w[1, 2, 0, 1] = value
    y = net("Conv", net.input("N", 3, 5, 5), net.constant(w))
    refused(net.output(y), "^Conv 'Conv0': tensor 'w0' holds (nan|inf|-inf) at index", r"\[1, 2, 0, 1\]")


@pytest.mark.parametrize("shape", [("N", 3, "height", 8), ("N", "channels", 8, 8), ("N", 3, 8, -1)])
def test_dynamic_dimensions(shape):
    net = Net()
    y = net("Relu", net.input(*shape))
    name = next((d for d in shape[1:] if isinstance(d, str)), "unknown")
    refused(net.output(y), "^graph input 'x': dimension", name, r"--shape x=1,")


@pytest.mark.parametrize("shape", [("N", 3, 8, 0), (1, 0, 8, 8), (0, 3, 8, 8), (1, 0)])
def test_a_dimension_of_0_is_called_so(shape):
    net = Net()
    words = f"^graph input 'x': dimension {shape.index(0)} is 0, so that it holds nothing"
    refused(net.output(net("Relu", net.input(*shape))), words)


@pytest.mark.parametrize("shape", [(0, 3, 1, 1), (4, 0, 1, 1)])
def test_weights_that_hold_nothing(shape):
    net = Net()
    weight = net.constant(np.zeros(shape), np.float32)
    refused(net.output(net("Conv", net.input("N", 3, 4, 4), weight)), "^Conv 'Conv0': .*")


def test_input_types_and_shapes():
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    with pytest.raises(ModelError):
        import_model(net.output(net("Relu", "x")).model())
    net = Net()
    refused(net.output(net("Abs", net.input("N", 4, kind=TensorProto.INT32))), "graph input 'x'", "int32")


REFUSED = {
    "Conv3d": (lambda n: n.conv(n.input("N", 3, 4, 4, 4), 3, 2, 2, 2, 2), "3-D convolution"),
    "computed weights": (
        lambda n: n("Conv", n.input("N", 3, 4, 4), n.input(2, 3, 1, 1, name="w")),
        "input 1 'w' is not constant",
    ),
    "two batches": (
        lambda n: n("MatMul", n.input("N", 2, 4, 4), n.conv(n.input("N", 3, 4, 4, name="y"), 3, 3, 1, 1)),
        r"it multiplies \(1, 2, 4, 4\) by \(1, 3, 4, 4\); give both factors the same batch",
    ),
    "along the batch": (lambda n: n("MatMul", n.input("N", 4), n.input(4, 3, name="y")), "along the batch"),
    "gate": (
        lambda n: n("Mul", n.input("N", 3, 4, 4), n("Sigmoid", n.input("N", 2, 4, 4, name="y"))),
        r"\(1, 3, 4, 4\) and \(1, 2, 4, 4\)",
    ),
    "unlike": (lambda n: n("Add", n.input("N", 3, 2, 2), n.random(3, 4, 4)), "broadcast"),
    "division by zero": (
        lambda n: n("Div", n.input("N", 3), n.constant([1, 0, 2], np.float32)),
        r"divisor is 0 at index \[1\]",
    ),
    "indices": (
        lambda n: n("MaxPool", n.input("N", 3, 4, 4), kernel_shape=[2, 2], outputs=2) and n("Cast", "maxpool0_1", to=1),
        "Indices",
    ),
    "pool3d": (lambda n: n("MaxPool", n.input("N", 3, 4, 4, 4), kernel_shape=[2, 2, 2]), "3-D pooling"),
    "crop": (
        lambda n: n("Pad", n.input("N", 3, 4, 4), n.constant([0, 0, -1, 0, 0, 0, 0, 0], np.int64)),
        "cut away",
    ),
    "softmax inside": (
        lambda n: n("Relu", n("Hardmax", n.input("N", 5))),
        "Hardmax 'Hardmax0': it is not the last node",
    ),
    "batch mean": (lambda n: n("ReduceMean", n.input("N", 3, 4, 4), axes=[0]), "over the batch"),
    "integers": (lambda n: n("Cast", n("Relu", n.input("N", 3)), to=TensorProto.INT64), "int64"),
    "training": (
        lambda n: n("BatchNormalization", n.input("N", 3, 4, 4), *(n.random(3, low=0.5) for _ in range(4)),
                    training_mode=1, outputs=3),
        "training mode",
    ),
    "quantized by the sample": (
        lambda n: n("DynamicQuantizeLinear", n.input("N", 3), outputs=3),
        "scale differs from sample to sample",
    ),
    "gates": (
        lambda n: n("LSTM", n.input(4, 1, 3), n.random(1, 8, 3), n.random(1, 8, 2), hidden_size=2, input_forget=1),
        "input_forget",
    ),
    "domain": (lambda n: n("FusedConv", n.input("N", 3), domain="com.example"), "domain 'com.example'"),
    "cut across samples": (
        lambda n: n("Reshape", n.conv(n.input(4, 3, 4, 5), 3, 6, 1, 1), n.constant([6, 4, 4, 5], np.int64)),
        "which moves data",
    ),
    "random": (lambda n: n("Add", n.input("N", 3), n("RandomNormal", shape=[3])), "random numbers"),
    "video": (lambda n: n("Relu", n.input("N", 2, 3, 4, 5)), "more than three dimensions"),
    "batch moved": (lambda n: n("Relu", n("Reshape", n.input("N", 4), n.constant([4, 1], np.int64))), "batch"),
    "constant output": (lambda n: n("Identity", n.random(1, 3)), "does not depend on an input"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    build, words = REFUSED[case]
    net = Net(17)
    net.output(build(net))
    if case == "domain":
        model = net.model()
        model.opset_import.append(helper.make_opsetid("com.example", 1))
        with pytest.raises(ModelError, match=words):
            import_model(model)
    else:
        refused(net, words)


def test_control_flow():
    net = Net()
    x = net.input("N", 3)
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "b",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    c = net.input(1, name="c", kind=TensorProto.BOOL)
    net.output(net("If", c, then_branch=branch, else_branch=branch))
    assert x == "x"
    refused(net, "If 'If0': control flow|bool")


def test_a_model_that_onnxslim_breaks_on_is_imported_as_it_is(monkeypatch):
    import onnxslim

    def broken(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(onnxslim, "slim", broken)
    graph = import_model(good().model())
    assert len(graph.nodes) == 3


def test_newest_opset_is_accepted():
    net = good()
    net.opset = onnx.defs.onnx_opset_version()
    assert net.opset >= RUNTIME_OPSET
    import_model(net.model())


# -- what the simplifier would erase, and what is found only behind it ------------------------------------------


@pytest.mark.parametrize("how", ["initializer", "Constant", "Identity", "input"])
def test_dropout_in_training_mode(how):
    net = Net()
    y = net.conv(net.input("N", 3, 6, 6), 3, 4, 3, 3)
    if how == "Constant":
        mode = net("Constant", value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    elif how == "input":
        mode = net.input(name="mode", kind=TensorProto.BOOL)
    else:
        mode = net.constant(True)
        mode = net("Identity", mode) if how == "Identity" else mode
    y = net("Dropout", y, net.constant(0.5, np.float32), mode)
    refused(net.output(net("Relu", y)), r"^Dropout 'Dropout\d': it(s training_mode| is in training mode)")


def test_dropout_for_inference_and_its_mask():
    net = Net()
    y = net.conv(net.input("N", 3, 6, 6), 3, 4, 3, 3)
    y = net("Dropout", y, net.constant(0.5, np.float32), net.constant(False))
    import_model(net.output(y).model())
    net("Cast", net("Dropout", y, outputs=2) + "_1", to=TensorProto.FLOAT)
    refused(net.output("cast3"), "the mask")


def test_nodes_behind_a_refused_one():
    """Checked as far as shapes allow, and never called supported where they are not."""
    net = Net()
    x = net.conv(net.input("N", 3, 8, 8), 3, 4, 1, 1)
    y = net("Hardmax", x, axis=1)
    net.output(net.conv(y, 4, 4, 3, 3))
    net.output(net("Relu", net("Mul", y, net.random(1, 4, 1, 1))))
    net.output(net("Add", y, x), net("Concat", y, y, axis=1), net("Mul", y, net("Sigmoid", x)))
    net.output(net("Slice", y, *(net.constant([v], np.int64) for v in (0, 2, 1))))
    found = {f.node: f.supported for f in check_model(net.model())}
    assert found == {
        "Conv0": True, "Hardmax1": False, "Conv2": True, "Mul3": None, "Relu4": True, "Add5": None, "Concat6": None,
        "Sigmoid7": True, "Mul8": None, "Slice9": None,
    }  # fmt: skip


def test_quantizers_are_not_checked_before_the_whole_graph_is():
    net = Net()
    scale, zero = net.constant(0.1, np.float32), net.constant(0, np.int8)
    y = net("DequantizeLinear", net("QuantizeLinear", net.input("N", 3, 4, 4), scale, zero), scale, zero)
    model = net.output(net("GridSample", y, net.random(1, 3, 3, 2))).model()
    assert [f.supported for f in check_model(model)] == [None, None, False]
    assert [f.state for f in check_model(model)] == ["not checked", "not checked", "not supported"]


def test_inputs_of_different_batches():
    net = Net()
    y = net("Add", net.input(1, 3, 4, 4), net.input(2, 3, 4, 4, name="y"))
    refused(net.output(y), "^graph input 'y': its dimension 0 is 2, and that of the input before it 1")


# -- interfaces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, kind", [((1, 2), TensorProto.FLOAT), (("N", "length"), TensorProto.INT64), ((), TensorProto.BOOL)]
)
def test_an_input_that_nothing_uses(shape, kind):
    net = good()
    net.input(*shape, name="spare", kind=kind)
    assert all(f.supported for f in check_model(net.model()))
    graph = import_model(net.model())
    assert [p.name for p in graph.inputs] == ["x"]
    assert graph.unused == {"spare": tuple(s if isinstance(s, int) else None for s in shape[1:])}


def test_an_input_that_only_dead_nodes_use():
    net = good()
    net("Relu", net.input("N", 3, name="spare"))
    assert import_model(net.model()).unused == {"spare": (3,)}


def test_an_output_listed_twice_is_one():
    net = good()
    net.output(net.outputs[0].name)
    assert len(import_model(net.model()).outputs) == 1


def test_an_input_that_is_an_output():
    net = good()
    refused(net.output("x"), "^graph output 'x': it is the graph's input itself")


def test_a_sign_of_what_the_file_does_not_round():
    """`compile` refuses it once samples are there; `check` says so before."""
    net = Net()
    one = net.constant(1.0, np.float32)
    x = net.input("N", 4)
    y = net("Add", net("MatMul", x, net.random(4, 4)), net("MatMul", x, net.random(4, 4)))
    y = net("BipolarQuant", y, one, domain="qonnx.custom_op.general")
    weight = net("BipolarQuant", net.random(4, 2), one, domain="qonnx.custom_op.general")
    findings = check_model(net.output(net("Gemm", y, weight)).model())
    assert [f.node for f in findings if f.supported is False] == ["BipolarQuant3"]
    assert findings[3].reason.startswith("it takes the sign of 'add2'")
    assert findings[3].remedy == "put a Quant before it"


@pytest.mark.parametrize("first", ["Pad", "MaxPool"])
def test_check_says_what_compiling_needs_samples_for(first, tmp_path):
    """Behind a Pad whose zeros an operation changes the input is calibrated; `compile` refuses for what is named."""
    net = Qdq(opset=17)
    x = net.input(1, 3, 6, 6)
    if first == "Pad":
        x = net("Pad", x, net.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    else:
        x = net("MaxPool", x, kernel_shape=[3, 3])
    x = net.qdq(net("Sub", x, net.constant(0.25, np.float32)), 2**-6)
    model = net.output(net.qdq(net.qconv(x, 2**-6, 3, 4, 1, 1), 2**-4)).model()
    findings = check_model(model)
    assert all(f.supported for f in findings)
    named = [t for f in findings for t in f.calibrated]
    onnx.save(model, tmp_path / "m.onnx")
    if first == "MaxPool":
        assert not named
        sateen.compile(tmp_path / "m.onnx", tmp_path / "b")
        return
    assert named == ["x"]
    assert "the file does not round 'x': compile needs --calibration" in next(
        f.reason for f in findings if f.calibrated
    )
    with pytest.raises(DataError, match=r"the model says of 'x' not how it is rounded; give --calibration"):
        sateen.compile(tmp_path / "m.onnx", tmp_path / "b")
    sateen.compile(tmp_path / "m.onnx", tmp_path / "b", calibration={"x": np.ones((1, 3, 6, 6), np.float32)})


def test_check_names_every_tensor_that_a_quantized_file_leaves_open():
    net = Qdq(opset=17)
    y = net.conv(net.qdq(net.input(1, 3, 6, 6), 2**-6), 3, 4, 1, 1)
    y = net("Sigmoid", net.conv(y, 4, 4, 1, 1))
    findings = check_model(net.output(net("Tanh", net.qdq(y, 2**-7))).model())
    found = {f.node: f.calibrated for f in findings if f.calibrated}
    assert len(found) == 3 and all(f.supported for f in findings)
    assert [f.op_type for f in findings if f.calibrated] == ["Conv", "Conv", "Tanh"]


def test_a_float_file_is_calibrated_as_a_whole():
    assert not [f for f in check_model(good().model()) if f.calibrated]
