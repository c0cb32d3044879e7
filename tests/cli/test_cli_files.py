"""What is written, and over what: nothing that Sateen did not write is lost, however it ends."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sateen.build_folder import READY, STAGING, recover, write_build
from sateen.errors import BuildError, DataError
from sateen.files import replacing, write_file
from sateen.manifest import read_manifest


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def content(text):
    """The files of a small build, as `write_build` takes them."""
    import hashlib

    files = {"program.bin": f"program {text}".encode(), "accelerator.v": f"module {text}".encode()}
    ports = [{"name": "x", "shape": [1]}]
    manifest = {"sateen": "0", "version": 2, "config": {}, "inputs": ports, "outputs": ports}
    manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return files | {"manifest.json": json.dumps(manifest).encode(), "times.json": b'{"ptq": {"all": 1}}'}


FOREIGN = {
    "a web app": {"manifest.json": '{"name": "app", "icons": []}', "index.html": "<html>", "src/a.js": "code"},
    "an extension": {"manifest.json": '{"manifest_version": 3, "version": "2", "files": {}}', "program.bin": "mine"},
    "a broken manifest": {"manifest.json": "{"},
    "a deep manifest": {"manifest.json": "[" * 100_000},
    "a list": {"manifest.json": "[1]"},
    "a program": {"program.bin": "mine"},
    "a hidden file": {".git/config": "[core]"},
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_of_another_program_is_kept(sateen, model, data, tmp_path, kind):
    for name, text in FOREIGN[kind].items():
        (tmp_path / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "app" / name).write_text(text)
    before = tree(tmp_path)
    code, _, err = sateen(
        *("compile", model, "-o", tmp_path / "app", "--preset", "tiny"),
        *("--calibration", data / "calibration.npz"),
    )
    assert code == 2 and "not empty and not a build folder" in err
    assert tree(tmp_path) == before


def test_compiling_again_keeps_what_the_user_put_there(sateen, model, data, tmp_path):
    command = ("compile", model, "-o", tmp_path / "b", "--preset", "tiny")
    command += ("--calibration", data / "calibration.npz")
    assert sateen(*command)[0] == 0
    first = tree(tmp_path / "b")
    (tmp_path / "b/notes").mkdir()
    (tmp_path / "b/notes/a.txt").write_text("mine")
    (tmp_path / "b/README").write_text("mine")
    assert sateen(*command, "--weights", "int4")[0] == 0
    second = tree(tmp_path / "b")
    assert second.pop("notes/a.txt") == second.pop("README") == b"mine"
    assert set(second) == set(first) and second["program.bin"] != first["program.bin"]
    run = ("run", tmp_path / "b", "--inputs", data / "inputs.npz", "--engine", "program", "--compare")
    assert sateen(*run)[0] == 0


@pytest.mark.parametrize("name", ["program.bin", "times.json"])
def test_a_file_that_the_user_changed_is_kept(tmp_path, name):
    write_build(tmp_path, content("old"))
    (tmp_path / name).write_bytes(b"changed")
    before = tree(tmp_path)
    with pytest.raises(BuildError, match=f"{name} is not what the build there wrote"):
        write_build(tmp_path, content("new"))
    assert tree(tmp_path) == before


def test_a_file_with_the_name_of_a_new_one_is_kept(tmp_path):
    write_build(tmp_path, content("old"))
    (tmp_path / "extra.json").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(BuildError, match=r"extra\.json would be lost"):
        write_build(tmp_path, content("new") | {"extra.json": b"{}"})
    assert tree(tmp_path) == before


def test_counts_of_the_machine_that_was_there_go_with_it(tmp_path):
    old = content("old")
    write_build(tmp_path, old)
    digest = json.loads(old["manifest.json"])["files"]["accelerator.v"]
    counts = json.dumps({"verilog_sha256": digest, "devices": {}})
    (tmp_path / "cost.json").write_text(counts)
    write_build(tmp_path, content("old"))
    assert (tmp_path / "cost.json").read_text() == counts
    write_build(tmp_path, content("new"))
    assert not (tmp_path / "cost.json").exists()


@pytest.mark.parametrize("there", [True, False])
def test_killed_at_any_step(tmp_path, there):
    """There is the old build or the new one, whole, and the next compile leaves no trace of the killed one."""
    seen = set()
    for step in range(40):
        build = tmp_path / f"b{step}"
        if there:
            write_build(build, content("old"))
        if fork(build, step) == 0:
            break
        if there or (build / "manifest.json").exists() or (build / READY).exists():
            read_manifest(build)  # puts in place what was ready
            found = (build / "program.bin").read_bytes()
            seen.add(found)
            assert tree(build) in (content("old"), content("new")) or any(
                name.startswith(STAGING) for name in tree(build)
            )
            assert (build / "accelerator.v").read_bytes() == found.replace(b"program", b"module")
        write_build(build, content("next"))
        assert tree(build) == content("next")
        assert [p.name for p in build.iterdir() if p.is_dir()] == []
    assert step > 5
    assert seen == ({b"program old", b"program new"} if there else {b"program new"})


def fork(build, step):
    """`write_build` in a process that ends after `step` calls of the system."""
    pid = os.fork()
    if pid == 0:
        left = step

        def counted(real):
            def call(*args, **options):
                nonlocal left
                left -= 1
                if left < 0:
                    os._exit(137)
                return real(*args, **options)

            return call

        for name in ("mkdir", "rename", "replace", "fsync", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        write_build(build, content("new"))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_error_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BuildError, match="No space left"):
        write_build(tmp_path / "b", content("new"))
    assert not list(tmp_path.iterdir())


def test_a_build_folder_that_is_a_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "b").symlink_to("real")
    write_build((tmp_path / "b").resolve(), content("new"))
    assert (tmp_path / "b").is_symlink() and tree(tmp_path / "real") == content("new")


def test_recovery_that_is_done_already(tmp_path):
    recover(tmp_path / "none")
    write_build(tmp_path, content("new"))
    recover(tmp_path)
    assert tree(tmp_path) == content("new")


# -- outputs, reports ---------------------------------------------------------------------------------------


def test_outputs_go_into_what_is_there(sateen, build, data, tmp_path):
    run = ("run", build, "--inputs", data / "inputs.npz", "--json", "--outputs")
    assert sateen(*run, tmp_path / "plain.npz")[0] == 0
    wanted = (tmp_path / "plain.npz").read_bytes()
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "target").chmod(0o640)
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("fresh")
    (tmp_path / "other").write_bytes(b"old")
    os.link(tmp_path / "other", tmp_path / "hard")
    for name in ("link", "dangling", "hard"):
        assert sateen(*run, tmp_path / name)[0] == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "dangling").is_symlink()
    assert all((tmp_path / n).read_bytes() == wanted for n in ("target", "fresh", "other"))
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o640
    before = os.stat("/dev/null")
    assert sateen(*run, "/dev/null")[0] == 0 and sateen("report", build, "-o", "/dev/null")[0] == 0
    assert os.stat("/dev/null").st_rdev == before.st_rdev and stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_outputs_to_a_pipe_and_to_standard_output(build, data, tmp_path):
    command = [
        sys.executable,
        "-m",
        "sateen.cli.main",
        "run",
        build,
        "--inputs",
        data / "inputs.npz",
        "--outputs",
    ]
    shown = subprocess.run([*command, "/dev/stdout", "--json"], capture_output=True, check=True).stdout
    (tmp_path / "shown.npz").write_bytes(shown[: shown.rindex(b'{\n  "build"')])
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen([*command, tmp_path / "pipe"], stdout=subprocess.DEVNULL) as process:
        (tmp_path / "piped.npz").write_bytes((tmp_path / "pipe").read_bytes())
    assert process.returncode == 0
    assert (tmp_path / "piped.npz").read_bytes() == (tmp_path / "shown.npz").read_bytes()
    with np.load(tmp_path / "piped.npz") as found:
        assert found["logits"].shape == (3, 10)


@pytest.mark.parametrize(
    ("name", "message"),
    [("no/y.npz", "does not exist"), (".", "is a folder"), ("n" * 300, "name too long"), ("loop", "levels of")],
)  # fmt: skip
def test_outputs_that_cannot_be_are_refused_before_the_run(
    sateen, build, data, tmp_path, monkeypatch, name, message
):
    monkeypatch.setattr("sateen.api.run", None)  # a call of it would be an internal error
    (tmp_path / "loop").symlink_to("loop")
    code, out, err = sateen("run", build, "--inputs", data / "inputs.npz", "--outputs", tmp_path / name)
    assert code == 2 and not out and message in err
    code, out, err = sateen("report", build, "-o", tmp_path / name)
    assert code == 2 and not out and message in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device(sateen, build, data):
    code, _, err = sateen("run", build, "--inputs", data / "inputs.npz", "--outputs", "/dev/full")
    assert code == 2 and "/dev/full: cannot be written (No space left on device)" in err


def test_a_file_is_as_it_was_until_the_block_ends(tmp_path):
    write_file(tmp_path / "f", "old", "file")
    with pytest.raises(KeyError), replacing(tmp_path / "f", "file") as scratch:
        scratch.write_text("half")
        raise KeyError
    assert tree(tmp_path) == {"f": b"old"}
    with pytest.raises(DataError, match="is a folder"):
        write_file(tmp_path, "x", "file")


def test_a_vivado_project_is_written_over_no_other_folder(sateen, build, tmp_path):
    (tmp_path / "project.tcl").write_text("mine")
    command = ("bitstream", build, "--board", "zcu104", "-o")
    code, _, err = sateen(*command, tmp_path)
    assert code == 2 and "holds no project of Sateen's" in err and tree(tmp_path) == {"project.tcl": b"mine"}
    assert sateen(*command, tmp_path / "new")[0] == 0 and sateen(*command, tmp_path / "new")[0] == 0


# -- paths and locales --------------------------------------------------------------------------------------

ODD = 'it\'s $HOME "ü" ネット [x] #1'
STEPS = r"""
import os, sys, numpy as np
from sateen.cli.main import main
def run(*args):
    code = main([os.fsdecode(a) if isinstance(a, bytes) else a for a in args])
    assert code == 0, (args, code)
