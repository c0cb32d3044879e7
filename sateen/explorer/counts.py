"""Members of a front built, and synthesized for a family or placed on the board: counts beside their estimates.

STUDY/counts/KEY.json   {"lut", "ff", "dsp", "bram", "clock" on a board, "tool"}, or {"reason"} why there are none
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sateen import hardware
from sateen.errors import SateenError
from sateen.explorer.candidate import Candidate
from sateen.explorer.study import Study
from sateen.files import write_file
from sateen.options import Progress

FOLDER = "counts"
NAMES = ("lut", "ff", "dsp", "bram")


def counted(folder: Path, candidate: Candidate) -> dict[str, Any] | None:
    """What was counted of a candidate; None if nothing was."""
    try:
        return dict(json.loads(_path(folder, candidate).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def count_members(study: Study, number: int, build: Callable[[int, Path], Any], progress: Progress) -> None:
    """Count the first `number` members that were not yet; `build` writes the build of a member to a folder."""
    front = study.front()[:number]
    for i, trial in enumerate(front):
        if counted(study.folder, trial.candidate) is not None:
            continue
        progress(f"synthesis of member {i}", i / len(front))
        with tempfile.TemporaryDirectory(prefix="sateen-member-") as name:
            try:
                build(i, Path(name) / "build")
                found = _counts(study.about, Path(name) / "build")
            except SateenError as e:
                found = {"reason": str(e)}
        path = _path(study.folder, trial.candidate)
        path.parent.mkdir(exist_ok=True)
        write_file(path, json.dumps(found, indent=1) + "\n", "counts")


def _counts(about: dict[str, Any], build: Path) -> dict[str, Any]:
    if about["board"] is None:
        device = about["device"]
        made = hardware.cost(build, device)["devices"][device]
        return {name: made["total"][name] for name in NAMES} | {"tool": made["tool"]}
    placed = hardware.bitstream(build, about["board"], clock=about["clock"])
    return placed["used"] | {"clock": placed["fmax_mhz"], "tool": ", ".join(placed["tools"])}


def _path(folder: Path, candidate: Candidate) -> Path:
    return folder / FOLDER / f"{candidate.key}.json"
