"""A build folder as something that is written: all its files at once, and only over what a build wrote.

The new files are written into a folder inside, which one rename makes the one to be put in place. Until then the old
build is whole; from then on whoever comes next, a compile or a reader, can end what was begun: `recover`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sateen.errors import BuildError
from sateen.files import SCRATCH

MANIFEST = "manifest.json"
TIMES = "times.json"
"""Seconds that the compiler took: the only file in which two builds of the same differ."""

STAGING = f"{SCRATCH}new-"
"""How the name of a folder with an unfinished build begins; the process's number and a random part follow."""
READY = f"{SCRATCH}ready"
"""The folder with all files of a new build, of which some may be in place already."""


def is_build(manifest: Any) -> bool:
    """Whether this is what a manifest.json of a build, of any version, holds; other programs have one as well."""
    return (
        isinstance(manifest, dict)
        and {"sateen", "version", "config"} <= set(manifest)
        and isinstance(manifest.get("files"), dict)
        and "program.bin" in manifest["files"]
    )


def check_target(build: Path) -> None:
    """Raise BuildError unless a build may be written there: into nothing, an empty folder, or over a build."""
    try:
        if not build.is_dir():
            if build.exists():
                raise BuildError(f"{build} is a file; -o takes a folder")
            return
        recover(build)
        if not any(not p.name.startswith(STAGING) for p in build.iterdir()):
            return
        old = _manifest(build)
        if old is None:
            raise BuildError(f"{build} is not empty and not a build folder; choose another -o, or empty it")
        for name in (*old["files"], TIMES):
            if not _is_ours(build, name, old):
                raise BuildError(
                    f"{build / name} is not what the build there wrote (its content differs), and would be lost; move "
                    "or delete it, or choose another -o"
                )
    except OSError as e:
        raise BuildError(f"{build}: cannot be read ({e.strerror}); choose another -o") from None


def write_build(build: Path, files: dict[str, bytes]) -> None:
    """All files or none, in the place of those of the build there; whatever else is in the folder stays.

    Raises BuildError, and then nothing has changed.
    """
    check_target(build)
    old = _manifest(build) or {"files": {}}
    for name in set(files) - {*old["files"], MANIFEST, TIMES}:  # of which `check_target` knows nothing
        if os.path.lexists(build / name):
            raise BuildError(f"{build / name} would be lost; move it, or choose another -o")
    made = not build.exists()
    staging: Path | None = None
    try:
        build.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(build)
        staging = Path(tempfile.mkdtemp(prefix=f"{STAGING}{os.getpid()}-", dir=build))
        for name, data in files.items():
            _write_through(staging / name, data)
        staging.chmod(build.stat().st_mode)
        _sync(staging)
        os.rename(staging, build / READY)
    except OSError as e:
        raise BuildError(
            f"{build}: cannot be written ({e.strerror}); choose another -o, or free some space; nothing was changed"
        ) from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        recover(build)  # once the new build is ready, even an interrupt does not keep it from its place
        if made:
            with contextlib.suppress(OSError):  # unless there is something in it
                build.rmdir()
    _remove_counts(build, old)


def recover(build: Path) -> None:
    """Put the files of a build in place that was ready when its compile was killed. Raises BuildError."""
    ready = build / READY
    try:
        names = sorted(os.listdir(ready), key=lambda name: name == MANIFEST)  # the manifest last
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as e:
        raise BuildError(f"{ready}: cannot be read ({e.strerror})") from None
    try:
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another process has done it
                os.replace(ready / name, build / name)
        _sync(build)
        with contextlib.suppress(FileNotFoundError):
            ready.rmdir()
    except OSError as e:
        raise BuildError(
            f"{build}: a compile was interrupted, and its last files cannot be put in place ({e.strerror}); make the "
            "folder writable"
        ) from None


def _manifest(build: Path) -> dict[str, Any] | None:
    """Of the build in the folder, if there is one."""
    try:
        found = json.loads((build / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if is_build(found) else None


def _is_ours(build: Path, name: str, manifest: dict[str, Any]) -> bool:
    """Whether the file is missing, or the one that the build wrote."""
    path = build / name
    if not os.path.lexists(path):
        return True
    if not path.is_file() or Path(name).name != name:
        return False
    data = path.read_bytes()
    if name != TIMES:
        return hashlib.sha256(data).hexdigest() == manifest["files"][name]
    try:
        times = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(times, dict) and set(times) == {"ptq"}


def _remove_unfinished(build: Path) -> None:
    """Folders that a killed compile left, not those of one that is under way."""
    for path in build.glob(f"{STAGING}*"):
        number = path.name.removeprefix(STAGING).partition("-")[0]
        if number.isdecimal() and not _runs(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove_counts(build: Path, old: dict[str, Any]) -> None:
    """What `sateen cost` kept of the machine that was there, if there is another one now."""
    path, was = build / "cost.json", old["files"].get("accelerator.v")
    with contextlib.suppress(OSError, ValueError, RecursionError):
        counts = json.loads(path.read_text(encoding="utf-8"))
        now = hashlib.sha256((build / "accelerator.v").read_bytes()).hexdigest()
        if set(counts) == {"verilog_sha256", "devices"} and counts["verilog_sha256"] == was != now:
            path.unlink()


def _write_through(path: Path, data: bytes) -> None:
    """To the disk, so that a loss of power cannot leave a name without its content."""
    with path.open("xb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _sync(folder: Path) -> None:
    """The names in it; not every file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
