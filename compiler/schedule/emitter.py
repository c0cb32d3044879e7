"""What lowering writes into: instructions that know what they touch, the memory image, and the places of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sateen.compiler.schedule.place import Placement, planes_of
from sateen.compiler.schedule.samples import SampledGraph, from_memory
from sateen.ir.quantized import Op
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, Target
from sateen.machine.packing import row_words
from sateen.sim.host import Fold, Region

ALIGN = 64  # constants start at a multiple of the widest bus
PAGE = 4096

Access = tuple[str, int, int]
"""(space, first, past the last); spaces are act, weight, index (in weight words), param, table, exponential, acc
and data."""


@dataclass(slots=True)
class Step:
    """An instruction, and the ranges of words (bytes in "data") that it touches."""

    instruction: Instruction
    reads: list[Access] = field(default_factory=list)
    writes: list[Access] = field(default_factory=list)

    @property
    def in_data(self) -> bool:
        """Whether a LOAD's source or a STORE's destination is relative to the data, not to the constants."""
        return any(space == "data" for space, _, _ in (*self.reads, *self.writes))

    def copy(self) -> Step:
        """With an instruction of its own, which tokens and addresses are written into."""
        i = self.instruction
        return Step(Instruction(i.opcode, dict(i.fields), i.layer), self.reads, self.writes)


@dataclass(frozen=True, slots=True)
class View:
    """Where rows of a tensor lie on chip: word (plane, y, x, c) is base + plane*plane_words + y*row + x*cw + c."""

    base: int
    row: int
    cw: int
    plane_words: int = 0

    def below(self, rows: int) -> View:
        """What begins so many rows further down."""
        return View(self.base + rows * self.row, self.row, self.cw, self.plane_words)

    def rows(self, low: int, high: int) -> Access:
        return "act", self.base + low * self.row, self.base + high * self.row


@dataclass(slots=True)
class Ring:
    """Bump allocation that wraps, in whole units; overwriting what is still in use is ordered later by tokens."""

    depth: int
    unit: int = 1
    position: int = 0
    kept: dict[tuple[int, ...], tuple[int, int]] = field(default_factory=dict)
    """Constants that are still there, by where they are in memory: first word, and past the last."""

    def take(self, n: int) -> int:
        n = -(-n // self.unit) * self.unit
        if self.position + n > self.depth:
            self.position = 0
        base = self.position
        self.position += n
        self.kept = {k: (a, b) for k, (a, b) in self.kept.items() if b <= base or base + n <= a}
        return base

    def find(self, sources: tuple[int, ...], n: int) -> tuple[int, bool]:
        """First of `n` words for these constants, and whether they are in them already."""
        there = sources in self.kept
        if not there:
            base = self.take(n)
            self.kept[sources] = base, base + n
        return self.kept[sources][0], there


Choice = tuple[str, dict[str, int]]
"""A layer's dataflow, and the cycles of its MATRIX instructions in each that the machine has."""


@dataclass(slots=True)
class Lowered:
    steps: list[Step]
    constants: bytes
    inputs: list[Region]  # offsets relative to "data"
    outputs: list[Region]
    data_size: int
    choices: dict[int, Choice]


