"""The host's side of a run: codes to the bytes the accelerator reads, and what it wrote back to codes.

A build's manifest says for each input and output tensor where it lies in memory and how. Layers with few input
channels read an input whose kernel taps are folded into the channels; the fold is done here, in the copy that
brings the image into the accelerator's layout anyway.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sateen.machine.config import AcceleratorConfig
from sateen.machine.packing import pack_activations, unpack_activations


@dataclass(frozen=True, slots=True)
class Fold:
    """Taps (kernel_h, kernel_w) of a convolution become channels: (H, W, C) to (H', W', kernel_h*kernel_w*C)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right
    padding_code: int

    def apply(self, codes: np.ndarray) -> np.ndarray:
        """(N, H, W, C) to (N, H', W', kernel_h*kernel_w*C), taps outermost."""
        (kh, kw), (sy, sx), (dy, dx), (t, l, b, r) = self.kernel, self.stride, self.dilation, self.pads
        x = np.pad(codes, ((0, 0), (t, b), (l, r), (0, 0)), constant_values=self.padding_code)
        h = (x.shape[1] - (kh - 1) * dy - 1) // sy + 1
        w = (x.shape[2] - (kw - 1) * dx - 1) // sx + 1
        taps = [
            x[:, i * dy : i * dy + (h - 1) * sy + 1 : sy, j * dx : j * dx + (w - 1) * sx + 1 : sx]
            for i in range(kh)
            for j in range(kw)
        ]
        return np.concatenate(taps, axis=-1)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Fold:
        return cls(
            tuple(d["kernel"]), tuple(d["stride"]), tuple(d["dilation"]), tuple(d["pads"]), d["padding_code"]
        )


@dataclass(frozen=True, slots=True)
class Region:
    """A tensor in memory: `offset` in bytes from the base, (H, W, C) as stored, raw outputs in `planes` digits."""

    tensor: str
    offset: int
    size: int
    shape: tuple[int, int, int]
    planes: int = 0  # 0: codes; n: an integer in n digits of activation.bits, the lowest first
    fold: Fold | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Region:
        fold = Fold.from_dict(d["fold"]) if d["fold"] else None
        return cls(d["tensor"], d["offset"], d["size"], tuple(d["shape"]), d["planes"], fold)

    def pack(self, codes: np.ndarray, config: AcceleratorConfig, batch: int = 1) -> np.ndarray:
        """(N, H, W, C) codes of the network's input to (runs, size) bytes; zeros fill a run of `batch` samples up.

        What a run's samples have in common is the first one's.
        """
        if self.fold:
            codes = self.fold.apply(codes)
        if batch == 1 or np.prod(codes.shape[1:]) == np.prod(self.shape):
            codes = codes[::batch].reshape(-1, *self.shape)
        else:
            rest = np.zeros((-len(codes) % batch, *codes.shape[1:]), codes.dtype)
            codes = np.concatenate([codes, rest]).reshape(-1, *self.shape)
        return pack_activations(codes, config)

    def unpack(self, data: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
        """(N, size) bytes to (N, H, W, C): codes, or integers (int64, or objects where wider) of a raw output."""
        if not self.planes:
            return unpack_activations(data, self.shape, config)
        bits = config.activation.bits
        wide = bits * self.planes > 63
        digits = data.reshape(len(data), self.planes, -1)
        value: np.ndarray = np.zeros((len(data), *self.shape), object if wide else np.int64)
        for k in range(self.planes):
            digit = unpack_activations(digits[:, k], self.shape, config).astype(value.dtype)
            value += digit << (bits * k)
        sign = 1 << (bits * self.planes - 1)
        return np.where(value >= sign, value - 2 * sign, value)
