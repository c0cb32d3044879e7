"""Libraries in C++ run on a user's file in a second process: a failed assertion there ends that process, not this one.

The process stays for the next file, ends with this one, and is started anew after its death. It is given models
without their large constants (`importer.constants`), so that little has to be sent. `isolated_worker` is its side.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from typing import IO

REQUEST = struct.Struct("<16sQ")  # operation, bytes that follow
REPLY = struct.Struct("<?Q")  # whether it succeeded, bytes that follow: the result, or what went wrong
WORKER = "from sateen.compiler.importer.isolated_worker import serve; serve()"
BOOT = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); {WORKER}"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class ForeignError(Exception):
    """The library refused: its own words, one line."""


class Died(ForeignError):
    """The library ended its process: by which signal, and what it last wrote."""


class _Worker:
    """The other process; used by one thread at a time."""

    def __init__(self) -> None:
        self.errors: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115, closed by `end`
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors or subprocess.DEVNULL,
            env=os.environ | ONE_THREAD,
        )

    def call(self, operation: str, model: bytes) -> bytes:
        """Raises ForeignError; the process is of no more use after `Died` and after any other exception."""
        to, back = self.process.stdin, self.process.stdout
        assert to is not None and back is not None
        try:
            to.write(REQUEST.pack(operation.encode(), len(model)))
            to.write(model)
            to.flush()
            head = back.read(REPLY.size)
            good, size = REPLY.unpack(head)
            reply = back.read(size)
            if len(reply) < size:
                raise EOFError
        except (OSError, EOFError, struct.error):
            raise Died(self._death()) from None
        if not good:
            raise ForeignError(reply.decode(errors="replace"))
        return reply

    def _death(self) -> str:
        code = self.process.wait()
        try:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        except ValueError:
            how = f"signal {-code}"
        text = ""
        if self.errors is not None:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").split("\n")
            text = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {text}" if text else how

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):  # what could not be sent
                if stream is not None:
                    stream.close()


_lock = threading.Lock()
_worker: _Worker | None = None


def start() -> None:
    """Start the process, if there is none, so that it is ready by the first `call`."""
    with _lock, contextlib.suppress(OSError):
        _started()


def call(operation: str, model: bytes) -> bytes:
    """The result of one of `isolated_worker.OPERATIONS` on a serialized model.

    Raises ForeignError if the library refuses the model, and Died if it ended its process.
    """
    with _lock:
        try:
            worker = _started()
        except OSError:  # no more processes, or no interpreter: an embedded one
            from sateen.compiler.importer.isolated_worker import run

            good, reply = run(operation, model)
            if not good:
                raise ForeignError(reply.decode(errors="replace")) from None
            return reply
        try:
            return worker.call(operation, model)
        except Died:
            _ended()
            raise
        except ForeignError:
            raise
        except BaseException:  # Ctrl-C while it was at work
            _ended()
            raise


def _started() -> _Worker:
    global _worker
    if _worker is None:
        _worker = _Worker()
    return _worker


def _ended() -> None:
    global _worker
    if _worker is not None:
        _worker.end()
        _worker = None


def _forgotten() -> None:
    """A forked process has no share in its parent's worker."""
    global _lock, _worker
    _lock, _worker = threading.Lock(), None


atexit.register(_ended)
os.register_at_fork(after_in_child=_forgotten)
