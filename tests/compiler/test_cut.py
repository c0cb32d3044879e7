"""Files of which only a part is supported: where they can be cut, and what the host makes of the rest."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sateen
from sateen.cli.main import main
from sateen.compiler.check import fixed_model, supported_until
from sateen.compiler.importer import cut, frontier, load_model
from sateen.errors import DataError, ModelError

RNG = np.random.default_rng(0)


def save(path, nodes, inputs, outputs, constants):
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Boxes and scores of 16 places, from which NonMaxSuppression chooses."""
    weights = {
        n: RNG.normal(0, 0.3, s).astype(np.float32)
        for n, s in (("w0", (8, 3, 3, 3)), ("wb", (4, 8, 1, 1)), ("ws", (2, 8, 1, 1)))
    }
    sizes = {"sb": np.array([1, 4, 16]), "ss": np.array([1, 2, 16]), "most": np.array([1])}
    limits = {"iou": np.array([0.5], np.float32), "least": np.array([-1e9], np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"], "stem", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "wb"], ["raw_boxes"], "boxes"),
        helper.make_node("Conv", ["b", "ws"], ["raw_scores"], "scores"),
        helper.make_node("Reshape", ["raw_boxes", "sb"], ["flat"], "flat"),
        helper.make_node("Transpose", ["flat"], ["boxes_16"], "turn", perm=[0, 2, 1]),
        helper.make_node("Reshape", ["raw_scores", "ss"], ["scores_16"], "rs"),
        helper.make_node(
            "NonMaxSuppression", ["boxes_16", "scores_16", "most", "iou", "least"], ["selected"], "nms"
        ),
    ]
    ports = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ("N", 3, 8, 8)),
        helper.make_tensor_value_info("selected", TensorProto.INT64, ("k", 3)),
        helper.make_tensor_value_info("scores_16", TensorProto.FLOAT, (1, 2, 16)),
    ]
    path = tmp_path_factory.mktemp("detector") / "detector.onnx"
    return save(path, nodes, ports[:1], ports[1:], weights | sizes | limits)


def test_what_can_be_computed_ends_at_two_tensors(detector):
    findings = sateen.check(detector)
    assert frontier(load_model(detector), findings) == ["boxes_16", "scores_16"]
    assert supported_until(detector, findings) == ["boxes_16", "scores_16"]
    assert all(f.supported for f in sateen.check(detector, until=("boxes_16", "scores_16")))
    assert supported_until(detector, sateen.check(detector, until=["flat"]), until=["flat"]) == []


def test_the_message_has_the_command(detector, capsys):
    assert main(["check", str(detector), "--shape", "image=1,3,8,8"]) == 2
    command = capsys.readouterr().err.splitlines()[-1].partition("the host: sateen ")[2].split()
    assert command[-4:] == ["--until", "boxes_16", "--until", "scores_16"]
    assert main(command) == 0


@pytest.fixture(scope="module")
def build(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    images = {"image": RNG.normal(0, 1, (16, 3, 8, 8)).astype(np.float32)}
    sateen.compile(
        detector, folder / "build", calibration=images, preset="tiny", until=["boxes_16", "scores_16"]
    )
    return folder / "build", images


@pytest.mark.parametrize("engine", ["float", "program"])
def test_the_host_does_the_rest(build, detector, engine):
    """In float the outputs are those of ONNX Runtime on the whole file; in codes, those on the tensors at the cut."""
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, images = build
    at_cut = sateen.run(folder, images, engine).outputs
    assert {n: y.shape for n, y in at_cut.items()} == {"boxes_16": (16, 16, 4), "scores_16": (16, 2, 16)}
    found = sateen.run(folder, images, engine, host=True).outputs
    assert list(found) == ["selected", "scores_16"] and found["selected"].shape == (16, 2, 3)
    assert (found["scores_16"] == at_cut["scores_16"]).all()
    if engine == "float":
        session = onnxruntime.InferenceSession(detector)
        whole = [session.run(["selected"], {"image": x[None]})[0] for x in images["image"]]
        assert (found["selected"] == np.stack(whole)).all()
    else:  # of one class each, at most one place: that of its highest score
        assert (found["selected"][:, :, 2] == at_cut["scores_16"].argmax(-1)).all()


def test_stages_cut_as_compile_does(build, detector, tmp_path):
    folder, images = build
    network = sateen.load(detector, until=["boxes_16", "scores_16"])
    network.quantize(calibration=images).map("tiny").write(tmp_path / "staged")
    for path in folder.iterdir():
        if path.name not in ("times.json", "accuracy.json"):
            assert path.read_bytes() == (tmp_path / "staged" / path.name).read_bytes(), path.name


def test_what_is_refused(build, detector, tmp_path, capsys):
    with pytest.raises(ModelError, match=r"--until 'Boxes': no node .*tensors like it: raw_boxes, boxes_16"):
        sateen.check(detector, until=["Boxes"])
    images = {"image": build[1]["image"]}
    sateen.compile(detector, tmp_path / "b", calibration=images, preset="tiny", until=["scores_16"])
    assert (
        main(["run", str(tmp_path / "b"), "--inputs", "random", "--host"]) == 0
    )  # boxes are computed by the host
    with pytest.raises(DataError, match="nothing is left to the host"):
        sateen.compile(fixed_file(detector, tmp_path), tmp_path / "c", calibration=images, preset="tiny")
        sateen.run(tmp_path / "c", images, host=True)
    with pytest.raises(ModelError, match=r"as it is imported, .*NonMaxSuppression.*; it is not written"):
        fixed_model(detector)


def fixed_file(detector, folder):
    path = folder / "fixed.onnx"
    assert main(["check", str(detector), "--until", "scores_16", "--fix", str(path)]) == 0
    return path


def test_a_fixed_file_is_the_same_network(detector, tmp_path):
    path = fixed_file(detector, tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 8, 8]
    x = {"image": RNG.normal(0, 1, (2, 3, 8, 8)).astype(np.float32)}
    expected = sateen.load(detector, until=["scores_16"]).run(x)["scores_16"]
    assert (sateen.load(path).run(x)["scores_16"] == expected).all()


def test_what_a_loop_reads_stays(tmp_path):
    """Tensors that only a branch of If reads are inputs of the tail, too."""
    inner = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["z"])],
        "then",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("ReduceMax", ["a"], ["m"], "max", keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], "cast", to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], "if", then_branch=inner, else_branch=inner),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 4)) for n in ("x", "y")]
    model = load_model(save(tmp_path / "if.onnx", nodes, ports[:1], ports[1:], {}))
    parts = cut(model, ["a"])
    assert [i.name for i in parts.tail.graph.input] == ["a"] and [
        n.op_type for n in parts.head.graph.node
    ] == ["Relu"]
    assert [n.name for n in parts.tail.graph.node] == ["max", "cast", "if"]
    assert cut(model, ["y"]).tail is None
