"""Files of arrays: whatever is in one, it is read right or refused in one line, without the memory that it claims."""

import io
import resource
import struct
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sateen.arrays import check_names, load_npz, read_npy, read_npz, save_npz
from sateen.errors import DataError

X = np.arange(64 * 3, dtype=np.float32).reshape(3, 1, 8, 8)


def npy(array, version=(1, 0)):
    data = io.BytesIO()
    np.lib.format.write_array(data, array, version=version)
    return data.getvalue()


def raw(header, data=b"", length=None, version=1):
    size = struct.pack("<H" if version == 1 else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes((version, 0)) + size + header.encode("latin-1") + data


def claim(shape, data=b"", descr="'<f4'", order=False):
    return raw(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n", data)


def archive(*members, compression=zipfile.ZIP_STORED):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as z:
        for name, content in members:
            z.writestr(name, content)
    return bytearray(data.getvalue())


def encrypted():
    data = archive(("input.npy", npy(X)))
    data[6] |= 1
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    return data


def overlapping():
    """All members are the same bytes, as in the bombs that no depth of archives is needed for."""
    data = archive(("input.npy", npy(np.zeros(1 << 16))))
    start = data.rfind(b"PK\x01\x02")
    entry, end = data[start : data.rfind(b"PK\x05\x06")], data[data.rfind(b"PK\x05\x06") :]
    entries = [entry.replace(b"input", f"inp{n:02}".encode()) for n in range(50)]
    end[8:12] = struct.pack("<HH", 50, 50)
    end[12:16] = struct.pack("<I", 50 * len(entry))
    return data[:start] + b"".join(entries) + end


def sized(claimed):
    """A member whose size, and whose array's, is a lie in the archive's table and in the array's header."""
    header = claim(f"({claimed // 4},)")
    data = archive(("input.npy", header), compression=zipfile.ZIP_DEFLATED)
    start = data.rfind(b"PK\x01\x02")
    data[start + 24 : start + 28] = struct.pack("<I", claimed + len(header))
    return data


DAMAGED = {
    "a text beside the array": lambda: archive(("input.npy", npy(X)), ("readme.txt", b"hi")),
    "an empty member": lambda: archive(("input.npy", b"")),
    "a member of one byte": lambda: archive(("input.npy", b"\x93")),
    "a magic and no more": lambda: archive(("input.npy", b"\x93NUMPY")),
    "a header cut short": lambda: archive(("input.npy", npy(X)[:40])),
    "data cut short": lambda: archive(("input.npy", npy(X)[:-1])),
    "data too long": lambda: archive(("input.npy", npy(X) + b"\0")),
    "a version of the future": lambda: archive(("input.npy", npy(X).replace(b"NUMPY\x01", b"NUMPY\x07"))),
    "a shape of 2**64": lambda: archive(("input.npy", claim(f"({1 << 64},)"))),
    "a shape of 2**40": lambda: archive(("input.npy", claim(f"({1 << 40},)"))),
    "a shape that overflows to 0": lambda: archive(("input.npy", claim(f"({1 << 32}, {1 << 32})"))),
    "a negative shape": lambda: archive(("input.npy", claim("(-3, 1, 8, 8)", X.tobytes()))),
    "a shape with a bool": lambda: archive(("input.npy", claim("(True, 1, 8, 8)", X[:1].tobytes()))),
    "a shape with a float": lambda: archive(("input.npy", claim("(3.0, 1, 8, 8)", X.tobytes()))),
    "a shape that is none": lambda: archive(("input.npy", claim("None", X.tobytes()))),
    "100 dimensions": lambda: archive(("input.npy", claim("(" + "1, " * 100 + ")", bytes(4)))),
    "a header of brackets": lambda: archive(("input.npy", raw("(" * 9000))),
    "a header of signs": lambda: archive(("input.npy", raw("-" * 9000 + "1"))),
    "a header of zeros": lambda: archive(("input.npy", raw("\0" * 100))),
    "a header of 4 GB": lambda: archive(("input.npy", raw("", length=(1 << 32) - 1, version=2))),
    "a header of spaces": lambda: archive(
        ("input.npy", raw(" " * (1 << 24), version=2)), compression=zipfile.ZIP_DEFLATED
    ),
    "a header that is code": lambda: archive(("input.npy", raw("__import__('os').abort()"))),
    "an unknown type": lambda: archive(("input.npy", claim("(3,)", bytes(12), "'<q9'"))),
    "a type that is a record": lambda: archive(("input.npy", claim("(3,)", bytes(12), "[('a', '<f4')]"))),
    "a type with objects": lambda: archive(("input.npy", claim("(3,)", bytes(24), "[('a', '|O')]"))),
    "objects": lambda: archive(("input.npy", claim("(3,)", bytes(24), "'|O'"))),
    "times": lambda: archive(("input.npy", npy(np.zeros(3, "M8[s]")))),
    "the same name twice": lambda: archive(("input.npy", npy(X)), ("input", npy(X))),
    "encrypted": encrypted,
    "overlapping parts": overlapping,
    "a size that is a lie": lambda: sized(1 << 30),
    "LZMA": lambda: archive(("input.npy", npy(X)), compression=zipfile.ZIP_LZMA),
    "BZIP2": lambda: archive(("input.npy", npy(X)), compression=zipfile.ZIP_BZIP2),
    "not an archive": lambda: b"PK\x05\x06" + bytes(10),
    "an archive that is empty": lambda: archive(),
}


@pytest.fixture
def little_memory():
    """So that an array that is only claimed cannot be allocated: 1 GiB above what is in use."""
    with open("/proc/self/statm") as f:
        used = int(f.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_archive(tmp_path, little_memory, kind):
    path = tmp_path / "x.npz"
    path.write_bytes(DAMAGED[kind]())
    with pytest.raises(DataError, match=r"labels .*x\.npz: .+") as e:
        load_npz(path, "labels")
    assert "memory" not in str(e.value)


@pytest.mark.parametrize("option", ["--inputs", "--labels", "--calibration"])
def test_wherever_a_file_of_arrays_is_read(sateen, model, build, data, tmp_path, option):
    path = tmp_path / "x.npz"
    path.write_bytes(DAMAGED["a header of brackets"]())
    command = {
        "--inputs": ("run", build, "--inputs", path),
        "--labels": ("run", build, "--inputs", data / "inputs.npz", "--labels", path),
        "--calibration": ("compile", model, "-o", tmp_path / "b", "--calibration", path),
    }[option]
    code, out, err = sateen(*command)
    assert code == 2 and not out and "x.npz: damaged or not an .npz file ('input.npy' has a header" in err


def test_a_bomb(tmp_path):
    """512 MiB of zeros that pack into half a megabyte."""
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z,
        z.open("input.npy", "w", force_zip64=True) as f,
    ):
        f.write(claim(f"({1 << 25}, 1, 4)"))
        for _ in range(1 << 5):
            f.write(bytes(1 << 24))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="unpack to 536,870,9"):
        load_npz(tmp_path / "x.npz", "inputs")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 17  # kilobytes


def test_what_numpy_writes_is_read(tmp_path):
    arrays = {
        "a": X,
        "b": np.asfortranarray(X),
        "c": X.astype(">f8"),
        "d": np.array([[True, False]]),
        "e": X.astype(np.uint8)[:, :, ::2],
        "f": X.astype(np.float16),
        "g": np.arange(3, dtype=np.int64),
    }
    for name, write in (("x", np.savez), ("y", np.savez_compressed)):
        write(tmp_path / name, **arrays)
        found = load_npz(tmp_path / f"{name}.npz", "inputs")
        assert list(found) == list(arrays)
        for k, array in arrays.items():
            assert found[k].dtype == array.dtype and np.array_equal(found[k], array), k
            assert found[k].flags.writeable
    for version in ((1, 0), (2, 0), (3, 0)):
        assert np.array_equal(read_npy(npy(X, version)), X)
    for shape in ((), (0, 3)):
        assert read_npy(npy(np.zeros(shape))).shape == shape


NAMES = (
    *("file", "allow_pickle", "args", "arr_0", "a/b/c", "/absolute", "../up", "a\\b", "C:\\x", "name with spaces"),
    *('quo"te', "new\nline", "x.npy", "naïve", "ネット", ".", "..", "[bold]x[/bold]", "<b>&", "n" * 3000, "-o", "%s"),
)  # fmt: skip


def test_outputs_of_any_name(tmp_path):
    arrays = {name: np.full((2, 3), n, np.float32) for n, name in enumerate(NAMES)}
    save_npz(tmp_path / "y.npz", arrays)
    with np.load(tmp_path / "y.npz") as theirs:
        for ours in (load_npz(tmp_path / "y.npz", "outputs"), theirs):
            assert list(ours) == list(NAMES)
            assert all(np.array_equal(ours[name], arrays[name]) for name in NAMES)
    save_npz(tmp_path / "z.npz", arrays)
    assert (tmp_path / "z.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()
    save_npz(tmp_path / "e.npz", {"y": np.zeros((0, 2)), "y.npy": X})
    with (tmp_path / "e.npz").open("rb") as f:
        assert list(read_npz(f, "e")) == ["y", "y.npy"]


@pytest.mark.parametrize("name", ["a\0b", "n" * 70_000])
def test_names_that_no_archive_can_hold(name):
    with pytest.raises(DataError, match="rename it in the model"):
        check_names([name], "outputs")


def test_a_network_with_odd_names_through_all_commands(sateen, tmp_path):
    """Its inputs, outputs and nodes; the outputs' files are read by NumPy."""
    nodes, ports = [], []
    for n, name in enumerate(NAMES):
        nodes.append(helper.make_node("Gemm", [f"input/{name}", "w"], [name], name=f"node {name}"))
        ports.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2)))
        if n == 5:
            break
    inputs = [helper.make_tensor_value_info(n.input[0], TensorProto.FLOAT, (1, 4)) for n in nodes]
    weight = helper.make_tensor("w", TensorProto.FLOAT, (4, 2), np.linspace(-1, 1, 8))
    graph = helper.make_graph(nodes, "g", inputs, ports, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    save_npz(tmp_path / "x.npz", {p.name: rng.random((4, 4), np.float32) for p in inputs})
    command = ("compile", tmp_path / "m.onnx", "-o", tmp_path / "b", "--preset", "tiny")
    code, _, err = sateen(*command, "--calibration", tmp_path / "x.npz")
    assert code == 0, err
    run = (
        "run",
        tmp_path / "b",
        "--inputs",
        tmp_path / "x.npz",
        "--outputs",
        tmp_path / "y.npz",
        "--compare",
    )
    for engine in ("reference", "program"):
        code, _, err = sateen(*run, "--engine", engine)
        assert code == 0, err
        with np.load(tmp_path / "y.npz") as found:
            assert {name: found[name].shape for name in found} == {p.name: (4, 2) for p in ports}
    assert sateen("report", tmp_path / "b")[0] == 0
