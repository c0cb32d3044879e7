"""Where a network meets the host: inputs and outputs in the ONNX view, and what the host does to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sateen.errors import ModelError
from sateen.ir.chosen import Chosen
from sateen.ir.functions import FUNCTIONS, OUTPUT_FUNCTIONS
from sateen.ir.quant import Quant, Quantizer, rounded_to

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class InputOp:
    """An operation that the host does on a graph input's values (..., C), before they become codes, in the type
    `precision` as the model file does.

    kind "affine" is x * a + b, "clip" is x between a and b, "bipolar" is a where x >= 0 and b elsewhere; a and b are
    one number for all channels, or one for each. The others are the rows of `FUNCTIONS` with `host`.
    """

    kind: str
    a: tuple[float, ...] = ()
    b: tuple[float, ...] = ()
    precision: str = "float32"

    def apply(self, x: np.ndarray) -> np.ndarray:
        """float64 of the same shape. Raises ModelError for an unknown kind."""
        a, b, x = np.array(self.a), np.array(self.b), rounded_to(self.precision, x)
        match self.kind:
            case "affine":  # factors of 1 and offsets of 0 change nothing: each rounds where it is one
                return rounded_to(self.precision, rounded_to(self.precision, x * a) + b)
            case "clip":
                return rounded_to(self.precision, np.minimum(np.maximum(x, a), b))
            case "bipolar":
                return rounded_to(self.precision, np.where(x >= 0, a, b))
        function = FUNCTIONS.get(self.kind)
        if function is None or not function.host:
            on_host = sorted(name for name, f in FUNCTIONS.items() if f.host)
            known = ", ".join(("affine", "clip", "bipolar", *on_host))
            raise ModelError(f"input operation '{self.kind}' is not known; known are {known}")
        with np.errstate(all="ignore"):
            return rounded_to(self.precision, np.nan_to_num(function(x), nan=0.0))


@dataclass(frozen=True, slots=True)
class Port:
    """How an ONNX tensor (batch dimension left out) maps to the (H, W, C) tensor of the same name.

    `hwc = x.reshape(view).transpose(axes)`; `view` has three dimensions, `axes` is a permutation of them. On an input
    the host then does `host`, in order.

    Where the model file has codes, arrays of the integer type `kind`, `codes` says what real numbers they stand for;
    without it the integers are the values.
    """

    name: str
    shape: tuple[int, ...]
    view: tuple[int, int, int]
    axes: tuple[int, int, int] = (0, 1, 2)
    host: tuple[InputOp, ...] = ()
    codes: Quant | None = None
    kind: str = "float32"
    shared: str = ""
    """The file's input that it shows, where that has another name: of several ports of one, the first has its name."""
    table: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Rows (V, …) that the file's integers choose, before the view: the host looks them up."""

    @property
    def source(self) -> str:
        """The name of the file's input."""
        return self.shared or self.name

    @property
    def hwc(self) -> Shape:
        h, w, c = (self.view[a] for a in self.axes)
        return h, w, c

    def to_hwc(self, x: np.ndarray) -> np.ndarray:
        """(N, *shape) to (N, H, W, C), values for codes, with what the host does."""
        if self.codes is not None:
            x = self.codes.real(np.asarray(x, np.float64) * 2.0**self.codes.format.lsb_exponent)
        if self.table is not None:
            x = np.asarray(self.table[np.asarray(x, np.int64)], np.float64)
        x = x.reshape(len(x), *self.view).transpose(0, *(a + 1 for a in self.axes))
        for op in self.host:
            x = op.apply(x)
        return x

    def from_hwc(self, x: np.ndarray) -> np.ndarray:
        """(N, H, W, C) to (N, *shape)."""
        inverse = np.argsort(self.axes)
        return x.transpose(0, *(a + 1 for a in inverse)).reshape(len(x), *self.shape)

    def stated(self, y: np.ndarray) -> np.ndarray:
        """Real numbers (N, *shape) as the file's output has them: float32, codes, or integers."""
        if self.codes is not None:
            fmt = self.codes.format
            return fmt.fixed(self.codes.quantize(y)).astype(self.kind)
        return (np.rint(y) if np.issubdtype(self.kind, np.integer) else y).astype(self.kind)


def first_of_each(ports: tuple[Port, ...]) -> list[Port]:
    """One port of each of the file's inputs, in order."""
    return list({p.source: p for p in ports[::-1]}.values())[::-1]


@dataclass(frozen=True, slots=True)
class HostOp:
    """An operation on a graph output that the host does in float64, in the ONNX view with the batch first.

    kind is one of `OUTPUT_FUNCTIONS`, along `axis`, which is negative: it counts from the last dimension; or "round", a
    quantizer of the file after one of them.
    """

    kind: str
    axis: int = -1
    quantizer: Quantizer | None = None

    def apply(self, x: np.ndarray) -> np.ndarray:
        """(N, *shape) to the same shape, float64. Raises ModelError for an unknown kind."""
        if self.quantizer is not None:
            return self.quantizer.round(x)
        if self.kind not in OUTPUT_FUNCTIONS:
            known = ", ".join(OUTPUT_FUNCTIONS)
            raise ModelError(f"host operation '{self.kind}' is not known; known are {known}")
        return OUTPUT_FUNCTIONS[self.kind].values(np.asarray(x, np.float64), self.axis)


@dataclass(frozen=True, slots=True)
class Output:
    """A graph output: tensor `tensor`, presented as `port`, then `host` operations in order."""

    port: Port
    tensor: str
    host: tuple[HostOp | Chosen, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the ONNX output for one sample, host operations done."""
        shape = self.port.shape
        for op in self.host:
            shape = op.shape(shape) if isinstance(op, Chosen) else shape
        return shape

    def present(self, x: np.ndarray) -> np.ndarray:
        """The tensor's values (N, H, W, C) as the ONNX output (N, *shape), host operations done."""
        y = self.port.from_hwc(x)
        for op in self.host:
            y = op.apply(y)
        return y
