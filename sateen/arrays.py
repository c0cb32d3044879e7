"""Named arrays in .npz files: calibration samples, inputs and outputs, one array per graph port, batch first."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sateen.errors import DataError


def load_npz(path: str | Path, what: str) -> dict[str, np.ndarray]:
    """Every array of the file; `what` names the role ("calibration data") in errors.

    Raises DataError for a file that is missing, is no .npz, is damaged or holds pickled objects.
    """
    path = Path(path)
    remedy = "write it with numpy.savez(FILE, INPUT_NAME=samples), batch first"
    if not path.exists():
        raise DataError(f"{what} {path}: no such file; {remedy}")
    if path.is_dir():
        raise DataError(f"{what} {path}: is a folder, not an .npz file; {remedy}")
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{what} {path}: holds one unnamed array (.npy), not named ones (.npz); {remedy}")
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, UnicodeDecodeError, NotImplementedError) as e:
        raise DataError(f"{what} {path}: damaged or not an .npz file ({_one_line(e)}); {remedy}") from None
    except ValueError as e:
        if "pickle" in str(e).lower() or "Object arrays" in str(e):
            reason = "holds pickled objects or is not an .npz file; these are never loaded"
        else:
            reason = f"damaged or not an .npz file ({_one_line(e)})"
        raise DataError(f"{what} {path}: {reason}; {remedy}") from None
    except OSError as e:
        raise DataError(f"{what} {path}: cannot be read ({e.strerror or _one_line(e)}); {remedy}") from None
    if not arrays:
        raise DataError(f"{what} {path}: holds no array; {remedy}")
    for name, array in arrays.items():
        check_numeric(array, f"{what} {path}: '{name}'")
    return arrays


def check_numeric(array: np.ndarray, where: str) -> None:
    """Raise DataError unless the array has a batch of at least 1 and holds finite real numbers."""
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where} has type {array.dtype}; real numbers are needed, such as float32")
    if array.ndim == 0 or array.shape[0] == 0:
        raise DataError(f"{where} has shape {array.shape}; the first dimension is the batch, at least 1")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DataError(f"{where} is {array[first]} at {first}; every value must be finite")


def check_ports(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int]], what: str
) -> dict[str, np.ndarray]:
    """The arrays in the order of `shapes` (port name to shape without batch), or DataError.

    All batches must be equal.
    """
    names = ", ".join(f"'{n}'" for n in shapes)
    for name in arrays:
        if name not in shapes:
            raise DataError(f"{what}: '{name}' is no input of the graph; its inputs are {names}")
    batch: int | None = None
    for name, shape in shapes.items():
        if name not in arrays:
            raise DataError(f"{what}: input '{name}' is missing; give one array for each of {names}")
        array = arrays[name]
        check_numeric(array, f"{what}: '{name}'")
        if tuple(array.shape[1:]) != tuple(shape):
            wanted = ", ".join(map(str, ("N", *shape)))
            raise DataError(f"{what}: '{name}' has shape {array.shape}; it must be ({wanted}), batch first")
        if batch is not None and len(array) != batch:
            raise DataError(
                f"{what}: '{name}' has {len(array)} samples, other inputs {batch}; give equal batches"
            )
        batch = len(array)
    return {name: arrays[name] for name in shapes}


def save_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays in one step: the file is either complete or as it was. Raises DataError, OSError."""
    path = Path(path)
    if not path.parent.is_dir():
        raise DataError(f"outputs {path}: folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise DataError(f"outputs {path}: is a folder; give the name of a file")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as f:
            np.savez(f, **dict(arrays))  # type: ignore[arg-type]
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _one_line(e: BaseException) -> str:
    return " ".join(str(e).split())[:120] or type(e).__name__