class Emitter:
    """Instructions with what they touch, constants, and where tensors are; what to compute is `lower.Lowering`'s."""

    def __init__(
        self,
        graph: SampledGraph,
        placement: Placement,
        config: AcceleratorConfig,
        folds: dict[str, Fold],
        dataflows: Sequence[str] | None = None,
    ) -> None:
        self.graph, self.placement, self.config = graph, placement, config
        self.dataflows = dataflows or config.mappings
        self.choices: dict[int, Choice] = {}
        self.steps: list[Step] = []
        self.constants = bytearray()
        self.shared = False  # whether the constants of the op at hand may be those of another one
        self.places: dict[bytes, int] = {}  # of constants, by their hash
        self.data_size = 0
        self.weights = Ring(config.weight_depth, config.index_rows)
        self.parameters = Ring(config.parameter_depth)
        self.acc_bank = 0
        self.table: bytes | None = None
        self.exponentials: bytes | None = None
        self.layer = -1
        self.loaded_rows: dict[str, int] = {}
        self.memory: dict[str, Region] = {}
        self.inputs, self.outputs = [], []
        for port in graph.inputs:
            self.inputs.append(self._region(port.name, folds.get(port.name)))
        for tensor in dict.fromkeys(o.tensor for o in graph.outputs):
            if tensor not in self.memory:
                self.outputs.append(self._region(tensor))
            else:
                self.outputs.append(self.memory[tensor])
        for tensor in placement.spilled:
            if graph.whole(tensor) not in self.memory:
                self._region(tensor)

        for tensor in (t for op in graph.ops for t in from_memory(op)):
            if tensor not in self.memory:
                self._region(tensor)

    def _region(self, tensor: str, fold: Fold | None = None) -> Region:
        shape = self.graph.tensors[tensor].shape
        op = self.graph.producer(tensor)
        planes = planes_of(op, self.config) if op is not None and op.raw else 0
        words = shape[0] * self._row(tensor) * max(1, planes)
        size = words * self.config.act_word_bytes
        region = Region(tensor, self.data_size, size, shape, planes, fold)
        self.data_size += -(-size // PAGE) * PAGE
        self.memory[tensor] = region
        return region

    def _cw(self, tensor: str) -> int:
        return -(-self.graph.tensors[tensor].shape[2] // self.config.elements)

    def _row(self, tensor: str) -> int:
        return row_words(*self.graph.tensors[tensor].shape[1:], self.config)

    # -- steps ----------------------------------------------------------------------------------------------

    def emit(self, opcode: Opcode, reads: list[Access], writes: list[Access], **fields: int) -> None:
        self.steps.append(Step(Instruction(opcode, fields, self.layer), reads, writes))

    def format_of(self, tensor: str) -> dict[str, int]:
        """Of an instruction that reads or gives a tensor: whether it has the format of gradients."""
        own = self.config.own_gradients and self.graph.tensors[tensor].quant.format == self.config.gradient
        return {"gradient": 1} if own else {}

    def constant(self, data: bytes) -> int:
        """Where it is in memory; while constants are `shared`, once however often it is asked for."""
        key = hashlib.sha256(data).digest()
        if not self.shared or key not in self.places:
            self.constants += bytes(-len(self.constants) % ALIGN)
            self.places[key] = len(self.constants)
            self.constants += data
        return self.places[key]

    def load_constant(self, target: Target, space: str, destination: int, words: int, source: int) -> None:
        self.emit(
            Opcode.LOAD, [], [(space, destination, destination + words)],
            target=target, destination=destination, source=source, words=words,
        )  # fmt: skip

    def load_indices(self, weight_base: int, rows: int, planes: int, source: int) -> None:
        """The indices of weight words from `weight_base` on, where a block begins."""
        block = self.config.index_rows
        blocks = -(-rows // block)
        self.emit(
            Opcode.LOAD, [], [("index", weight_base, weight_base + blocks * block)],
            target=Target.INDEX, destination=weight_base // block, source=source, words=blocks * planes,
            last_plane=planes - 1,
        )  # fmt: skip

    def transfer(self, opcode: Opcode, tensor: str, view: View, low: int, high: int) -> None:
        """LOAD or STORE rows [low, high) of a tensor, all planes."""
        if low >= high:
            return
        whole, first = self.graph.parts.get(tensor, (tensor, 0))
        region = self.memory[whole]
        row = view.row
        height = region.shape[0]
        word = self.config.act_word_bytes
        for plane in range(max(1, region.planes)):
            on_chip = view.base + plane * view.plane_words + low * row
            start = region.offset + (plane * height + first + low) * row * word
            words = (high - low) * row
            act: Access = ("act", on_chip, on_chip + words)
            data: Access = ("data", start, start + words * word)
            if opcode == Opcode.LOAD:
                self.emit(
                    opcode, [data], [act],
                    target=Target.ACTIVATION, destination=on_chip, source=start, words=words,
                )  # fmt: skip
            else:
                self.emit(opcode, [act], [data], source=on_chip, destination=start, words=words)

    # -- tensors --------------------------------------------------------------------------------------------

    def view(self, tensor: str, stripe: int, low_row: int, rows: int) -> View:
        """Where rows from `low_row` on lie while stripe number `stripe` is computed."""
        cw, row = self._cw(tensor), self._row(tensor)
        if tensor in self.placement.on_chip:
            return View(self.placement.on_chip[tensor], row, cw, self.graph.tensors[tensor].shape[0] * row)
        slots = self.placement.stripes[self.layer].slots[tensor]
        return View(slots[stripe % len(slots)] - low_row * row, row, cw, rows * row)

    def bring(self, tensor: str, view: View, high: int) -> None:
        """Make rows below `high` present: of a graph input on chip the next ones are loaded, and what is streamed is
        there already (`stripe_views`)."""
        if tensor not in self.placement.on_chip or all(
            p.name != self.graph.whole(tensor) for p in self.graph.inputs
        ):
            return
        done = self.loaded_rows.get(tensor, 0)
        if done < high:
            height = self.graph.tensors[tensor].shape[0]
            high = min(height, max(high, done + -(-height // 8)))
            self.transfer(Opcode.LOAD, tensor, view, done, high)
            self.loaded_rows[tensor] = high

    def bands(self, op: Op, r0: int, r1: int) -> Iterator[tuple[int, int]]:
        """Output rows [r0, r1) of each sample in four, so that the next op can start on the first."""
        for _, low, high in self.graph.spans(op, r0, r1):
            step = -(-(high - low) // 4)
            yield from ((y, min(y + step, high)) for y in range(low, high, step))

    def must_store(self, tensor: str) -> bool:
        return self.graph.whole(tensor) in self.memory

    def stripe_views(self, op: Op) -> Iterator[tuple[int, int, dict[str, View]]]:
        """For each stripe: output rows [r0, r1) and the view of every operand, streamed inputs loaded."""
        height = self.graph.tensors[op.output].shape[0]
        rows = self.placement.stripes[self.layer].rows
        for n, r0 in enumerate(range(0, height, rows)):
            r1 = min(r0 + rows, height)
            views = {}
            for t in dict.fromkeys(op.inputs):
                low, high = self.graph.rows(op, t, r0, r1)
                views[t] = self.view(t, n, low, high - low)
                if t not in self.placement.on_chip:
                    self.transfer(Opcode.LOAD, t, views[t], low, high)
            views[op.output] = self.view(op.output, n, r0, rows)
            yield r0, r1, views
