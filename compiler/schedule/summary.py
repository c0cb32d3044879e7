"""schedule.json: what each layer costs in cycles, multiplications and bytes, predicted by the cycle model.

Beside what the program does stands what it would do with every weight stored, zeros too: not an estimate, but the
figures of the program that the same compiler emits for the same machine without its indices.
"""

from __future__ import annotations

from typing import Any

from sateen.compiler.schedule.backend import Program
from sateen.compiler.schedule.lower import LOWERING
from sateen.compiler.schedule.traffic import FIRST_FETCH_BYTES, WRITTEN, added, moved, stored, weight_counts
from sateen.formats.sparsity import DENSE
from sateen.ir.quantized import QuantizedGraph
from sateen.machine.isa import LAYOUTS, UNITS, Opcode, Unit
from sateen.sim.critical_path import PROGRAM, Span, critical_path
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.model import Event, Timeline, is_own

ABOUT = {
    "cycles": "by which the layer moves the end of the program",
    "start, end": "cycles from the start of the run",
    ", ".join(
        f"{u}_cycles" for u in UNITS
    ): "in which an engine executes the layer's instructions; in the totals "
    "those of fetching the program, the first time included, as the counter BUSY has them",
    "stalls": "by engine what its counters BUSY, WAIT and IDLE show after the run (docs/isa.md)",
    "timeline": "every instruction; of layer -1 are the fetches of the program, the first asked for by no instruction",
    "limits": "the cycles by what the end of the program waits for in them: an engine, or the fetching and handing "
    "over of instructions (program)",
    "limited_by": "the largest of limits",
    "dataflow, dataflow_cycles": "the one chosen, and the cycles of the layer's MATRIX instructions in each that the "
    "machine has",
    "macs": "multiplications that the network needs, less those with zeros that the N:M pattern leaves out",
    "dense_macs": "multiplications that the network needs, zeros included",
    "utilization": "macs / (cycles * multipliers)",
    "bytes": "between memory and accelerator for one sample, by kind, from the program's LOADs and STOREs",
    "bytes_loaded, bytes_stored": "the same, by direction",
    "weights.count, weights.nonzero": "weights of the layer, and those that are not zero",
    "weights.packed_bytes": "count * bits / 8: all weights without the filling up of the machine's words",
    "weights.values_bytes, weights.index_bytes": "memory that values and indices take, as stored for the machine",
    "weights.dense_bytes": "memory that the same weights take with every zero stored",
    "weights.zeros_bytes": "dense_bytes - values_bytes: what the zeros' values would take",
    "weights.saved_bytes": "zeros_bytes - index_bytes",
    "weights.compression": "dense_bytes / (values_bytes + index_bytes)",
    "dense": "the same network on the same machine with every weight stored, predicted from its own program",
    "saved": "dense less this program: bytes moved for one sample, bytes of weights in memory, cycles",
}
"""What the keys of schedule.json mean, for whoever reads one. The file calls the machine's units engines."""
ABOUT_ARRAYS = {
    "own_bytes": "in the totals: those of bytes that are an array's own data, moved for each array; all else is moved "
    "once for all of them",
}
"""Of several arrays. What is of a sample is of one on each then."""


def schedule(
    program: Program, memory: MemoryTiming, graph: QuantizedGraph, dense: Program | None
) -> dict[str, Any]:
    """What schedule.json holds; `ABOUT`, which is in it, says what its keys mean.

    Parameters
    ----------
    graph : the network of one sample as it was quantized, with inputs not folded; it says how many multiplications
        there are
    dense : the program of `backend.without_indices`; None leaves the comparison out
    """
    known = {op.name: (op, graph.tensors[op.output].shape) for op in graph.ops}
    layers_of = [known.get(op.name) for op in program.graph.ops]  # none of a copy for the machine's sake
    samples = [program.graph.samples_of(op) for op in program.graph.ops]
    needed = [op[0].needed_macs(op[1]) * n if op else 0 for op, n in zip(layers_of, samples, strict=True)]
    every = [op[0].dense_macs(op[1]) * n if op else 0 for op, n in zip(layers_of, samples, strict=True)]
    timeline = program.predict(memory)
    layers, total = _figures(program, timeline, needed)
    if dense is program:
        others, other_total = layers, total
    elif dense is not None:
        others, other_total = _figures(dense, dense.predict(memory), every)
    ops = program.graph.ops
    counts = [weight_counts(op) for op in ops]
    once = {op.name: count for op, count in zip(ops, counts, strict=True)}  # those of all samples
    for index, layer in enumerate(layers):
        other = others[index] if dense else None
        layer |= _description(program, index) | {"index": index, "dense_macs": every[index]}
        layer |= {"dense": _compared(other), "weights": _weights(counts[index], layer, other)}
    totals = total | {
        "dense_macs": sum(every),
        "dense": _compared(other_total if dense else None),
        "weights": _weights(added(once.values()), total, other_total if dense else None),
    }
    if dense is not None:
        totals["saved"] = {
            "bytes": other_total["bytes"]["total"] - total["bytes"]["total"],
            "weight_bytes": totals["weights"]["saved_bytes"],
            "cycles": other_total["cycles"] - total["cycles"],
        }
    if program.config.arrays > 1:
        totals["own_bytes"] = moved(
            (i for i in program.instructions if is_own(i, program.data_offset)), program.config
        )
    for figures in (*layers, totals):
        del figures["stored"]
    counted = timeline.counters()
    return {
        "about": ABOUT | (ABOUT_ARRAYS if program.config.arrays > 1 else {}),
        "cycles": timeline.cycles,
        "multipliers": program.config.multipliers,
        "latency": memory.latency,
        "interval": memory.interval,
        "indexed": dense is not program,
        "layers": layers,
        "totals": totals,
        "timeline": [
            _event(Unit.LOAD, Opcode.LOAD, -1, *timeline.boot),
            *(
                _event(e.instruction.unit, e.instruction.opcode, e.instruction.layer, e.start, e.done)
                for e in timeline.events
            ),
        ],
        "stalls": {
            unit.label: {name: by_unit[unit.label] for name, by_unit in counted.items()} for unit in Unit
        },
    }