np.savez(open("x.npz", "wb"), input=np.random.default_rng(0).random((8, 1, 8, 8), np.float32))
run("compile", sys.argv[1], "-o", b"b\xff ", "--calibration", "x.npz", "--config", b"ger\xc3\xa4t.toml",
    "--ptq", b"rezept \xc3\xbc.toml")
run("compile", b"m\xff.onnx", "-o", b"b\xff ", "--calibration", "x.npz", "--preset", "tiny", "--json")
run("run", b"b\xff ", "--inputs", "x.npz", "--engine", "program", "--outputs", b"y\n\xc3\xbc.npz", "--json")
run("report", b"b\xff ")
run("bitstream", b"b\xff ", "--board", "zcu104")
"""


def test_paths_of_any_characters_in_any_locale(model, tmp_path):
    """The folder, temporary files, the cache, and files whose names are no UTF-8; the text of files is UTF-8."""
    folder = tmp_path / ODD
    (folder / "tmp").mkdir(parents=True)
    (folder / "gerät.toml").write_text('name = "größer"\nrows = 8\ncols = 8', encoding="utf-8")
    (folder / "rezept ü.toml").write_text('# größer\nscales = "minmax"\n', encoding="utf-8-sig")
    (folder / os.fsdecode(b"m\xff.onnx")).write_bytes(model.read_bytes())
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    environment |= {"TMPDIR": str(folder / "tmp"), "SATEEN_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", STEPS, str(model)]
    p = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert p.returncode == 0, p.stderr.decode()
    assert not [name for name in os.listdir(folder / "tmp") if "sateen" in name]
    build = folder / os.fsdecode(b"b\xff ")
    assert json.loads((build / "manifest.json").read_text())["model"] == "m\ufffd.onnx"
    assert "m\ufffd" in (build / "report.html").read_text(encoding="utf-8")
    assert "größer".encode() in p.stdout


@pytest.mark.parametrize("command", ["run", "report", "cost --estimate"])
def test_a_command_reads_each_file_of_a_build_once(sateen, build, data, tmp_path, monkeypatch, command):
    read, original = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or original(path))
    options = {
        "run": ("--inputs", data / "inputs.npz", "--engine", "program", "--compare", "--outputs", tmp_path / "y.npz"),
        "report": ("-o", tmp_path / "r.html"),
    }  # fmt: skip
    name, *more = command.split()
    assert sateen(name, build, *more, *options.get(command, ()))[0] == 0
    of_build = [p.name for p in read if p.parent == build]
    assert "schedule.json" in of_build and len(of_build) == len(set(of_build)), of_build
