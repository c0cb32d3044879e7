"""Constants in files beside the model: links, damaged tables, files cut short, and models too large for one file."""

import os
import struct

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sateen.compiler.importer import external
from sateen.compiler.importer.loading import load_model
from sateen.errors import ModelError

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def saved(tmp_path):
    """m.onnx and m.data in a folder; the weight of one Gemm, and a constant in a node."""
    constant = helper.make_tensor("c", TensorProto.FLOAT, (3,), np.ones(3, np.float32).tobytes(), raw=True)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("Gemm", ["x", "w", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3))],
        [helper.make_tensor("w", TensorProto.FLOAT, (4, 3), WEIGHT.tobytes(), raw=True)],
    )
    folder = tmp_path / "model"
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    options = {"location": "m.data", "size_threshold": 0, "convert_attribute": True}
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, **options)
    return folder


def weight(path):
    (w,) = load_model(path).graph.initializer
    return onnx.numpy_helper.to_array(w)


def entries(folder, **changed):
    """The model with other entries in its table of external data."""
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    (w,) = model.graph.initializer
    table = {e.key: e.value for e in w.external_data} | changed
    del w.external_data[:]
    for key, value in table.items():
        w.external_data.add(key=key, value=value)
    (folder / "m.onnx").write_bytes(model.SerializeToString())


def test_data_beside_the_model(saved):
    assert np.array_equal(weight(saved / "m.onnx"), WEIGHT)
    assert load_model(saved / "m.onnx").graph.node[0].attribute[0].t.raw_data == np.ones(3, "<f4").tobytes()


def test_a_hub_keeps_links(saved, tmp_path):
    """snapshots/1/m.onnx and m.data are links to blobs/HASH; and a link to the model alone."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots/1").mkdir(parents=True)
    for name, blob in (("m.onnx", "0123"), ("m.data", "4567")):
        os.rename(saved / name, tmp_path / "blobs" / blob)
        (tmp_path / "snapshots/1" / name).symlink_to(f"../../blobs/{blob}")
    assert np.array_equal(weight(tmp_path / "snapshots/1/m.onnx"), WEIGHT)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/other.onnx").symlink_to("../snapshots/1/m.onnx")
    with pytest.raises(ModelError, match=r"alone/m\.data cannot be read .*put it beside the model"):
        load_model(tmp_path / "alone/other.onnx")
    for name, blob in (("m.onnx", "0123"), ("m.data", "4567")):
        os.rename(tmp_path / "blobs" / blob, saved / name)
    (tmp_path / "alone/real.onnx").symlink_to(saved / "m.onnx")
    assert np.array_equal(weight(tmp_path / "alone/real.onnx"), WEIGHT)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"location": "none.data"}, "put it beside the model"),
        ({"location": ""}, "must be in a file beside the model"),
        ({"location": "../model/m.data"}, "must be in a file beside the model"),
        ({"location": "/etc/passwd"}, "must be in a file beside the model"),
        ({"location": "."}, "is no file"),
        ({"location": "n" * 300}, "name too long"),
        ({"offset": "1000000"}, "cut short, or another model's"),
        ({"offset": "-8"}, "cut short, or another model's"),
        ({"length": "99999999999999"}, "cut short, or another model's"),
        ({"length": "44"}, r"tensor name: w.* raw_data size \(44 bytes\)"),
        ({"offset": "here"}, "is no number"),
    ],
)
def test_damaged_tables(saved, changed, message):
    from sateen.compiler.importer import import_model

    entries(saved, **changed)
    with pytest.raises(ModelError, match=message):
        import_model(saved / "m.onnx")


def test_a_device_is_not_read(saved):
    (saved / "m.data").unlink()
    (saved / "m.data").symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="is no file"):
        load_model(saved / "m.onnx")


def test_more_data_than_memory(saved, monkeypatch):
    monkeypatch.setattr(external, "available_memory", lambda: 100)
    with pytest.raises(ModelError, match="bytes of external data need about 4 times as much memory"):
        load_model(saved / "m.onnx")


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    """Sparse: it has no data on the disk."""
    with (tmp_path / "m.onnx").open("wb") as f:
        f.write(b"\x08\x08" + b"\x3a\xff\xff\xff\xff\x0f" + struct.pack("<I", 0))
        f.truncate((1 << 31) + 100)
    with pytest.raises(ModelError, match="save_as_external_data=True"):
        load_model(tmp_path / "m.onnx")


def test_an_input_of_a_type_that_there_is_not(saved):
    from sateen.compiler.importer import import_model

    model = onnx.load(saved / "m.onnx")
    model.graph.input[0].type.tensor_type.elem_type = 255
    with pytest.raises(ModelError):
        import_model(model)