def _event(unit: Unit, opcode: Opcode, layer: int, start: int, done: int) -> dict[str, Any]:
    return {"engine": unit.label, "opcode": opcode.name, "layer": layer, "start": start, "done": done}


def _figures(
    program: Program, timeline: Timeline, macs: list[int]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What is measured on a program: of each layer, and of the whole."""
    path, ops = critical_path(timeline), program.graph.ops
    layers: list[dict[str, Any]] = []
    end = 0
    for index, needed in enumerate(macs):
        events = [e for e in timeline.events if e.instruction.layer == index]
        last = index == len(macs) - 1
        until = max([end, *(e.done + 1 for e in events)]) if not last else timeline.cycles
        unit = LAYOUTS[LOWERING[type(ops[index])].opcode].unit
        tiles = sum(e.instruction.unit == unit for e in events)
        layers.append(
            {"start": min((e.start for e in events), default=end), "end": until, "tiles": tiles}
            | _measured(program, events, needed, until - end, _limits(path, end, until))
        )
        end = until
    total = _measured(program, timeline.events, sum(macs), timeline.cycles, _limits(path, 0, timeline.cycles))
    fetched = total["bytes"] | {"instructions": total["bytes"]["instructions"] + FIRST_FETCH_BYTES}
    total["bytes"] = fetched | {"total": fetched["total"] + FIRST_FETCH_BYTES}
    total["bytes_loaded"] += FIRST_FETCH_BYTES
    total[f"{Unit.LOAD.label}_cycles"] = timeline.counters()["busy"][Unit.LOAD.label]
    assert sum(layer["cycles"] for layer in layers) == timeline.cycles or not layers
    return layers, total


def _measured(
    program: Program, events: list[Event], macs: int, cycles: int, limits: dict[str, int]
) -> dict[str, Any]:
    config, instructions = program.config, [e.instruction for e in events]
    busy = {
        f"{unit.label}_cycles": sum(e.done - e.start + 1 for e in events if e.instruction.unit == unit)
        for unit in Unit
    }
    by_kind = moved(instructions, config)
    return busy | {
        "macs": macs,
        "cycles": cycles,
        "utilization": macs / (cycles * config.multipliers) if cycles else 0.0,
        "limits": limits,
        "limited_by": max(limits, key=lambda k: limits[k]) if cycles else None,
        "bytes": by_kind,
        "bytes_loaded": by_kind["total"] - by_kind[WRITTEN],
        "bytes_stored": by_kind[WRITTEN],
        "stored": stored(instructions, config),
    }


def _limits(path: list[Span], start: int, end: int) -> dict[str, int]:
    """Cycles [start, end) by what the end of the program waited for in them."""
    found = dict.fromkeys((*UNITS, PROGRAM), 0)
    for span in path:
        found[span.what] += max(0, min(span.end, end) - max(span.start, start))
    return found


def _description(program: Program, index: int) -> dict[str, Any]:
    op, tensors, placement = program.graph.ops[index], program.graph.tensors, program.placement
    dataflow, cycles = program.choices.get(index, (None, {}))
    return {
        "name": op.name,
        "kind": type(op).__name__,
        "sources": list(op.source),
        "inputs": list(op.inputs),
        "output": op.output,
        "input_shape": list(tensors[(*op.inputs, op.output)[0]].shape),
        "output_shape": list(tensors[op.output].shape),
        "weight_format": next((c.format.name for c in op.constants), None),
        "activation_format": tensors[op.output].quant.format.name,
        "sparsity": next((c.sparsity.name for c in op.constants), DENSE.name),
        "dataflow": dataflow,
        "dataflow_cycles": cycles,
        "tensors": {t: ("on chip" if t in placement.on_chip else "memory") for t in (*op.inputs, op.output)},
    }


_COMPARED = ("macs", "cycles", "utilization", "limits", "limited_by", "bytes")


def _compared(figures: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if figures is None else {k: figures[k] for k in _COMPARED}


def _weights(counts: dict[str, int], figures: dict[str, Any], dense: dict[str, Any] | None) -> dict[str, Any]:
    values, index = figures["stored"]["weights"], figures["stored"]["indices"]
    found: dict[str, Any] = counts | {"values_bytes": values, "index_bytes": index}
    if dense is not None:
        whole = dense["stored"]["weights"]
        found |= {
            "dense_bytes": whole,
            "zeros_bytes": whole - values,
            "saved_bytes": whole - values - index,
            "compression": whole / (values + index) if values + index else None,
        }
    return found
