"""Named arrays in .npz files: calibration samples, inputs and outputs, one array per graph port, batch first.

A file may come from anywhere: nothing is unpickled, and no size that it claims is believed before its data is there.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import resource
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from sateen.errors import DataError
from sateen.files import replacing

REMEDY = "write it with numpy.savez(FILE, INPUT_NAME=samples), batch first"
NPY = ".npy"
_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
"""Of the header's length, by the version of the .npy format."""
_HEADER_LIMIT = 10_000  # characters, as NumPy's own
_DEFLATE_LIMIT = 1032  # bytes out of one byte: the most that deflate can express
_UNPACKED_LIMIT, _PACKED_LIMIT = 1 << 28, 100
"""An archive of more bytes than that must not be packed more tightly than so many times."""
_CHUNK = 1 << 20
_NAME_LIMIT = 0xFFFF - len(NPY)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


class _Damaged(ValueError):
    """What is wrong with a file, in a few words."""


def load_npz(path: str | Path, what: str) -> dict[str, np.ndarray]:
    """Every array of the file; `what` names the role ("calibration data") in errors.

    Raises DataError for a file that is missing, is no .npz, is damaged or holds anything but arrays of numbers.
    """
    path = Path(path)
    where = f"{what} {path}"
    try:
        if path.is_dir():
            raise DataError(f"{where}: is a folder, not an .npz file; {REMEDY}")
        if not path.exists():
            raise DataError(f"{where}: no such file; {REMEDY}")
        with path.open("rb") as f:
            arrays = read_npz(f, where)
    except (OSError, ValueError) as e:  # a ValueError: a path with a zero byte
        if isinstance(e, DataError):
            raise
        raise DataError(
            f"{where}: cannot be read ({getattr(e, 'strerror', None) or _one_line(e)}); {REMEDY}"
        ) from None
    if not arrays:
        raise DataError(f"{where}: holds no array; {REMEDY}")
    for name, array in arrays.items():
        check_numeric(array, f"{where}: '{name}'")
    return arrays


def read_npz(file: IO[bytes], where: str) -> dict[str, np.ndarray]:
    """Every array of an open .npz file; `where` begins the message of the DataError for one that is none."""
    try:
        if not file.seekable():
            raise _Damaged("a pipe cannot be read as an archive")
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(len(_MAGIC)) == _MAGIC:
            raise DataError(f"{where}: holds one unnamed array (.npy), not named ones (.npz); {REMEDY}")
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, size, where)
            return {_stem(m.filename): _member(archive, m, where) for m in members}
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{where}: does not fit into memory; give fewer samples") from None
    except Exception as e:  # zipfile and zlib have a dozen for a damaged file
        reason = str(e) if isinstance(e, _Damaged) else _one_line(e)
        raise DataError(f"{where}: damaged or not an .npz file ({reason}); {REMEDY}") from None


def read_npy(data: bytes) -> np.ndarray:
    """One array from the content of an .npy file. Raises ValueError."""
    stream = io.BytesIO(data)
    shape, order, dtype = _header(stream)
    return _array(stream, shape, order, dtype, len(data) - stream.tell())


def _check_members(members: Sequence[zipfile.ZipInfo], size: int, where: str) -> None:
    """That the archive's own table can be true, before anything is taken out of it."""
    seen: set[str] = set()
    for m in members:
        name = _stem(m.filename)
        if m.flag_bits & 1:
            raise _Damaged(f"'{name}' is encrypted")
        if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _Damaged(f"'{name}' has a compression that numpy does not write")
        if name in seen:
            raise _Damaged(f"'{name}' is in it twice")
        seen.add(name)
        ratio = 1 if m.compress_type == zipfile.ZIP_STORED else _DEFLATE_LIMIT
        if m.file_size > m.compress_size * ratio:
            raise _Damaged(f"'{name}' claims {m.file_size} bytes, and {m.compress_size} are there")
    if sum(m.compress_size for m in members) > size:
        raise _Damaged("its parts overlap")
    total = sum(m.file_size for m in members)
    if total > _UNPACKED_LIMIT and total > size * _PACKED_LIMIT:
        raise DataError(
            f"{where}: {size:,} bytes unpack to {total:,}, more than {_PACKED_LIMIT} times as many; if so meant, "
            "write it with numpy.savez, not savez_compressed"
        )
    if total > (memory := available_memory()):
        raise DataError(
            f"{where}: holds {total:,} bytes, and there are {memory:,} of memory; give fewer samples"
        )


