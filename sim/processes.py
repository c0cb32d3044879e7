"""Simulators that run side by side, each with a job of its own; what they say of their progress, put together."""

from __future__ import annotations

import queue
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sateen.errors import BuildError


@dataclass(frozen=True, slots=True)
class Process:
    """A simulator's run in the folder `work`, where job`number` is."""

    executable: Path
    work: Path
    number: int
    first: int
    """Sample of the run that is the job's first."""

    def start(self) -> subprocess.Popen[str]:
        try:
            with (self.work / f"report{self.number}").open("wb") as out:
                return subprocess.Popen(
                    [str(Path(self.executable).absolute()), f"job{self.number}"],
                    cwd=self.work,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                )
        except OSError as e:
            raise BuildError(
                f"RTL simulator {self.executable}: cannot be run ({e.strerror}); delete it to rebuild it, or set "
                "SATEEN_CACHE to a folder where programs may run"
            ) from None

    def failure(self, code: int, errors: Sequence[str]) -> BuildError:
        """Of a run that ended with `code` and wrote these lines."""
        if code < 0:
            return BuildError(
                f"RTL simulator {self.executable}: ended by signal {-code}; free some memory, or delete it to "
                "rebuild it"
            )
        reason = errors[-1] if errors else f"exit code {code}"
        reason = re.sub(r"\bsample (\d+)", lambda m: f"sample {int(m[1]) + self.first}", reason)
        return BuildError(f"RTL simulation failed: {reason}")

    def report(self) -> str:
        """Standard output of the run."""
        return (self.work / f"report{self.number}").read_text(encoding="utf-8")


def run_processes(processes: Sequence[Process], progress: Callable[[int, int], None] | None) -> list[str]:
    """Runs all at once: their standard outputs. One that fails ends those after it, an exception of `progress` all.

    Parameters
    ----------
    progress : callable, optional
        Called with (samples done, cycles of the samples under way) of all, now and then, in this thread.
    """
    lines: queue.SimpleQueue[tuple[int, str | None]] = queue.SimpleQueue()
    running: list[subprocess.Popen[str]] = []
    errors: list[list[str]] = [[] for _ in processes]
    under_way = [(0, 0)] * len(processes)
    failed: dict[int, int] = {}
    """Exit codes, by process."""

    def read(n: int, run: subprocess.Popen[str]) -> None:
        assert run.stderr is not None
        for line in run.stderr:
            lines.put((n, line))
        lines.put((n, None))

    try:
        for n, process in enumerate(processes):
            running.append(process.start())
            threading.Thread(target=read, args=(n, running[n]), daemon=True).start()
        left = len(processes)
        while left:
            n, line = lines.get()
            if line is None:
                left -= 1
                if code := running[n].wait():
                    failed[n] = code
                    for later in running[n + 1 :]:
                        later.kill()
                continue
            word, *rest = line.split()[:3] or [""]
            if word == "progress":
                under_way[n] = int(rest[0]), int(rest[1])
                if progress is not None:
                    progress(sum(done for done, _ in under_way), sum(cycles for _, cycles in under_way))
            else:
                errors[n].append(line.strip())
    finally:
        for run in running:
            if run.poll() is None:
                run.kill()
            run.wait()
            if run.stderr is not None:
                run.stderr.close()
    for n, code in sorted(failed.items()):  # the first sample that fails, whichever process was faster
        raise processes[n].failure(code, errors[n])
    return [process.report() for process in processes]
