"""The commands on a real build: what they print and write."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import sateen as package
from sateen.cli.run import differences

KEYS = {"engine", "batch", "cycles", "macs", "dense_macs", "utilization", "wall_s", "outputs"}


def test_run_json(sateen, build, data, tmp_path):
    results = {}
    for engine in ("reference", "program", "model"):
        outputs = [] if engine == "model" else ["--outputs", tmp_path / f"{engine}.npz"]
        code, out, err = sateen(
            "run", build, "--inputs", data / "inputs.npz", "--engine", engine, "--json", "--values", *outputs
        )
        assert code == 0, err
        results[engine] = json.loads(out)
        assert set(results[engine]) >= KEYS
        assert results[engine]["batch"] == 3 and results[engine]["engine"] == engine
    assert results["model"]["outputs"] is None and results["model"]["cycles"] > 0
    assert 0 < results["model"]["utilization"] <= 1
    a, b = (dict(np.load(tmp_path / f"{e}.npz")) for e in ("reference", "program"))
    (name,) = a
    assert a[name].shape == (3, 10) and a[name].tobytes() == b[name].tobytes()
    assert np.array_equal(np.float32(results["reference"]["outputs"][name]["values"]), a[name])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["program.npz", "reference.npz"]


def test_memory_timing_changes_the_cycles(sateen, build, data):
    def cycles(*options):
        _, out, _ = sateen(
            "run", build, "--inputs", data / "inputs.npz", "--engine", "model", "--json", *options
        )
        return json.loads(out)["cycles"]

    assert cycles() < cycles("--latency", 300) < cycles("--latency", 300, "--interval", 8)


def test_compare(sateen, build, data, monkeypatch):
    command = ("run", build, "--inputs", data / "inputs.npz", "--engine", "program", "--compare")
    code, out, _ = sateen(*command)
    assert code == 0 and "equal to the reference" in out
    from sateen.sim import engines

    real = engines.run_reference

    def wrong(*args, **kwargs):
        found = real(*args, **kwargs)
        for y in found.values():
            y[0, 0] += 1
        return found

    monkeypatch.setattr(engines, "run_reference", wrong)
    code, out, _ = sateen(*command, "--json")
    found = json.loads(out)
    assert code == 1 and not found["equal"] and list(found["differences"].values()) == [1]


def test_differences_are_of_bits():
    a = {"y": np.array([0.0, np.nan, 1.0], np.float32)}
    assert differences(a, {"y": a["y"].copy()}) == {"y": 0}
    assert differences(a, {"y": np.array([-0.0, np.nan, 2.0], np.float32)}) == {"y": 2}
    assert differences(a, {"y": a["y"].astype(np.float64)}) == {"y": 3}
    assert differences(a, {}) == {"y": 3}


def test_compile_json(sateen, model, data, tmp_path):
    code, out, _ = sateen(
        *("compile", model, "-o", tmp_path / "b", "--calibration", data / "calibration.npz"),
        *("--preset", "tiny", "--weights", "int4", "--activations", "e2m3", "--sparsity", "dense", "--json"),
    )
    found = json.loads(out)
    assert code == 0 and found["build"] == str(tmp_path / "b")
    assert (found["config"]["weight_format"], found["config"]["activation_format"]) == ("int4", "e2m3")
    assert json.loads((tmp_path / "b/manifest.json").read_text())["files"] == found["files"]


def test_compile_records_the_recipe(sateen, model, data, tmp_path):
    (tmp_path / "mine.toml").write_text('input_terms = 1\n[[pass]]\nname = "gptq"\nsweeps = 1\n')
    code, out, _ = sateen(
        *("compile", model, "-o", tmp_path / "b", "--calibration", data / "calibration.npz", "--json"),
        *("--preset", "tiny", "--weights", "int4", "--ptq", tmp_path / "mine.toml", "--scales", "percentile"),
    )
    found = json.loads(out)["ptq"]
    seconds = found.pop("seconds")
    assert code == 0 and found == json.loads((tmp_path / "b/manifest.json").read_text())["ptq"]
    assert seconds == json.loads((tmp_path / "b/times.json").read_text())["ptq"]
    assert [found[k] for k in ("recipe", "scales", "samples", "seed")] == ["mine.toml", "percentile", 64, 0]
    assert [(p["name"], p["sweeps"]) for p in found["passes"]] == [("gptq", 1)]
    assert seconds["all"] >= seconds["gptq"] > 0


def test_compile_keeps_what_is_no_build(sateen, model, data, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, _, err = sateen(
        "compile", model, "-o", tmp_path, "--preset", "tiny", "--calibration", data / "calibration.npz"
    )
    assert code == 2 and "not empty" in err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_builds_are_equal_byte_for_byte(sateen, model, data, build, tmp_path):
    again = tmp_path / "elsewhere"
    code, _, _ = sateen(
        "compile", model, "-o", again, "--preset", "tiny", "--calibration", data / "calibration.npz"
    )
    assert code == 0
    for path in set(again.iterdir()) - {again / "times.json"}:
        assert path.read_bytes() == (build / path.name).read_bytes(), path.name


def test_check(sateen, model):
    code, out, _ = sateen("check", model)
    assert code == 0 and "nodes are supported" in out
    code, out, _ = sateen("check", model, "--json")
    assert code == 0 and json.loads(out)["supported"]


def test_formats(sateen):
    code, out, _ = sateen("formats", "--json")
    rows = {r["name"]: r for r in json.loads(out)["formats"]}
    assert code == 0
    assert rows["int8"]["max"] == 127 and rows["int8"]["kind"] == "integer"
    e4m3 = rows["e4m3fn"]
    assert (e4m3["max"], e4m3["smallest"], e4m3["precision"], e4m3["fixed_bits"]) == (448, 2.0**-9, 4, 19)
    assert e4m3["nan"] and not e4m3["infinity"]
    assert rows["e2m1"]["max"] == 6
    code, out, _ = sateen("formats")
    assert code == 0 and all(name in out for name in rows)


def test_standard_output_holds_the_object_and_nothing_else(build, data):
    """In a process of its own, as libraries and tools may write to the descriptors themselves."""
    command = [
        sys.executable,
        "-m",
        "sateen.cli.main",
        "run",
        build,
        "--inputs",
        data / "inputs.npz",
        "--json",
    ]
    p = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(json.loads(p.stdout)) >= KEYS
    assert p.stderr == ""


def test_a_reader_that_goes_away(build):
    p = subprocess.run(
        f"{sys.executable} -m sateen.cli.main formats --json | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert p.stdout == "{\n" and "Traceback" not in p.stderr and "Exception" not in p.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_standard_output_is_full(build, data):
    command = (
        f"{sys.executable} -m sateen.cli.main run {build} --inputs {data / 'inputs.npz'} --json > /dev/full"
    )
    p = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert p.returncode == 2 and "no space left" in p.stderr and "Traceback" not in p.stderr


@pytest.mark.rtl
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_rtl(sateen, build, data, tmp_path):
    command = ("run", build, "--inputs", data / "inputs.npz", "--json")
    code, out, err = sateen(*command, "--engine", "rtl", "--compare", "--outputs", tmp_path / "y.npz")
    assert code == 0, err
    found = json.loads(out)
    assert found["equal"] and found["cycles_per_second"] > 0
    assert found["cycles"] == json.loads(sateen(*command, "--engine", "model")[1])["cycles"]
    # all of this build's transfers are whole beats of 4 bytes
    totals = json.loads((build / "manifest.json").read_text())["totals"]
    assert found["counters"]["beats_read"] * 4 == totals["bytes_loaded"]
    assert found["counters"]["beats_written"] * 4 == totals["bytes_stored"]
    assert found["moved_bytes"]["total"] == 3 * totals["bytes"]["total"]


def test_python_interface(model, data, tmp_path):
    manifest = package.compile(model, tmp_path / "b", calibration=data / "calibration.npz", preset="tiny")
    x = np.load(data / "inputs.npz")["input"]
    result = package.run(tmp_path / "b", {"input": x})
    assert result.outputs[manifest["outputs"][0]["name"]].shape == (3, 10)
    assert package.report(tmp_path / "b").is_file()
    assert package.parse_format("e3m2").bits == 6
    assert all(f.supported for f in package.check(model))
    with pytest.raises(package.SateenError, match="no such file"):
        package.run(tmp_path / "b", tmp_path / "none.npz")
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing
    assert {"compile", "run", "AcceleratorConfig"} <= set(dir(package))
