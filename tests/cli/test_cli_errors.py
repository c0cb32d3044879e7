"""Wrong input: exit code 2, one line on standard error that names the cause and the remedy, nothing half-written."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from sateen.cli.io import describe, guarded
from sateen.errors import LimitError, SateenError


def one_line(err):
    assert err.count("\n") == 1 and err.startswith("sateen: error: "), err
    return err


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "b"],
        ["run", "b", "--inputs", "x.npz", "--engine", "gpu"],
        ["run", "b", "--inputs", "x.npz", "--latency", "0"],
        ["run", "b", "--inputs", "x.npz", "--interval", "-3"],
        ["run", "b", "--inputs", "x.npz", "--lat", "3"],
        ["run", "b", "--inputs", "x.npz", "--engine", "board", "--port", "p", "--baud", "0"],
        ["compile", "m.onnx"],
        ["compile", "m.onnx", "-o", "b", "--preset", "tiny", "--config", "c.toml"],
        ["compile", "m.onnx", "-o", "b", "--scales", "best"],
    ],
)
def test_wrong_options(sateen, args):
    code, out, err = sateen(*args)
    assert code == 2 and not out
    one_line(err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no calibration data; give --calibration"),
        (["--calibration", "none.npz"], "no such file"),
        (["--calibration", str(Path(__file__).parent)], "no image in the folder"),
        (["--weights", "int77"], "int77"),
        (["--activations", "e9m9"], "e9m9"),
        (["--preset", "huge"], "presets are tiny"),
        (["--config", "none.toml"], "cannot be read"),
        (["--sparsity", "8:2"], "unknown sparsity '8:2'; patterns are dense, 1:2"),
        (["--ptq", "slow"], "recipe 'slow' is unknown; it must be fast, balanced, best"),
        (["--ptq", "none.toml"], "recipe none.toml: cannot be read"),
        (["--sparsity", "half"], "unknown sparsity 'half'; patterns are dense, 1:2"),
        (["--preset", "mac256", "--sparsity", "2:8"], "'mac256' is built for dense; use --preset sat256"),
        (["--batch", "0"], "batch 0: a run takes 1 to 4096 samples"),
        (["--batch", "5000"], "batch 5000: a run takes 1 to 4096 samples"),
    ],
)
def test_wrong_compile_options(sateen, model, data, tmp_path, options, message):
    calibration = [] if message.startswith("no ") else ["--calibration", data / "calibration.npz"]
    code, out, err = sateen("compile", model, "-o", tmp_path / "b", *calibration, *options)
    assert code == 2 and not out
    assert message in one_line(err)
    assert not list(tmp_path.iterdir())


def write(path, kind):
    match kind:
        case "text":
            path.write_text("no archive")
        case "empty":
            path.write_bytes(b"")
        case "one array":
            np.save(path.open("wb"), np.zeros(3))
        case "pickled":
            np.savez(path.open("wb"), input=np.array([{}, 1], dtype=object))
        case "no array":
            np.savez(path.open("wb"))
        case "truncated":
            np.savez_compressed(path.open("wb"), input=np.arange(10000.0))
            path.write_bytes(path.read_bytes()[:-300])
        case "nan":
            np.savez(path.open("wb"), input=np.full((3, 1, 8, 8), np.nan, np.float32))
        case "infinite":
            np.savez(path.open("wb"), input=np.full((3, 1, 8, 8), np.inf, np.float32))
        case "shape":
            np.savez(path.open("wb"), input=np.zeros((3, 1, 8, 9), np.float32))
        case "no batch":
            np.savez(path.open("wb"), input=np.zeros((1, 8, 8), np.float32))
        case "empty batch":
            np.savez(path.open("wb"), input=np.zeros((0, 1, 8, 8), np.float32))
        case "name":
            np.savez(path.open("wb"), image=np.zeros((3, 1, 8, 8), np.float32))
        case "two":
            np.savez(path.open("wb"), input=np.zeros((3, 1, 8, 8), np.float32), other=np.zeros(3))
        case "strings":
            np.savez(path.open("wb"), input=np.array(["a", "b"]))
        case "complex":
            np.savez(path.open("wb"), input=np.zeros((3, 1, 8, 8), complex))


KINDS = {
    "text": "not an .npz file",
    "empty": "not an .npz file",
    "one array": "one unnamed array",
    "pickled": "pickled",
    "no array": "holds no array",
    "truncated": "not an .npz file",
    "nan": "must be finite",
    "infinite": "must be finite",
    "shape": "(3, 1, 8, 9)",
    "no batch": "(1, 8, 8)",
    "empty batch": "at least 1",
    "name": "input",
    "two": "other",
    "strings": "real numbers are needed",
    "complex": "real numbers are needed",
}


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_inputs(sateen, build, tmp_path, kind):
    write(tmp_path / "x.npz", kind)
    code, out, err = sateen("run", build, "--inputs", tmp_path / "x.npz", "--json")
    assert code == 2 and not out
    assert KINDS[kind] in one_line(err)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_calibration(sateen, model, tmp_path, kind):
    write(tmp_path / "x.npz", kind)
    code, out, err = sateen(
        "compile", model, "-o", tmp_path / "b", "--preset", "tiny", "--calibration", tmp_path / "x.npz"
    )
    assert code == 2 and not out
    assert KINDS[kind] in one_line(err)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("engine", ["reference", "program", "model", "rtl"])
def test_no_build(sateen, data, tmp_path, engine):
    command = ("run", tmp_path / "none", "--inputs", data / "inputs.npz", "--engine", engine)
    code, out, err = sateen(*command)
    assert code == 2 and "sateen compile" in one_line(err) and not out
    (tmp_path / "none").mkdir()
    assert sateen(*command)[0] == 2
    (tmp_path / "none/manifest.json").write_text("{")
    code, _, err = sateen(*command)
    assert code == 2 and "manifest.json" in one_line(err)
    (tmp_path / "none/manifest.json").write_text("[]")
    assert sateen(*command)[0] == 2


@pytest.mark.parametrize("command", ["cost", "report"])
def test_no_build_to_count_or_report(sateen, tmp_path, command):
    code, out, err = sateen(command, tmp_path)
    assert code == 2 and "sateen compile" in one_line(err) and not out


FILES = ("model.onnx", "quantized.bin", "program.bin", "weights.bin", "accelerator.v", "schedule.json")


@pytest.mark.parametrize("damage", ["other content", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_damaged_build(sateen, build, data, tmp_path, name, damage):
    copy = tmp_path / "b"
    shutil.copytree(build, copy)
    if damage == "missing":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
    inputs = ("--inputs", data / "inputs.npz", "--engine")
    commands = [
        ("report", copy),
        *(("run", copy, *inputs, e) for e in ("reference", "program", "model", "rtl")),
    ]
    if name == "accelerator.v":
        commands.append(("cost", copy))
    for command in commands:
        code, out, err = sateen(*command)
        assert code == 2 and not out
        assert name in one_line(err) and "compile again" in err
    assert not (copy / "report.html").exists() and not (copy / "cost.json").exists()


def test_cost_of_another_machine(sateen, build, tmp_path):
    copy = tmp_path / "b"
    shutil.copytree(build, copy)
    for content in ("{", "[]", "{}", json.dumps({"verilog_sha256": "00", "devices": {}})):
        (copy / "cost.json").write_text(content)
        code, out, err = sateen("report", copy)
        assert code == 2 and not out and "cost.json" in one_line(err) and "sateen cost" in err


def test_manifest_without_hashes(sateen, build, data, tmp_path):
    shutil.copytree(build, tmp_path / "b")
    path = tmp_path / "b/manifest.json"
    manifest = json.loads(path.read_text())
    for files in (None, [], {"program.bin": 3}):
        path.write_text(json.dumps(manifest | {"files": files}))
        for command in (("report", tmp_path / "b"), ("cost", tmp_path / "b")):
            code, _, err = sateen(*command)
            assert code == 2 and "hashes" in one_line(err)


@pytest.mark.parametrize("field", ["memory", "macs", "totals", "config", "outputs"])
def test_a_changed_manifest(sateen, build, data, tmp_path, field):
    shutil.copytree(build, tmp_path / "b")
    path = tmp_path / "b/manifest.json"
    manifest = json.loads(path.read_text())
    other = manifest["outputs"] * 2 if field == "outputs" else None
    for changed in (manifest | {field: other}, {k: v for k, v in manifest.items() if k != field}):
        path.write_text(json.dumps(changed))
        code, out, err = sateen("run", tmp_path / "b", "--inputs", data / "inputs.npz")
        assert code == 2 and not out and "manifest.json" in one_line(err) and "compile again" in err


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07\x12\x05"])
def test_no_model(sateen, data, tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for command in (
        ("check", path),
        ("compile", path, "-o", tmp_path / "b", "--calibration", data / "calibration.npz"),
    ):
        code, out, err = sateen(*command)
        assert code == 2 and not out
        assert "m.onnx" in one_line(err)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "board"], "needs the serial device that the board is on; give it with --port"),
        (["--engine", "rtl", "--port", "/dev/null"], "use --engine board or leave --port out"),
        (
            ["--engine", "board", "--port", "/dev/no-such-device"],
            "port /dev/no-such-device: cannot be opened",
        ),
        (["--engine", "board", "--port", "/dev/null"], "port /dev/null: cannot be opened at 115200 baud"),
        (
            ["--engine", "board", "--port", "x", "--trace", "t.fst"],
            "a trace needs the RTL, not engine 'board'",
        ),
    ],
)
def test_wrong_board_options(sateen, build, data, options, message):
    code, out, err = sateen("run", build, "--inputs", data / "inputs.npz", *options)
    assert code == 2 and not out
    assert message in one_line(err)


def test_engine_model_has_no_outputs(sateen, build, data, tmp_path):
    for option in (["--outputs", tmp_path / "y.npz"], ["--compare"]):
        code, _, err = sateen("run", build, "--inputs", data / "inputs.npz", "--engine", "model", *option)
        assert code == 2 and "has no outputs" in one_line(err)


def test_trace_needs_rtl(sateen, build, data, tmp_path):
    code, _, err = sateen("run", build, "--inputs", data / "inputs.npz", "--trace", tmp_path / "t.fst")
    assert code == 2 and "--engine rtl" in one_line(err)


def test_outputs_into_no_folder(sateen, build, data, tmp_path):
    code, _, err = sateen("run", build, "--inputs", data / "inputs.npz", "--outputs", tmp_path / "no/y.npz")
    assert code == 2 and "does not exist" in one_line(err)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--board", "ulx3s"), "unknown board 'ulx3s'; boards are ulx3s-85f,"),
        ((), "was not compiled for a board; give --board NAME, one of ulx3s-85f,"),
        (
            ("--board", "icebreaker", "--clock", "1"),
            "the PLL of ice40 cannot make it from 12 MHz; choose",
        ),
        (("--board", "icebreaker", "--baud", "20000000"), "baud must be from 1 to clock_hz / 4"),
        (("--board", "icebreaker", "--clock", "fast"), "'fast' is not a number of MHz"),
        (("--board", "icebreaker", "-o", "/nowhere/x.bin"), "folder /nowhere does not exist"),
    ],
)
def test_bitstream_options(sateen, build, options, message):
    code, out, err = sateen("bitstream", build, *options)
    assert code == 2 and message in one_line(err) and not out


def test_compile_for_an_unknown_board(sateen, model, data, tmp_path):
    code, _, err = sateen("compile", model, "-o", tmp_path / "b", "--board", "de10", "--calibration", data)
    assert code == 2 and "unknown board 'de10'; boards are ulx3s-85f," in one_line(err)


def test_a_limit_is_no_wrong_input():
    assert guarded(lambda: fail(LimitError("too large"))()) == 1


def test_unknown_device(sateen, build):
    code, _, err = sateen("cost", build, "--device", "asic")
    assert code == 2 and "devices are ecp5, xcup" in one_line(err)


def fail(e):
    def command():
        raise e

    return command


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SateenError("two\nlines"), "two lines"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "f"), "no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied"),
        (MemoryError(), "out of memory"),
    ],
)
def test_errors_are_one_line(capsys, error, message):
    assert guarded(fail(error)) == 2
    assert message in one_line(capsys.readouterr().err)


def test_interrupted(capsys):
    assert guarded(fail(KeyboardInterrupt())) == 130
    assert "interrupted" in one_line(capsys.readouterr().err)


def test_an_internal_error_leaves_its_traceback_in_a_log(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert guarded(fail(ZeroDivisionError("oops"))) == 2
    err = one_line(capsys.readouterr().err)
    (log,) = tmp_path.glob("sateen-*.log")
    assert "ZeroDivisionError: oops" in err and str(log) in err and "Traceback" in log.read_text()


def test_debug_shows_the_traceback(capsys):
    assert guarded(fail(SateenError("x")), debug=True) == 2
    assert "Traceback" in capsys.readouterr().err


def test_describe_without_a_place_for_the_log(monkeypatch):
    monkeypatch.setattr("tempfile.mkstemp", lambda **_: (_ for _ in ()).throw(OSError("full")))
    assert "--debug" in describe(ZeroDivisionError("oops"))


def test_check_names_the_node(sateen, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("LSTM", ["x", "w", "r"], ["a"], name="memory", hidden_size=2, input_forget=1),
            helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 1, 4)),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, (3, 1, 1, 2)),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 1, 1, 2))],
        [
            helper.make_tensor("w", TensorProto.FLOAT, (1, 8, 4), np.zeros(32)),
            helper.make_tensor("r", TensorProto.FLOAT, (1, 8, 2), np.zeros(16)),
        ],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    code, out, err = sateen("check", tmp_path / "m.onnx", "--json")
    found = json.loads(out)
    assert code == 2 and not found["supported"] and found["unsupported"] == 1
    assert found["findings"][0]["node"] == "memory" and found["findings"][0]["reason"]
    assert [f["state"] for f in found["findings"]] == ["not supported", "not checked"]
    assert [f["supported"] for f in found["findings"]] == [False, None] and found["not_checked"] == 1
    assert "memory" in one_line(err) and "1 that depend on what is not supported could not be checked" in err
    code, out, _ = sateen("check", tmp_path / "m.onnx")
    assert code == 2 and "not checked" in out
