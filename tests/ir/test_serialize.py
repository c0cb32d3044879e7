"""The quantized graph's file: exact, reproducible, and clear about damage."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sateen.errors import BuildError
from sateen.formats import parse_format
from sateen.ir.ports import HostOp, Output, Port
from sateen.ir.quantized import Concat, Constant, Linear, MaxPool, Quant, QuantizedGraph, Residual, Tensor
from sateen.ir.serialize import from_bytes, load, to_bytes


def example() -> QuantizedGraph:
    """Every class of the file, and integers and reals at their limits."""
    fmt = parse_format("e5m2")
    quant = Quant(fmt, 0.1)
    port = Port("x", (3, 4, 4), (3, 4, 4), (1, 2, 0))
    rng = np.random.default_rng(0)
    linear = Linear(
        "conv/ä",
        "x",
        "y",
        Constant(
            rng.integers(0, 256, (3, 1, 1, 3)).astype(np.uint8),
            parse_format("int8n"),
            np.array([0.1, 1e-30, np.pi]),
        ),
        np.array([1 << 90, -(1 << 70), 3], object),
        np.array([1, 2, 65535]),
        np.array([3, 127, 5]),
        quant,
        fmt.min_fixed,
        fmt.max_fixed,
        residual=Residual("x", 7, 3),
        table=fmt.encode(np.linspace(-2, 2, 256)),
        source=("a", "b"),
    )
    pool = MaxPool("pool", "y", "p", (2, 2), (2, 2))
    concat = Concat("cat", ("p", "p"), "z")
    shapes = {"y": (4, 4, 3), "x": (4, 4, 3), "p": (2, 2, 3), "z": (2, 2, 6)}
    tensors = {n: Tensor(n, shape, quant) for n, shape in shapes.items()}
    out = Output(Port("out", (6, 2, 2), (6, 2, 2), (1, 2, 0)), "z", (HostOp("softmax", -1),))
    metadata = {"formats": ["e5m2"], "none": None, "flag": True, "scale": 0.1, "count": 3}
    return QuantizedGraph("net", (port,), (out,), (linear, pool, concat), tensors, metadata)


def same(a, b) -> bool:
    if dataclasses.is_dataclass(a) and hasattr(a, "__slots__"):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
        )
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_round_trip_is_exact():
    graph = example()
    found = from_bytes(to_bytes(graph))
    assert same(graph, found)
    assert not same(graph, dataclasses.replace(found, name="other"))
    assert all(type(b) is int for b in found.ops[0].bias)
    assert found.ops[0].weight.format is graph.ops[0].weight.format


def test_weights_lie_flat_in_the_file():
    """As version 1 has them, and arrays in their order there."""
    with zipfile.ZipFile(io.BytesIO(to_bytes(example()))) as z:
        text = z.read("graph.json").decode()
        fields = json.loads(text)["graph"]["fields"]["ops"]["$tuple"][0]["fields"]
    arrays = ("weight", "multiplier", "shift", "table", "weight_scale")
    assert [fields[name]["$array"] for name in arrays] == [0, 1, 2, 3, 4]
    assert (
        fields["weight_format"] == {"$format": "int8n"} and fields["sparsity"]["$class"] == "SparsityPattern"
    )
    assert "Constant" not in text


def test_files_are_the_same_byte_for_byte(tmp_path):
    assert to_bytes(example()) == to_bytes(example())
    (tmp_path / "a").write_bytes(to_bytes(example()))
    assert same(load(tmp_path / "a"), example())


def test_missing(tmp_path):
    with pytest.raises(BuildError, match=r"nothing: cannot be read \(No such file"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "other zip", "version"])
def test_damage(tmp_path, damage):
    data = to_bytes(example())
    data = {
        "empty": b"",
        "text": b"hello",
        "truncated": data[: len(data) // 2],
        "other zip": b"PK\x05\x06" + bytes(18),
        "version": data.replace(b'"version": 1', b'"version": 9'),
    }[damage]
    path = tmp_path / "graph"
    path.write_bytes(data)
    with pytest.raises(BuildError, match="compile the model again") as e:
        load(path)
    assert "\n" not in str(e.value)


def test_real_networks(tmp_path):
    sys.path.append(str(Path(__file__).parents[1] / "compiler"))
    from networks import everything, run_slowly

    from sateen.compiler.quantize.calibrate import calibrate
    from sateen.compiler.quantize.network import quantize

    graph, b = everything()
    statistics = calibrate(graph, b.samples(), run=run_slowly)
    for formats in (("int8", "uint8"), ("e5m2", "e5m2")):
        qgraph = quantize(graph, statistics, weight_format=formats[0], activation_format=formats[1])
        assert same(qgraph, from_bytes(to_bytes(qgraph)))
