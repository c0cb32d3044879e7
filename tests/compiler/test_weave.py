"""Softmax beside the products of attention: fewer cycles, and no instruction before one that it must come after."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from attention_nets import fused

import sateen
from sateen.compiler.schedule import backend
from sateen.compiler.schedule.order import conflict
from sateen.compiler.schedule.weave import attentions, weave
from sateen.machine.isa import Opcode

MACHINE = sateen.preset("mac256").replace(act_bank_depth=4096, vector_lanes=16)
ROWS = (Opcode.ROW, Opcode.LOAD)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    net = fused(heads=3, d=64, tokens=100, features=192)
    path = tmp_path_factory.mktemp("weave") / "model.onnx"
    onnx.save(net.model(), path)
    network = sateen.load(path)
    (port,) = network.graph.inputs
    x = np.random.default_rng(0).normal(0, 1, (2, *port.shape)).astype(np.float32)
    return network.quantize(calibration={port.name: x})


def mapped(quantized, monkeypatch, config=MACHINE, alone=False):
    """And the steps before and after they are woven."""
    captured = []

    def spy(steps, spans, config):
        captured.append((steps, weave(steps, spans, config)))
        return captured[-1][1]

    with monkeypatch.context() as patched:
        patched.setattr(backend, "weave", spy)
        if alone:
            patched.setattr(backend, "attentions", lambda graph: [])
        found = quantized.map(config)
        assert captured
        return found, *captured[-1]


def test_is_faster(quantized, monkeypatch):
    together, _, steps = mapped(quantized, monkeypatch)
    alone, _, _ = mapped(quantized, monkeypatch, alone=True)
    ((_, middle, last),) = attentions(together.program.graph)
    rows = [
        i for i, s in enumerate(steps) if s.instruction.layer == middle and s.instruction.opcode == Opcode.ROW
    ]
    products = [i for i, s in enumerate(steps) if s.instruction.layer == last]
    assert min(products) < max(rows)
    assert sum(steps[i].instruction.out_w for i in rows) == 3 * 100
    softmax = sum(row["cycles"] for row in alone.layers if row["kind"] == "Softmax")
    assert together.cycles < alone.cycles - softmax // 4


@pytest.mark.parametrize("lanes", [4, 16])
def test_what_is_in_conflict_stays_in_order(quantized, monkeypatch, lanes):
    found, before, after = mapped(quantized, monkeypatch, MACHINE.replace(vector_lanes=lanes))
    ((_, middle, _),) = attentions(found.program.graph)
    others = [s for s in before if s.instruction.layer != middle]
    assert [s for s in after if s.instruction.layer != middle] == others
    original = next(i for i, s in enumerate(before) if s.instruction.layer == middle)
    earlier = {id(s) for s in before[:original]}
    seen: set[int] = set()
    for step in after:
        if step.instruction.layer != middle:
            seen.add(id(step))
            continue
        assert step.instruction.opcode in ROWS
        for other in others:
            if conflict(other, step) or conflict(step, other):
                assert (id(other) in seen) == (id(other) in earlier)


def test_is_never_slower(quantized, monkeypatch):
    """The vector unit has more to do than the array here."""
    slow = MACHINE.replace(vector_lanes=2)
    together, alone = (mapped(quantized, monkeypatch, slow, alone=a)[0] for a in (False, True))
    assert together.cycles <= alone.cycles


def test_in_batches(quantized, monkeypatch):
    """Of three samples no slower than three runs of one, and faster than without."""
    config = MACHINE.replace(act_bank_depth=16384)
    with monkeypatch.context() as patched:
        patched.setattr(backend, "attentions", lambda graph: [])
        alone = quantized.map(config, batch=3)
    together = quantized.map(config, batch=3)
    assert together.cycles < alone.cycles
    assert together.cycles <= 3 * quantized.map(config).cycles
