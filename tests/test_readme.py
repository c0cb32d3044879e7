"""The README's tables are those that the program uses."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_support_matrix_is_up_to_date():
    script = ROOT / "benchmarks/support_matrix.py"
    p = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr or f"run: python {script.relative_to(ROOT)}"


def test_links_and_commands_exist():
    import re

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"benchmarks/\w+\.py", text):
        assert (ROOT / target).is_file(), target
