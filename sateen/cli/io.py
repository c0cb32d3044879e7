"""What all commands share: clean standard output, progress on standard error, and errors of one line."""

from __future__ import annotations

import _thread
import contextlib
import errno
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from sateen.errors import SateenError
from sateen.files import shown

_QUIET_S = 10.0
"""Seconds between lines of progress where standard error is no terminal."""


class _Out:
    """Where results go: the standard output of before `_stdout_kept_clean`."""

    stream: IO[str] | None = None


def emit(text: str) -> None:
    """Print a result on standard output."""
    stream = _Out.stream or sys.stdout
    print(text, file=stream)
    stream.flush()


def result_path(path: str) -> str:
    """The path itself, but standard output's stands for what it was before `_stdout_kept_clean`."""
    if _Out.stream is None or path not in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        return path
    return f"/dev/fd/{_Out.stream.fileno()}"


def emit_json(value: Any) -> None:
    """Print one JSON object on standard output; numbers that are not finite become null."""
    emit(json.dumps(_plain(value), indent=2, allow_nan=False))


def emit_table(table: Table) -> None:
    """Print a table on standard output; as wide as it needs to be where that is no terminal."""
    stream = _Out.stream or sys.stdout
    width = None if stream.isatty() else 240
    console = Console(file=stream, width=width, highlight=False)
    console.print(table)
    stream.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int | float | bool) or value is None:
        return value
    return shown(str(value))


@contextlib.contextmanager
def progress(title: str, each_stage: bool = False) -> Iterator[Callable[[str, float], None]]:
    """Yield `report(stage, fraction)`: a bar in a terminal, elsewhere one line each 10 seconds.

    `each_stage` prints a line for every stage, in a terminal above the bar.
    """
    before = ""

    def is_new(stage: str) -> bool:
        nonlocal before
        new, before = each_stage and stage != before, stage
        return new

    def label(stage: str) -> str:
        return title if title.endswith(stage) else f"{title}: {stage}"

    if not sys.stderr.isatty():
        last = time.monotonic()

        def line(stage: str, fraction: float) -> None:
            nonlocal last
            if is_new(stage) or time.monotonic() - last >= _QUIET_S:
                last = time.monotonic()
                print(f"sateen: {label(stage)} {100 * fraction:.0f} %", file=sys.stderr, flush=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=1.0)

        def bar(stage: str, fraction: float) -> None:
            if is_new(stage):
                bars.console.print(f"sateen: {label(stage)}", markup=False, highlight=False)
            bars.update(task, description=label(stage), completed=min(1.0, max(0.0, fraction)))

        yield bar


@contextlib.contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """Send everything that libraries and tools print to standard error; `emit` alone writes results."""
    saved = None
    before = sys.stdout
    with contextlib.suppress(Exception):
        real = sys.__stdout__
        if real is not None and before is real and real.fileno() == 1:
            real.flush()
            saved = os.dup(1)
            os.dup2(2, 1)
    try:
        _Out.stream = (
            before
            if saved is None
            else os.fdopen(os.dup(saved), "w", encoding="utf-8", errors="surrogateescape")
        )
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        stream, _Out.stream = _Out.stream, None
        if saved is not None:
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
            os.dup2(saved, 1)
            os.close(saved)


@contextlib.contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Raise again an interrupt that came where Python ignores exceptions: in a finalizer or a callback."""
    before, again = sys.unraisablehook, []

    def hook(ignored: Any) -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            return before(ignored)
        again.append(
            threading.Timer(0.02, _thread.interrupt_main)
        )  # by then this hook, which ignores too, is over
        again[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in again:
            timer.cancel()


def guarded(command: Callable[[], int], debug: bool = False) -> int:
    """Run a command: its exit code, or one line on standard error and 2 (130 when interrupted)."""

    def terminate(*_: object) -> None:
        raise KeyboardInterrupt  # so that temporary files are removed as for Ctrl-C

    try:
        with contextlib.suppress(ValueError):  # only the main thread may
            signal.signal(signal.SIGTERM, terminate)
        if not debug:
            warnings.simplefilter("ignore")
        with _no_interrupt_lost(), _stdout_kept_clean():
            return command()
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BaseException as e:
        if isinstance(e, SystemExit):
            raise
        if debug:
            traceback.print_exc()
        return _fail(describe(e), getattr(e, "exit_code", 2))


def describe(e: BaseException) -> str:
    """One line about an error; the traceback of one that no user caused goes to a log file."""
    if isinstance(e, SateenError):
        return str(e)
    if isinstance(e, OSError) and e.errno in _OS_REMEDY:
        where = f" ({e.filename})" if e.filename else ""
        return f"{_OS_REMEDY[e.errno]}{where}"
    if isinstance(e, OSError):
        return f"{e.filename or 'a file'}: {e.strerror or type(e).__name__}; choose another file or folder"
    if isinstance(e, MemoryError):
        return "out of memory; use a smaller batch or a smaller configuration, or free memory"
    log = _log(e)
    place = f"; the details are in {log}" if log else "; add --debug for the details"
    return f"internal error ({type(e).__name__}: {str(e)[:200]}){place}"


_OS_REMEDY = {
    errno.ENOSPC: "no space left on the disk; free some, or choose another folder (TMPDIR for temporary files)",
    errno.EDQUOT: "disk quota exceeded; free some space, or choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
}


def _log(e: BaseException) -> str | None:
    try:
        handle, name = tempfile.mkstemp(prefix="sateen-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as f:
            f.write("".join(traceback.format_exception(e)))
        return name
    except OSError:
        return None


def _fail(message: str, code: int) -> int:
    print(f"sateen: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _silence_stdout() -> None:
    """The reader went away; keep the interpreter from complaining about it at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
