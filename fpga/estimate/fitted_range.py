"""The sizes that a model was fitted to, and what of a configuration lies beyond them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sateen.machine.config import AcceleratorConfig


def extent(configs: Sequence[AcceleratorConfig], fields: Iterable[str]) -> dict[str, list[int]]:
    """Least and most of each field."""
    return {f: [min(getattr(c, f) for c in configs), max(getattr(c, f) for c in configs)] for f in fields}


def beyond(
    config: AcceleratorConfig, limits: Mapping[str, Any], fields: Iterable[str], data: str
) -> list[str]:
    """The fields that lie beyond the data ("fitted", "placed"), with their values and those limits."""
    found = []
    for field in fields:
        value, (low, high) = getattr(config, field), limits[field]
        if not low <= value <= high:
            found.append(f"{field} = {value} ({data} from {low} to {high})")
    return found
