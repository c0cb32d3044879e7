"""Writing files: whole or not at all, into what is there; and the cache, whose entries say what they hold.

with replacing(path, "outputs") as scratch:  # `path` is as it was until the block ends, and then complete
    scratch.write_bytes(data)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sateen.errors import ConfigError, DataError

SCRATCH = ".sateen-"
"""How the names of unfinished files and folders begin."""
_TOML_LIMIT = 1 << 20


@contextlib.contextmanager
def replacing(path: str | Path, what: str) -> Iterator[Path]:
    """A path to be written, whose content `path` has once the block ends without an error.

    A link stays a link and its target is written; so is a device, a pipe, a file with several names, or one in a
    folder that cannot be. `what` names the role ("outputs") in errors. Raises DataError, OSError.
    """
    check_writable(path, what)
    path = Path(path)
    target = _replaceable(path)
    try:
        folder = _scratch_folder(target)
    except OSError as e:
        if target is None or not target.exists():
            raise DataError(f"{what} {path}: cannot be written ({e.strerror}); choose another file") from None
        folder, target = _scratch_folder(None), None
    with folder as name:
        scratch = Path(name) / "new"
        yield scratch
        try:
            if target is None:
                with scratch.open("rb") as source, path.open("wb") as f:
                    shutil.copyfileobj(source, f)
                return
            with contextlib.suppress(OSError):  # of what is there: another's file stays theirs where it can
                before = target.stat()
                scratch.chmod(stat.S_IMODE(before.st_mode))
                os.chown(scratch, before.st_uid, before.st_gid)
            os.replace(scratch, target)
        except OSError as e:
            raise DataError(f"{what} {path}: cannot be written ({e.strerror}); choose another file") from None


def write_file(path: str | Path, data: bytes | str, what: str) -> None:
    """`replacing` for what is in memory; text is UTF-8."""
    with replacing(path, what) as scratch:
        scratch.write_bytes(data.encode(errors="surrogateescape") if isinstance(data, str) else data)


def check_writable(path: str | Path, what: str) -> None:
    """Raise DataError if a file of this name could not be written: to be asked before long work, not after."""
    path = Path(path)
    try:
        there = True
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            there, mode = False, 0
        if stat.S_ISDIR(mode):
            raise DataError(f"{what} {path}: is a folder; give the name of a file")
        folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
        if not there and not folder.is_dir():
            raise DataError(f"{what} {path}: folder {folder} does not exist; create it first")
        place = path if there else folder
        allowed = os.access(place, os.W_OK)
    except DataError:
        raise
    except (OSError, ValueError) as e:  # a name that is too long, a loop of links, a zero byte
        reason = getattr(e, "strerror", None) or e
        raise DataError(f"{what} {path}: cannot be written ({reason}); choose another file") from None
    if not allowed:
        raise DataError(f"{what} {path}: {place} is write-protected; choose another file")


def _scratch_folder(target: Path | None) -> tempfile.TemporaryDirectory[str]:
    """Beside the target, from where it can be renamed; else that for temporary files."""
    return tempfile.TemporaryDirectory(prefix=SCRATCH, dir=None if target is None else target.parent)


def read_toml(path: str | Path, what: str) -> dict[str, Any]:
    """A file of settings, UTF-8 whatever the locale. Raises ConfigError that begins with `what` and the path."""
    try:
        with Path(path).open("rb") as f:
            data = f.read(_TOML_LIMIT + 1)
    except (OSError, ValueError) as e:  # a ValueError: a zero byte in the path
        reason = getattr(e, "strerror", None) or e
        raise ConfigError(f"{what} {path}: cannot be read ({reason}); give a TOML file") from None
    if len(data) > _TOML_LIMIT:
        raise ConfigError(f"{what} {path}: has more than {_TOML_LIMIT:,} bytes; give a TOML file")
    try:
        return tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{what} {path}: is not TOML ({e})") from None


def shown(path: str | Path) -> str:
    """A path as text for people and files: what the locale, or the path's own bytes, cannot say is replaced."""
    return str(path).encode(errors="surrogateescape").decode(errors="replace")


