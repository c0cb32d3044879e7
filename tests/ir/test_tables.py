"""Every table has a row for each kind of op, node and instruction that there is, and none for what is not there."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Iterable

import pytest

from sateen.ir import graph


def members(union: object) -> set[type]:
    return set(typing.get_args(union))


NODES = members(graph.Node)

TABLES: dict[str, Iterable[object]] = {
    "sateen.compiler.float_executor.FLOAT": NODES,
    "sateen.compiler.ptq.torch_graph.TORCH": NODES,
}
"""What a table must have rows for, by where it is."""


@pytest.mark.parametrize("where", TABLES)
def test_a_table_lacks_nothing(where):
    module, _, name = where.rpartition(".")
    if ".torch_" in module:
        pytest.importorskip("torch", reason="needs the extra learn")
    rows = set(getattr(importlib.import_module(module), name))
    lacking, unknown = (sorted(map(str, s)) for s in (set(TABLES[where]) - rows, rows - set(TABLES[where])))
    assert not lacking, f"{where} has no row for {', '.join(lacking)}"
    assert not unknown, f"{where} has rows for what is not there: {', '.join(unknown)}"


def test_a_union_has_every_class():
    """A new class that is not in its union would be in no table either."""
    assert {c for c in vars(graph).values() if _op(c, graph.FloatOp)} == NODES


def _op(c: object, base: type) -> bool:
    return isinstance(c, type) and issubclass(c, base) and c is not base


def test_an_unknown_node_is_no_node():
    """What a node has to answer it cannot leave out."""
    with pytest.raises(TypeError, match="abstract"):
        type("Mystery", (graph.FloatOp,), {})()