def available_memory() -> int:
    """Bytes that this process could have."""
    limits = [resource.getrlimit(r)[0] for r in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit ("max")
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(n for n in limits if n != resource.RLIM_INFINITY)


def _member(archive: zipfile.ZipFile, m: zipfile.ZipInfo, where: str) -> np.ndarray:
    name = _stem(m.filename)
    with archive.open(m) as stream:
        try:
            shape, order, dtype = _header(stream)
            if dtype.hasobject:
                raise DataError(f"{where}: '{name}' holds pickled objects; these are never loaded; {REMEDY}")
            if dtype.kind not in "fiub":
                raise DataError(
                    f"{where}: '{name}' has type {dtype}; real numbers are needed, such as float32"
                )
            return _array(stream, shape, order, dtype, m.file_size - stream.tell())
        except _Damaged as e:
            raise _Damaged(f"'{m.filename}' {e}") from None


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index runs fastest, and type."""
    start = stream.read(len(_MAGIC) + 2)
    if not start.startswith(_MAGIC) or len(start) < len(_MAGIC) + 2:
        raise _Damaged("is no array")
    version = (start[-2], start[-1])
    if version not in _LENGTH_BYTES:
        raise _Damaged(f"is of version {version[0]}.{version[1]} of the .npy format")
    count = stream.read(_LENGTH_BYTES[version])
    length = int.from_bytes(count, "little")
    if length > _HEADER_LIMIT:
        raise _Damaged(f"has a header of {length} bytes")
    text = stream.read(length)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, order, dtype = read(io.BytesIO(count + text))
    except Exception as e:  # Python's parser and tokenizer: SyntaxError, RecursionError, MemoryError, …
        raise _Damaged(f"has a header that cannot be read ({type(e).__name__})") from None
    if not all(type(n) is int and n >= 0 for n in shape):
        raise _Damaged(f"has shape {shape}")
    return shape, order, dtype


def _array(stream: IO[bytes], shape: tuple[int, ...], order: bool, dtype: np.dtype, there: int) -> np.ndarray:
    """The data that follows the header, `there` bytes as the archive says."""
    wanted = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise _Damaged("holds pickled objects; these are never loaded")
    if wanted != there:
        raise _Damaged(f"claims {dtype} {shape}, {wanted} bytes, and {there} are there")
    data = bytearray()  # grows with what is read: the claim may still be wrong
    while chunk := stream.read(_CHUNK):
        data += chunk
    if len(data) != wanted:
        raise _Damaged(f"claims {wanted} bytes, and {len(data)} are there")
    flat = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
    return flat.reshape(shape[::-1]).transpose() if order else flat.reshape(shape)


def _stem(name: str) -> str:
    return name.removesuffix(NPY)


@dataclass(frozen=True, slots=True)
class Wording:
    """How it is said what is wrong with inputs: templates of `what` they are, the `name` of one and `names` of all, the
    array `x`, its number of samples `n` and the shape `wanted`, and of the `first` input `batch` samples.
    """

    numbers: str
    """Kinds of NumPy's types that are taken."""
    where: str
    unknown: str
    missing: str
    kind: str
    scalar: str
    shape: str
    empty: str
    batch: str
    infinite: str


_EMPTY = "{where} has shape {x.shape}; the first dimension is the batch, at least 1"
GIVEN = Wording(
    numbers="fiub",
    where="{what}: '{name}'",
    unknown="{where} is no input of the graph; its inputs are {quoted}",
    missing="{what}: input '{name}' is missing; give one array for each of {quoted}",
    kind="{where} has type {x.dtype}; real numbers are needed, such as float32",
    scalar=_EMPTY,
    shape="{where} has shape {x.shape}; it must be {wanted}, batch first",
    empty=_EMPTY,
    batch="{where} has {n} samples, other inputs {batch}; give equal batches",
    infinite="{where} is {value} at {at}; every value must be finite",
)
"""To someone who gave `what`: a file, or arrays of the Python interface."""
_SHAPE = "{where} shape {x.shape}; it must be {wanted}, batch first"
NETWORK = Wording(
    numbers="fiu",
    where="input '{name}':",
    unknown="{where} the network has no such input; it has {names}",
    missing="{where} missing; give an array of shape {wanted}",
    kind="{where} type {x.dtype}; it must hold real numbers, e.g. float32",
    scalar=_SHAPE,
    shape=_SHAPE,
    empty="{where} no samples, shape {x.shape}; give at least one",
    batch="{where} {n} samples, but '{first}' has {batch}; all inputs need the same batch",
    infinite="{where} sample {at[0]} holds NaN or infinity; remove or repair it",
)
"""Of a network's inputs, wherever they are from."""


def check_numeric(array: np.ndarray, where: str) -> None:
    """Raise DataError unless the array has a batch of at least 1 and holds finite real numbers."""
    if array.dtype.kind not in GIVEN.numbers:
        raise DataError(GIVEN.kind.format(where=where, x=array))
    if array.ndim == 0 or len(array) == 0:
        raise DataError(GIVEN.empty.format(where=where, x=array))
    if at := _infinite(array):
        raise DataError(GIVEN.infinite.format(where=where, value=array[at], at=at))


def _infinite(array: np.ndarray) -> tuple[int, ...]:
    """Where the first value is that is not finite; empty if there is none."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return ()
    return tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])


def check_ports(
    arrays: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], what: str = "", *, say: Wording = GIVEN
) -> dict[str, np.ndarray]:
    """The arrays in the order of `shapes` (port name to shape without batch): finite numbers, one for each port, of its
    shape and of one batch of at least 1. Raises DataError, in the words of `say`.
    """
    known: dict[str, Any] = {
        "what": what,
        "names": ", ".join(shapes),
        "quoted": ", ".join(f"'{n}'" for n in shapes),
    }
    found: dict[str, np.ndarray] = {}

    def need(ok: bool, text: str, name: str, **more: Any) -> None:
        if not ok:
            where = say.where.format(what=what, name=name)
            raise DataError(text.format(**known, where=where, name=name, **more))

    for name in arrays:
        need(name in shapes, say.unknown, name)
    for name, shape in shapes.items():
        wanted = f"({', '.join(map(str, ('N', *shape)))})"
        need(name in arrays, say.missing, name, wanted=wanted)
        x = np.asarray(arrays[name])
        need(x.dtype.kind in say.numbers, say.kind, name, x=x)
        need(x.ndim > 0, say.scalar, name, x=x, wanted=wanted)
        need(tuple(x.shape[1:]) == tuple(shape), say.shape, name, x=x, wanted=wanted)
        need(len(x) > 0, say.empty, name, x=x)
        first, other = next(iter(found.items()), (name, x))
        need(len(x) == len(other), say.batch, name, n=len(x), first=first, batch=len(other))
        if at := _infinite(x):
            need(False, say.infinite, name, at=at, value=x[at])
        found[name] = x
    return found


def save_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays, whatever their names; the file is either complete or as it was. Raises DataError, OSError."""
    check_names(arrays, "outputs")
    with replacing(path, "outputs") as scratch, scratch.open("wb") as f:
        write_npz(f, arrays)


def write_npz(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """As numpy.savez, which takes some names for options, and the same bytes each time."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(name + NPY, _EPOCH)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as f:
                np.lib.format.write_array(f, np.asanyarray(array), allow_pickle=False)


def check_names(names: Iterable[str], what: str) -> None:
    """Raise DataError for a name that an archive cannot hold."""
    for name in names:
        if "\0" in name or len(name.encode()) > _NAME_LIMIT:
            raise DataError(
                f"{what}: the name '{name[:60]}' has a zero character or more than {_NAME_LIMIT} bytes, which an "
                ".npz file cannot hold; rename it in the model"
            )


def _one_line(e: BaseException) -> str:
    return " ".join(str(e).split())[:120] or type(e).__name__
