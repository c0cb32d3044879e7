"""What peers.py and its peers share: a row of the table, and networks, ONNX files with scikit-learn's digits."""

from __future__ import annotations

import resource
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import onnx

from sateen.models.data import digits_split


class Skipped(Exception):
    """Why a peer does not run here."""


@dataclass(slots=True)
class Row:
    """What is None was not measured, for a reason in `notes`."""

    tool: str
    network: str
    seconds: float | None = None
    """From the ONNX file to Verilog."""
    verilog: str = ""
    top: str = ""
    cycles: float | None = None
    """A sample, one after the other."""
    accuracy: float | None = None
    exact: bool | None = None
    """RTL against the tool's own integers, bit for bit."""
    speed: float | None = None
    """Simulated cycles a second."""
    notes: list[str] = field(default_factory=list)


@contextmanager
def processor_time(found: list[float]) -> Iterator[None]:
    """Appends the seconds of this process and of its children that have ended."""

    def now() -> float:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in usage)

    begin = now()
    yield
    found.append(now() - begin)


NETWORKS = ("digits_cnn", "mlp")


@dataclass(frozen=True, slots=True)
class Network:
    """`x_*`: float32 samples from 0 to 1, batch first; `layers`: (M, N, K) of each matrix product, of one sample."""

    name: str
    path: Path
    input: str
    x_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    layers: tuple[tuple[int, int, int], ...]


def networks(folder: Path, names: Sequence[str]) -> Iterator[Network]:
    digits = digits_split()
    if "digits_cnn" in names:
        layers = ((64, 16, 9), (64, 16, 144), (16, 32, 144), (1, 32, 128), (1, 10, 32))
        with as_file(files("sateen.models") / "digits_cnn.onnx") as path:
            yield Network("digits_cnn", path, "input", digits.x_train, digits.x_test, digits.y_test, layers)
    if "mlp" in names:
        path, flat = folder / "mlp.onnx", (digits.x_train.reshape(-1, 64), digits.x_test.reshape(-1, 64))
        onnx.save(mlp(flat[0], digits.y_train), path)
        yield Network("mlp", path, "input", *flat, digits.y_test, ((1, 32, 64), (1, 10, 32)))


def mlp(x: np.ndarray, labels: np.ndarray) -> onnx.ModelProto:
    """64, 32 and 10 features, trained to some 94 %."""
    from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]  # optional

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopped before it converges
        trained = MLPClassifier((32,), random_state=0, max_iter=60, alpha=1e-2).fit(x, labels)
    nodes, given, y = [], [], "input"
    for n, (w, b) in enumerate(zip(trained.coefs_, trained.intercepts_, strict=True), 1):
        given += [
            onnx.numpy_helper.from_array(w.T.astype(np.float32), f"w{n}"),
            onnx.numpy_helper.from_array(b.astype(np.float32), f"b{n}"),
        ]
        nodes.append(onnx.helper.make_node("Gemm", [y, f"w{n}", f"b{n}"], [f"dense{n}"], transB=1))
        y = f"dense{n}"
        if n < len(trained.coefs_):
            nodes.append(onnx.helper.make_node("Relu", [y], [f"relu{n}"]))
            y = f"relu{n}"
    shapes = {
        name: onnx.helper.make_tensor_value_info(name, 1, [1, size])
        for name, size in (("input", 64), (y, 10))
    }
    graph = onnx.helper.make_graph(nodes, "mlp", [shapes["input"]], [shapes[y]], given)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
