"""What long passes have found, unit by unit, kept in the cache: a compile that was interrupted goes on after the last
unit, if nothing that the unit depends on is another."""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sateen.arrays import read_npz, write_npz
from sateen.files import cache_dir, load_entry, store_entry
from sateen.formats import Format
from sateen.ir.nodes import Expression

CODE = ("sateen.compiler", "sateen.formats", "sateen.ir")
"""Packages whose code decides what a pass finds."""


class Kept:
    """Results of a pass by the number of the unit; `depends` is all that they depend on, besides the code."""

    def __init__(self, name: str, *depends: Any) -> None:
        self.folder, self.key = cache_dir() / name, digest(code_version(), np.__version__, *depends)

    def load(self, unit: int) -> dict[str, np.ndarray] | None:
        """None where it is not there, or damaged: it is found again."""
        path = self._path(unit)
        data = load_entry(path)
        return None if data is None else dict(read_npz(io.BytesIO(data), f"cache {path}"))

    def store(self, unit: int, arrays: Mapping[str, np.ndarray]) -> None:
        """A cache that cannot be written is none: nothing else is lost."""
        data = io.BytesIO()
        write_npz(data, dict(arrays))
        store_entry(self._path(unit), data.getvalue())

    def _path(self, unit: int) -> Path:
        return self.folder / f"{self.key}-{unit}.npz"


@cache
def code_version(packages: tuple[str, ...] = CODE) -> str:
    """A hash of their source, so that what an older one has found is not taken."""
    sha = hashlib.sha256()
    for name in packages:
        folder = Path(str(importlib.import_module(name).__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            sha.update(path.read_bytes())
    return sha.hexdigest()


def digest(*values: Any) -> str:
    """A hash of arrays, dataclasses, mappings, sequences and plain values. Raises TypeError for anything else."""
    sha = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Expression):  # shows its function alone
            parts = value.postorder()
            place = {id(p): i for i, p in enumerate(parts)}
            value = [(p.function, p.parameters, [place[id(a)] for a in p.arguments]) for p in parts]
        kind = type(value).__name__
        match value:
            case np.ndarray():
                sha.update(f"{kind} {value.dtype.str} {value.shape}\n".encode())
                sha.update(np.ascontiguousarray(value).tobytes())
            case Format():
                sha.update(f"format {value.name}\n".encode())
            case str() | bytes() | bool() | int() | float() | None:
                text = repr(value)
                sha.update(f"{kind} {len(text)} {text}\n".encode())
            case Mapping():
                sha.update(f"mapping {len(value)}\n".encode())
                for item in value.items():
                    add(item)
            case tuple() | list():
                sha.update(f"sequence {len(value)}\n".encode())
                for item in value:
                    add(item)
            case frozenset():
                add(sorted(value))
            case _ if is_dataclass(value) and not isinstance(value, type):
                found = fields(value)
                sha.update(f"{kind} {len(found)}\n".encode())
                for f in found:
                    add(getattr(value, f.name))
            case _:
                raise TypeError(f"no hash of {kind}")

    add(values)
    return sha.hexdigest()
