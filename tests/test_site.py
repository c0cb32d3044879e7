"""The documentation as a site, without a warning, and the notebook, whose results are those that it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_is_there(site):
    pages = [p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")]
    built = {p.with_name("index.html") if p.name == "README.md" else p.with_suffix(".html") for p in pages}
    assert not [p for p in built if not (site / p).is_file()]


def test_commands_and_names_are_documented(site):
    from sateen.cli.main import _HOME

    commands = (site / "commands.html").read_text(encoding="utf-8")
    assert not [name for name in _HOME if f"usage: sateen {name} " not in commands]
    python = (site / "python.html").read_text(encoding="utf-8")
    import sateen

    lazy = {"__version__", "PRESETS"}
    documented = set(re.findall(r'id="sateen\.[\w.]*?(\w+)"', python))
    assert not set(sateen.__all__) - lazy - documented


def test_pages_fetch_nothing(site):
    """They are read offline: no script, style or font from elsewhere."""
    remote = re.compile(r'(?:src|href)="https?://[^"]+\.(?:js|css|woff2?)"')
    found = [p.name for p in site.rglob("*.html") if remote.search(p.read_text(encoding="utf-8"))]
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_show_what_they_give(path):
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    shown = nbformat.read(str(path), 4)
    run = nbformat.read(str(path), 4)
    NotebookClient(run, timeout=600, kernel_name="python3").execute()

    def results(notebook):
        return [
            output["data"].get("text/plain")
            for cell in notebook.cells
            for output in cell.get("outputs", [])
            if output["output_type"] in ("execute_result", "display_data")
        ]

    assert results(shown) and results(run) == results(shown)