def _replaceable(path: Path) -> Path | None:
    """Where a new file may take the place of the old one; None where only writing into it will do."""
    if not path.exists():
        return Path(os.path.realpath(path))
    there = path.stat()
    if not stat.S_ISREG(there.st_mode) or there.st_nlink != 1:
        return None
    target = Path(os.path.realpath(path))
    same = target.exists() and os.path.samestat(
        target.stat(), there
    )  # not so for /dev/fd/N of an unlinked file
    return target if same else None


# -- the cache ----------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """$SATEEN_CACHE, or `sateen` in the user's cache folder."""
    if own := os.environ.get("SATEEN_CACHE"):
        return Path(own).absolute()
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home, as in some containers
        home = Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache").absolute() / "sateen"


def cache_entry(kind: str, *key: str) -> Path:
    """The file of an entry that depends on the texts `key`, for `load_entry` and `store_entry`."""
    return cache_dir() / kind / f"{hashlib.sha256(chr(0).join(key).encode()).hexdigest()}.json"


def kept_in_cache() -> dict[str, tuple[int, int]]:
    """Of each kind of entry, a folder, the number of files and their bytes."""
    found: dict[str, tuple[int, int]] = {}
    for path, size, _ in _cached_files():
        kind = path.relative_to(cache_dir()).parts[0]
        files, total = found.get(kind, (0, 0))
        found[kind] = files + 1, total + size
    return found


def clean_cache(limit: int) -> int:
    """Remove the files that were used longest ago until so many bytes are left; how many are removed.

    What another process is about to read is made again there: an entry without a file of its own is none.
    """
    files = sorted(_cached_files(), key=lambda f: f[2])
    left = total = sum(size for _, size, _ in files)
    for path, size, _ in files:
        if left <= limit:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            left -= size
            path.parent.rmdir()  # where it was the last one
    return total - left


def _cached_files() -> list[tuple[Path, int, float]]:
    """In folders of the cache: path, bytes, when it was last used."""
    found = []
    for path in cache_dir().glob("*/**/*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                there = path.stat()
                found.append((path, there.st_size, max(there.st_atime, there.st_mtime)))
    return found


SUMS = "sha256"
"""In the folder of an entry: a line "HASH NAME" for each of its files."""


def cached(entry: Path, names: Sequence[str]) -> bool:
    """Whether the entry, a folder, holds these files as they were kept."""
    try:
        lines = (entry / SUMS).read_text("utf-8").splitlines()
        return {f"{_sum(entry / name)} {name}" for name in names} <= set(lines)
    except (OSError, ValueError):
        return False


def keep(entry: Path, files: Mapping[str, Path]) -> None:
    """Make the entry of these files, in the place of a damaged one. Others see all of it or nothing. Raises OSError."""
    if cached(entry, tuple(files)):  # another process was quicker
        return
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=entry.parent) as name:
        fresh, old = Path(name) / "new", Path(name) / "old"
        fresh.mkdir()
        for file, source in files.items():
            shutil.copy2(source, fresh / file)
        (fresh / SUMS).write_text("".join(f"{_sum(fresh / file)} {file}\n" for file in files), "utf-8")
        with contextlib.suppress(FileNotFoundError):
            os.rename(entry, old)
        try:
            os.rename(fresh, entry)
        except OSError:
            if not cached(entry, tuple(files)):
                raise


def load_entry(path: Path) -> bytes | None:
    """What `store_entry` kept in the one file; None where it is not there, or damaged."""
    try:
        digest, _, data = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return data if digest == hashlib.sha256(data).hexdigest().encode() else None


def store_entry(path: Path, data: bytes) -> None:
    """Best effort: a cache that cannot be written only costs time."""
    with contextlib.suppress(OSError, DataError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, hashlib.sha256(data).hexdigest().encode() + b"\n" + data, "cache")


def _sum(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
