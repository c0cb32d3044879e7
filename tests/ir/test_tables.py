"""Every table has a row for each kind of op, node and instruction that there is, and none for what is not there."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Iterable

import numpy as np
import pytest

from sateen.formats import Integer
from sateen.ir import nodes, ports, quantized
from sateen.machine import isa


def members(union: object) -> set[object]:
    return set(typing.get_args(union))


NODES = members(nodes.Node)
POOLS = members(nodes.PoolKind)
OPS = members(quantized.Op)
GRADIENTS = members(quantized.Gradient)
"""Ops of a training step, which have no operators of ONNX."""
EXECUTED = {layout.opcode for layout in isa.EXECUTED}

TABLES: dict[str, Iterable[object]] = {
    "sateen.compiler.float_executor.FLOAT": NODES,
    "sateen.compiler.ptq.torch_graph.TORCH": NODES,
    "sateen.compiler.float_executor.POOLS": POOLS,
    "sateen.compiler.ptq.torch_graph.POOLS": POOLS,
    "sateen.sim.reference.REFERENCE": OPS,
    "sateen.compiler.schedule.lower.LOWERING": OPS,
    "sateen.compiler.export.model.EXPORT": OPS - GRADIENTS,
    "sateen.sim.program.EXECUTE": EXECUTED,
    "sateen.sim.program.INTO": set(isa.Target),
    "sateen.sim.model.DURATION": EXECUTED,
    "sateen.compiler.schedule.traffic.LOADED": set(isa.Target),
    "sateen.compiler.schedule.traffic.MOVED": {x.opcode for x in isa.EXECUTED if x.unit in isa.BUS},
}
"""What a table must have rows for, by where it is."""


@pytest.mark.parametrize("where", TABLES)
def test_a_table_lacks_nothing(where):
    module, _, name = where.rpartition(".")
    if ".torch_" in module:
        pytest.importorskip("torch", reason="needs the extra learn")
    rows = set(getattr(importlib.import_module(module), name))
    lacking, unknown = (
        sorted(getattr(x, "__name__", None) or str(x) for x in s)
        for s in (set(TABLES[where]) - rows, rows - set(TABLES[where]))
    )
    assert not lacking, f"{where} has no row for {', '.join(lacking)}"
    assert not unknown, f"{where} has rows for what is not there: {', '.join(unknown)}"


@pytest.mark.parametrize(
    ("module", "base", "union"), [(nodes, nodes.FloatOp, NODES), (quantized, quantized.QuantizedOp, OPS)]
)
def test_a_union_has_every_class(module, base, union):
    """A new class that is not in its union would be in no table either."""
    classes = {c for c in vars(module).values() if isinstance(c, type) and issubclass(c, base)}
    assert {c for c in classes if dataclasses.is_dataclass(c)} == union


@pytest.mark.parametrize("base", [nodes.FloatOp, quantized.QuantizedOp])
def test_what_an_op_has_to_answer_it_cannot_leave_out(base):
    with pytest.raises(TypeError, match="abstract"):
        type("Mystery", (base,), {})()


def test_a_table_refuses_what_it_has_no_row_for():
    """An op that was forgotten ends in an error that names it, not in another op's row."""

    class Mystery:
        output = "y"

    from sateen.sim.reference import reference_codes

    port = ports.Port("x", (1, 1, 1), (1, 1, 1))
    tensors = {n: quantized.Tensor(n, (1, 1, 1), quantized.Quant(Integer(8), 1.0)) for n in ("x", "y")}
    network = quantized.QuantizedGraph("g", (port,), (), (Mystery(),), tensors)
    with pytest.raises(KeyError, match="Mystery"):
        reference_codes(network, {"x": np.zeros((1, 1, 1, 1))})
