"""Samples as people have them: .npz and .npy files, folders of images, arrays, or random numbers for cycles alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sateen.arrays import check_numeric, load_npz, read_npy
from sateen.errors import DataError, missing
from sateen.ir.ports import Port

RANDOM = "random"
"""In the place of a file: so many samples of no meaning."""
RANDOM_SAMPLES = 16
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


RANDOM_MEANS_NOTHING = "calibration is random: cycles and cost hold, outputs and accuracy mean nothing"


@dataclass(frozen=True, slots=True)
class Spec:
    """An input as its samples are: name and shape without the batch, and the type and limits of integers, if it takes
    some."""

    name: str
    shape: tuple[int, ...]
    kind: str = "float32"
    limits: tuple[int, int] = (0, 0)

    @staticmethod
    def of(ports: Sequence[Port]) -> list[Spec]:
        return list({p.source: _spec(p) for p in ports}.values())


def _spec(port: Port) -> Spec:
    if port.kind == "float32":
        return Spec(port.source, tuple(port.shape))
    if port.table is not None:
        return Spec(port.source, tuple(port.shape), port.kind, (0, len(port.table) - 1))
    if port.codes is not None:
        limits = port.codes.format.min_fixed, port.codes.format.max_fixed
    else:
        info = np.iinfo(port.kind)
        limits = max(int(info.min), -128), min(int(info.max), 127)
    return Spec(port.source, tuple(port.shape), port.kind, limits)


@dataclass(frozen=True, slots=True)
class Images:
    """A folder of images, in the order of their paths, as samples of a network's one input.

    Each is resized so that its shorter side has `size` pixels (by default as large as the input needs), cut to the
    input's height and width around its centre, scaled so that white is `white`, and then has `mean` subtracted and is
    divided by `std`.

    Examples
    --------
    >>> photos = sateen.Images("photos", size=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    >>> photos.white
    """

    folder: str | Path
    size: int | None = None
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    white: float = 1.0

    def load(self, spec: Spec, what: str) -> np.ndarray:
        """(N, *shape), float32 or the input's type of codes. Raises DataError."""
        try:
            from PIL import Image
        except ImportError:
            raise missing("Pillow, which reads images,", "images") from None
        where = f"{what} {self.folder}"
        paths = [p for p in sorted(Path(self.folder).rglob("*")) if p.suffix.lower() in SUFFIXES]
        if not paths:
            raise DataError(f"{where}: no image in the folder; {', '.join(SUFFIXES)} are read")
        first, height, width, channels = _planes(spec, where)
        if self.size is not None and self.size < max(height, width):
            raise DataError(
                f"{where}: size {self.size}; the input needs {height} by {width} pixels of each image"
            )
        mean, std = (_each(v, channels, n, where) for v, n in ((self.mean, "mean"), (self.std, "std")))
        if not (std > 0).all():
            raise DataError(f"{where}: std {', '.join(f'{s:g}' for s in std)}; each must be positive")
        found = []
        for path in paths:
            try:
                with Image.open(path) as image:
                    pixels = _cut(image.convert("L" if channels == 1 else "RGB"), height, width, self.size)
            except (OSError, ValueError, Image.DecompressionBombError) as e:
                reason = " ".join(str(e).split()) or type(e).__name__
                raise DataError(
                    f"{where}: {path.name} cannot be read ({reason}); repair or remove it"
                ) from None
            x = (pixels.reshape(height, width, channels) * (self.white / 255) - mean) / std
            found.append(x.transpose(2, 0, 1) if first else x)
        samples = np.stack(found).reshape(len(found), *spec.shape)
        if spec.kind == "float32":
            return samples.astype(np.float32)
        return np.rint(samples).clip(*spec.limits).astype(spec.kind)


def _planes(spec: Spec, where: str) -> tuple[bool, int, int, int]:
    """Whether channels come first, height, width, channels."""
    shape = spec.shape
    if len(shape) == 3 and shape[0] in (1, 3):
        return True, shape[1], shape[2], shape[0]
    if len(shape) == 3 and shape[2] in (1, 3):
        return False, shape[0], shape[1], shape[2]
    if len(shape) == 2:
        return False, shape[0], shape[1], 1
    text = "×".join(map(str, shape))
    raise DataError(
        f"{where}: input '{spec.name}' of shape {text} takes no images; give an .npz or .npy file"
    )


def _each(values: Sequence[float], channels: int, what: str, where: str) -> np.ndarray:
    if len(values) not in (1, channels):
        raise DataError(
            f"{where}: {what} has {len(values)} values; give one, or one for each of {channels} channels"
        )
    return np.broadcast_to(np.asarray(values, np.float64), (channels,))


def _cut(image: Any, height: int, width: int, size: int | None) -> np.ndarray:
    """Resized, and the middle of it."""
    from PIL import Image

    scale = size / min(image.size) if size else max(height / image.height, width / image.width)
    wide, tall = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    resized = image.resize((wide, tall), Image.Resampling.BILINEAR)
    left, top = (wide - width) // 2, (tall - height) // 2
    return np.asarray(resized.crop((left, top, left + width, top + height)), np.float64)


Given = str | Path | Mapping[str, np.ndarray] | Images
"""A file's or a folder's path, "random", arrays by input, images."""


def is_random(given: Any) -> bool:
    return isinstance(given, str) and given == RANDOM


def early(given: Given, what: str) -> Given:
    """Arrays where they can be read before the network: an error comes at once. Raises DataError."""
    if isinstance(given, Mapping | Images) or is_random(given):
        return given
    path = Path(given)
    return given if path.is_dir() or path.suffix == ".npy" else load_npz(path, what)


def load_samples(given: Given, ports: Callable[[], Sequence[Port]], what: str) -> dict[str, np.ndarray]:
    """One array for each input, the batch first; `ports` gives those of the network where the file has no names for
    them, and `what` names the role in errors. Raises DataError."""
    if isinstance(given, Mapping):
        return {name: np.asarray(array) for name, array in given.items()}
    if is_random(given):
        return random_samples(Spec.of(ports()))
    if isinstance(given, Images):
        spec = _only(ports(), f"{what} {given.folder}", "a folder of images")
        return {spec.name: given.load(spec, what)}
    path = Path(given)
    if path.is_dir():
        return load_samples(Images(path), ports, what)
    if path.suffix == ".npy" and path.is_file():
        return {_only(ports(), f"{what} {path}", "an .npy file").name: _load_npy(path, what)}
    return load_npz(path, what)


def _only(ports: Sequence[Port], where: str, kind: str) -> Spec:
    specs = Spec.of(ports)
    if len(specs) != 1:
        names = ", ".join(f"'{s.name}'" for s in specs)
        raise DataError(
            f"{where}: {kind} is for networks with one input, and there are {names}; give an .npz file"
        )
    return specs[0]


def _load_npy(path: Path, what: str) -> np.ndarray:
    try:
        array = read_npy(path.read_bytes())
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or " ".join(str(e).split())
        raise DataError(
            f"{what} {path}: {reason}; write it with numpy.save(FILE, samples), batch first"
        ) from None
    check_numeric(array, f"{what} {path}")
    return array


def random_samples(specs: Sequence[Spec], count: int = RANDOM_SAMPLES) -> dict[str, np.ndarray]:
    """Normal numbers, or codes evenly, the same in every run."""
    rng = np.random.default_rng(0)
    found = {}
    for spec in specs:
        shape = (count, *spec.shape)
        if spec.kind == "float32":
            found[spec.name] = rng.normal(0, 1, shape).astype(np.float32)
        else:
            found[spec.name] = rng.integers(*spec.limits, shape, endpoint=True).astype(spec.kind)
    return found
