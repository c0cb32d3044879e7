"""schedule.json: what each layer costs in cycles and bytes, predicted by the cycle model."""

from __future__ import annotations

from typing import Any

import numpy as np

from sateen.compiler.backend import Program
from sateen.hw.isa import Engine, Opcode
from sateen.hw.load import word_bytes
from sateen.ir.quantized import Linear, Op, QuantizedGraph
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.model import Event


def dense_macs(op: Op, graph: QuantizedGraph) -> int:
    """Multiplications that the network needs for one sample, zeros in the weights included."""
    if not isinstance(op, Linear):
        return 0
    if op.macs is not None:
        return op.macs
    h, w, _ = graph.tensors[op.output].shape
    return h * w * int(np.prod(op.weight.shape))


def needed_macs(op: Op, graph: QuantizedGraph) -> int:
    """As `dense_macs`, without the zeros that the layer's N:M pattern promises."""
    total = dense_macs(op, graph)
    if not isinstance(op, Linear) or op.sparsity.dense:
        return total
    inputs, (n, m) = op.weight.shape[3], (op.sparsity.n, op.sparsity.m)
    return total // inputs * (inputs // m * n + min(n, inputs % m))


def _bytes(event: Event, program: Program) -> int:
    i, config = event.instruction, program.config
    if i.opcode == Opcode.STORE:
        return i.words * config.act_word_bytes
    return i.words * word_bytes(i.target, config) if i.opcode == Opcode.LOAD else 0


def schedule(program: Program, memory: MemoryTiming, macs: list[int]) -> dict[str, Any]:
    """`macs` has one entry for each op. A layer's cycles are those by which it moves the end of the program."""
    timeline = program.predict(memory)
    config, graph = program.config, program.graph
    layers: list[dict[str, Any]] = []
    end = 0
    for index, op in enumerate(graph.ops):
        events = [e for e in timeline.events if e.instruction.layer == index]
        layers.append(_layer(program, index, op, events, macs[index], end))
        end = max(end, layers[-1]["end"])
    if layers:
        layers[-1]["cycles"] += timeline.cycles - end
    return {
        "cycles": timeline.cycles,
        "multipliers": config.multipliers,
        "latency": memory.latency,
        "interval": memory.interval,
        "layers": layers,
        "timeline": [
            {
                "engine": e.instruction.engine.name.lower(),
                "opcode": e.instruction.opcode.name,
                "layer": e.instruction.layer,
                "start": e.start,
                "done": e.done,
            }
            for e in timeline.events
        ],
        "stalls": {
            engine.name.lower(): _stalls(timeline.events, engine, timeline.cycles) for engine in Engine
        },
    }


def _layer(
    program: Program, index: int, op: Op, events: list[Event], macs: int, previous_end: int
) -> dict[str, Any]:
    graph, config = program.graph, program.config

    def busy(engine: Engine) -> int:
        return sum(e.done - e.start + 1 for e in events if e.instruction.engine == engine)

    start = min((e.start for e in events), default=previous_end)
    end = max((e.done + 1 for e in events), default=previous_end)
    cycles = max(0, end - previous_end)
    dataflow, choice = program.choices.get(index, (None, {}))
    shapes = graph.tensors
    tensors = {
        t: ("on chip" if t in program.placement.on_chip else "memory") for t in (*op.inputs, op.output)
    }
    return {
        "index": index,
        "name": op.name,
        "kind": type(op).__name__,
        "sources": list(op.source),
        "input_shape": list(shapes[op.inputs[0]].shape),
        "output_shape": list(shapes[op.output].shape),
        "weight_format": op.weight_format.name if isinstance(op, Linear) else None,
        "activation_format": shapes[op.output].quant.format.name,
        "sparsity": op.sparsity.name if isinstance(op, Linear) else "dense",
        "macs": macs,
        "dense_macs": dense_macs(op, graph),
        "cycles": cycles,
        "dataflow": dataflow,
        "dataflow_cycles": choice,
        "start": start,
        "end": end,
        "matrix_cycles": busy(Engine.MATRIX),
        "vector_cycles": busy(Engine.VECTOR),
        "load_cycles": busy(Engine.LOAD),
        "store_cycles": busy(Engine.STORE),
        "utilization": macs / (cycles * config.multipliers) if cycles else 0.0,
        "bytes_loaded": sum(_bytes(e, program) for e in events if e.instruction.opcode == Opcode.LOAD),
        "bytes_stored": sum(_bytes(e, program) for e in events if e.instruction.opcode == Opcode.STORE),
        "tiles": sum(e.instruction.opcode in (Opcode.MATRIX, Opcode.POOL) for e in events),
        "tensors": tensors,
    }


def _stalls(events: list[Event], engine: Engine, cycles: int) -> dict[str, int]:
    """As the counters of the accelerator define them, but for STALL, which only a run measures."""
    mine = [e for e in events if e.instruction.engine == engine]
    busy = sum(e.done - e.start + 1 for e in mine)
    wait = sum(e.start - e.ready for e in mine)
    return {"busy": busy, "wait": wait, "idle": max(0, cycles - busy - wait)}
