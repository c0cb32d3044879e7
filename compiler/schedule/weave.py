"""The softmax of attention beside its products: rows of a head while another head is multiplied.

The products of all heads before a softmax, and those behind it, are a stream for the array, with few DRAINs between
long MATRIXs; the softmax is a stream for the vector unit. Instructions of one are put between those of the other by
what each takes. No instruction passes another with which it is in conflict.
"""

from __future__ import annotations

from dataclasses import replace

from sateen.compiler.schedule.emitter import Step
from sateen.compiler.schedule.order import conflict
from sateen.compiler.schedule.tiles import even
from sateen.hw.matrix.unit import matrix_cycles
from sateen.hw.vector.unit import PARTS
from sateen.ir.quantized import MatMul, QuantizedGraph, Softmax
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, Unit

Span = tuple[int, int, int]
"""Numbers of the ops: the product before a softmax, the softmax, the product behind it."""
_FEWEST = 4
"""Rows of an instruction: less is mostly its beginning and its end."""


def attentions(graph: QuantizedGraph) -> list[Span]:
    """Where the softmax of one product is multiplied by another, and nothing else reads either."""
    found = []
    number = {op.output: i for i, op in enumerate(graph.ops)}  # names are those of other samples' ops, too
    results = {o.tensor for o in graph.outputs}
    for i, op in enumerate(graph.ops):
        if not isinstance(op, Softmax) or {op.input, op.output} & results:
            continue
        before, users = graph.producer(op.input), graph.consumers(op.output)
        behind = users[0] if len(users) == 1 else None
        if not isinstance(before, MatMul) or graph.consumers(op.input) != (op,):
            continue
        if isinstance(behind, MatMul) and behind.input == op.output:
            found.append((number[before.output], i, number[behind.output]))
    return found


def weave(steps: list[Step], spans: list[Span], config: AcceleratorConfig) -> list[Step]:
    """The steps in a new order, ROWs cut into shorter ones where their softmax is woven in."""
    for first, middle, last in spans:
        inside = [i for i, s in enumerate(steps) if first <= s.instruction.layer <= last]
        low, high = inside[0], inside[-1] + 1
        part = steps[low:high]
        rows = [s for s in part if s.instruction.layer == middle]
        if len(inside) == high - low and all(_woven(s) for s in rows):
            steps = [*steps[:low], *_merged(part, middle, config), *steps[high:]]
    return steps


def _woven(step: Step) -> bool:
    """Whether it is of the rows, or a constant's LOAD: the softmax is on chip."""
    opcode, moved = step.instruction.opcode, {space for space, _, _ in step.writes}
    return opcode == Opcode.ROW or (opcode == Opcode.LOAD and "act" not in moved)


def _merged(part: list[Step], middle: int, config: AcceleratorConfig) -> list[Step]:
    most = _fitting([s for s in part if s.instruction.layer < middle], config)
    products: list[Step] = []
    rows: list[tuple[Step, int]] = []  # and how many of the products are before it
    for step in part:
        if step.instruction.layer == middle:
            rows += [(piece, len(products)) for piece in _pieces(step, most, config)]
        else:
            products.append(step)
    earliest, latest = [], []
    for row, place in rows:
        before = (i + 1 for i in range(place - 1, -1, -1) if conflict(products[i], row))
        behind = (i for i in range(place, len(products)) if conflict(row, products[i]))
        earliest.append(next(before, 0))
        latest.append(next(behind, len(products)))
    out: list[Step] = []
    array = vector = done = 0
    for i, step in enumerate(products):
        due = max((k + 1 for k in range(done, len(rows)) if latest[k] <= i), default=0)
        draining = step.instruction.unit == Unit.VECTOR
        while done < len(rows) and earliest[done] <= i:
            takes = _cycles(rows[done][0].instruction, config)
            idle = draining and vector + takes <= array
            if takes and not idle and done >= due:
                break
            out.append(rows[done][0])
            vector += takes
            done += 1
        if due:
            array = max(array, vector)
        out.append(step)
        takes = _cycles(step.instruction, config)
        if draining:
            vector = max(vector, array) + takes
        elif step.instruction.opcode == Opcode.MATRIX:
            array += takes
    return [*out, *(row for row, _ in rows[done:])]


def _fitting(products: list[Step], config: AcceleratorConfig) -> int:
    """Cycles of the vector unit between two DRAINs of these, on average."""
    drains = [_cycles(s.instruction, config) for s in products if s.instruction.opcode == Opcode.DRAIN]
    array = sum(_cycles(s.instruction, config) for s in products if s.instruction.opcode == Opcode.MATRIX)
    return (array - sum(drains)) // len(drains)


def _pieces(step: Step, most: int, config: AcceleratorConfig) -> list[Step]:
    """A ROW as some of fewer rows, of at most so many cycles each if that is not too few."""
    if step.instruction.opcode != Opcode.ROW:
        return [step]
    fields = step.instruction.fields
    width = fields["out_w"]

    def part(x: int, y: int, rows: int) -> Instruction:
        base = fields["base"] + y * fields["step_y"] + x * fields["step_x"]
        cut = fields | {"base": base % config.act_depth, "out_w": rows, "out_h": 1}
        return Instruction(Opcode.ROW, cut, step.instruction.layer)

    fits = (n for n in range(width, _FEWEST, -1) if _cycles(part(0, 0, n), config) <= most)
    n = even(width, next(fits, _FEWEST))
    return [
        replace(
            step, instruction=part(x, y, min(n, width - x)), reads=list(step.reads), writes=list(step.writes)
        )
        for y in range(fields["out_h"])
        for x in range(0, width, n)
    ]


def _cycles(instruction: Instruction, config: AcceleratorConfig) -> int:
    """0 of what neither the array nor the vector unit does."""
    if instruction.opcode == Opcode.MATRIX:
        return matrix_cycles(instruction, config)
    if instruction.unit == Unit.VECTOR:
        return PARTS[instruction.opcode].cycles(instruction, config)
    return 0
