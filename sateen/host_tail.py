"""What follows the tensors at which a file was cut, run by ONNX Runtime on the host: `--until`, then `run --host`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sateen.errors import DataError, missing
from sateen.sim.engines import Build

FILE = "host.onnx"


def finish_on_host(
    b: Build, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The file's own outputs, (N, ...) by name, from those of the build and the samples, one after the other.

    Raises
    ------
    DataError
        The build was not cut, or what follows refuses the values.
    BuildError
        ONNX Runtime is missing.
    """
    if FILE not in b.manifest["files"]:
        raise DataError(
            f"build {b.folder}: nothing is left to the host in it; compile with --until, or leave --host out"
        )
    try:
        import onnxruntime
    except ImportError:
        raise missing("onnxruntime", "host") from None
    session = onnxruntime.InferenceSession(b.read(FILE), providers=["CPUExecutionProvider"])
    known = {**inputs, **outputs}
    ports = {p.name: p for p in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    found: list[list[np.ndarray]] = []
    for n in range(len(next(iter(outputs.values())))):
        try:
            given = {name: _sample(known[name][n], port) for name, port in ports.items()}
            found.append([np.asarray(y) for y in session.run(names, given)])
        except Exception as e:  # ONNX Runtime has types of its own for each failure
            line = " ".join(str(e).split())
            raise DataError(
                f"build {b.folder}: {FILE} fails on sample {n} in ONNX Runtime ({line})"
            ) from None
    first = {p.shape[0] for p in ports.values() if p.shape} | {1}
    single = [bool(o.shape) and o.shape[0] in first for o in session.get_outputs()]
    tail = {name: _joined([ys[k] for ys in found], single[k], name, b) for k, name in enumerate(names)}
    order = [*b.manifest.get("host", {}).get("outputs", ()), *tail]
    both = {**outputs, **tail}
    return {name: both[name] for name in dict.fromkeys(order)}


_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64} | {
    f"tensor({t})": np.dtype(t) for t in ("bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))
}


def _sample(x: np.ndarray, port: object) -> np.ndarray:
    """With a batch of one where the port's rank has one more dimension."""
    shape, kind = port.shape, port.type  # type: ignore[attr-defined]
    batch = shape is not None and len(shape) != x.ndim
    return np.asarray(x[None] if batch else x, _TYPES.get(kind, x.dtype))


def _joined(values: list[np.ndarray], single: bool, name: str, b: Build) -> np.ndarray:
    """(N, ...), of values that may each be a batch of one."""
    if len({v.shape for v in values}) > 1:
        sizes = ", ".join(map(str, sorted({v.shape for v in values})[:3]))
        raise DataError(
            f"build {b.folder}: output '{name}' has other sizes for other samples ({sizes}); run them one by one"
        )
    return np.concatenate(values) if single else np.stack(values)
