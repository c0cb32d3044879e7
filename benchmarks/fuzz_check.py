"""Runs one case of the fuzzer on all engines, and says what came of it."""

from __future__ import annotations

import re
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import layout_graphs
import numpy as np
import onnx
import onnxruntime
from fuzz_case import LAYOUT, NETWORK, Case

import sateen
from sateen.errors import SateenError

EQUAL, REFUSED = "equal", "refused"
TOLERANCE = 1e-3
"""Of the largest value: ONNX Runtime computes in float32."""
CASE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """`kind` is EQUAL, REFUSED (in one line), or what is wrong, which most likely has one cause."""

    kind: str
    message: str = ""
    cycles: int = 0
    instructions: int = 0

    @property
    def bad(self) -> bool:
        return self.kind not in (EQUAL, REFUSED)


class _Slow(BaseException):
    """Not an Exception, so that nothing on the way takes it for one of its own."""


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _Slow

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(case: Case, model: onnx.ModelProto, seconds: int = CASE_SECONDS) -> Outcome:
    """What the file means against ONNX Runtime; then reference, program, model and, with `case.rtl`, RTL."""
    stage = "import"
    try:
        with _limit(seconds), tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            if case.kind == LAYOUT and (said := layout_graphs.verdict(model)) != "equal":
                return Outcome(REFUSED if said == "refused" else f"layout: {kind(said)}", said)
            folder, inputs = Path(name), case.inputs(model)
            if case.kind == NETWORK and (difference := float_difference(model, inputs)):
                return Outcome("float", difference)
            stage = "compile"
            onnx.save(model, folder / "model.onnx")
            manifest = sateen.compile(
                folder / "model.onnx",
                folder / "build",
                calibration=inputs,
                config=case.config,
                sparsity=case.sparsity,
                sparsity_method=case.method,
                dataflow=case.dataflow,
                ptq=case.ptq,
                power_of_two=case.power_of_two,
            )
            stage = "run"
            batch = {k: x[: case.batch] for k, x in inputs.items()}
            engines = ["reference", "program", "model", *(["rtl"] if case.rtl else [])]
            found = {}
            for stage in engines:
                found[stage] = sateen.run(
                    folder / "build", batch, stage, latency=case.latency, interval=case.interval
                )
    except SateenError as e:
        text = f"{type(e).__name__}: {e}"
        return Outcome(REFUSED if stage in ("import", "compile") else f"{stage} ended: {kind(str(e))}", text)
    except _Slow:
        return Outcome(f"{stage} is slow", f"{stage} took more than {seconds} s")
    except Exception as e:
        last = traceback.extract_tb(e.__traceback__)[-1]
        return Outcome(
            f"{stage} crashed: {type(e).__name__} in {Path(last.filename).name}", traceback.format_exc()
        )
    return _compared(found, manifest["instructions"])


def _compared(found: dict[str, sateen.RunResult], instructions: int) -> Outcome:
    wanted = found["reference"].outputs or {}
    cycles = found["model"].cycles or 0
    for engine in ("program", "rtl"):
        if engine not in found:
            continue
        outputs = found[engine].outputs or {}
        for name, values in wanted.items():
            if values.tobytes() != outputs[name].tobytes():
                n = int((values != outputs[name]).sum())
                text = f"{n} of {values.size} values of output '{name}' differ"
                return Outcome(f"bits of {engine}", text, cycles, instructions)
    if "rtl" in found and found["rtl"].cycles != cycles:
        return Outcome("cycles", f"model {cycles}, rtl {found['rtl'].cycles}", cycles, instructions)
    return Outcome(EQUAL, "", cycles, instructions)


def kind(message: str) -> str:
    """A message without its numbers and names."""
    return re.sub(r"'[^']*'|\d+", "…", message)[:80]


def float_difference(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> str:
    """Where the imported network's numbers are not ONNX Runtime's; empty where they are."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in session.get_outputs()]
    one = {k: x[:1] for k, x in inputs.items()}
    wanted = dict(zip(names, session.run(names, one), strict=True))
    found = sateen.load(model).run(one)
    for name, values in wanted.items():
        if found[name].shape != values.shape:
            return f"output '{name}': shape {found[name].shape}, ONNX Runtime's is {values.shape}"
        if not np.isfinite(values).all():
            continue
        error = np.abs(found[name] - values).max(initial=0.0)
        if not error <= TOLERANCE * np.abs(values).max(initial=0.0) + 1e-30:
            return f"output '{name}': {error} away from ONNX Runtime's, largest {np.abs(values).max()}"
    return ""
