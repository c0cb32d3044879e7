"""docs/tutorial.md, run as it is written: its script and its commands, but those that take minutes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[1] / "docs/tutorial.md").read_text(encoding="utf-8")
FENCE = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
INSTALLATION = ("pip ", "python3 -m venv")


@pytest.mark.slow
@pytest.mark.rtl
def test_every_command_works(tmp_path):
    pytest.importorskip("torch")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shown = 0
    for language, title, text in FENCE.findall(PAGE):
        if language == "python":
            (tmp_path / title).write_text(text, encoding="utf-8")
            continue
        commands = re.findall(r"^\$ (.+?)(?:  +#.*)?$", text, re.MULTILINE)
        if title == "minutes" or commands[0].startswith(INSTALLATION):
            continue
        output = ""
        for command in commands:
            done = subprocess.run(
                command,
                shell=True,
                cwd=tmp_path,
                env=os.environ | {"PATH": path},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"
            output += done.stdout
        # what training gives depends on the machine, what does not depend on it is there
        for line in text.splitlines():
            if "equal to the reference" in line or "are supported" in line:
                assert line in output
                shown += 1
    assert shown == 2
    assert (tmp_path / "int8/report.html").is_file() and (tmp_path / "chip/accelerator.v").is_file()
