"""A quantized graph to a program, its memory image and its predicted timeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sateen.compiler.schedule.batch import batched, best_cut, cuts, displaced, mixed
from sateen.compiler.schedule.emitter import PAGE, Choice, Lowered, Step
from sateen.compiler.schedule.fold import fold_inputs
from sateen.compiler.schedule.heads import align_heads
from sateen.compiler.schedule.lower import Lowering
from sateen.compiler.schedule.narrow import narrowed
from sateen.compiler.schedule.order import cut_chunks, hoist, merged, tables_late
from sateen.compiler.schedule.place import Placement, place
from sateen.compiler.schedule.samples import SampledGraph
from sateen.compiler.schedule.tokens import add_tokens
from sateen.compiler.schedule.weave import Span, attentions, weave
from sateen.errors import ConfigError
from sateen.formats.catalog import all_formats
from sateen.formats.digits import two_digits
from sateen.formats.sparsity import DENSE
from sateen.ir.quantized import (
    BiasGradient,
    ComputedConv,
    Factor,
    Gate,
    Linear,
    MatMul,
    Normalize,
    Op,
    PoolGate,
    QuantizedGraph,
    Softmax,
    WeightGradient,
)
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import INSTRUCTION_BYTES, LAYOUTS, Opcode, Target
from sateen.sim.host import Fold, Region
from sateen.sim.image import Image
from sateen.sim.memory_timing import NOMINAL, MemoryTiming
from sateen.sim.model import Timeline, predict
from sateen.sim.proof import Extent, Unproved, prove

SHIFT_OPERAND_BITS = 18
"""Fixed-point operands wider than a DSP input: significands are multiplied and shifted instead."""


def _of(*kinds: type[Op]) -> Callable[[Op], bool]:
    return lambda op: isinstance(op, kinds)


__all__ = ["OPTIONS", "Program", "generate", "layer_cycles", "op_of", "specialise", "without_indices"]

OPTIONS: dict[str, Callable[[Op], bool]] = {
    "softmax": _of(Softmax),
    "normalize": _of(Normalize),
    "computed_weights": _of(MatMul, ComputedConv),
    "outer_products": _of(WeightGradient, BiasGradient),
    "gates": _of(Gate, PoolGate),
    "computed_patterns": lambda op: isinstance(op, ComputedConv) and not op.pattern.dense,
}
"""Fields of the configuration that say what a machine is built for, and which ops need it."""


@dataclass(frozen=True, slots=True)
class Program:
    """What runs: constants at 0, then the program, then `data` (inputs, outputs, spilled tensors), page by page."""

    config: AcceleratorConfig
    graph: SampledGraph  # as lowered, with folded inputs
    placement: Placement
    instructions: list[Instruction]
    constants: bytes
    program_offset: int
    data_offset: int
    data_size: int
    inputs: tuple[Region, ...]
    outputs: tuple[Region, ...]
    choices: dict[int, Choice]
    """For each layer that the array computes."""
    cycles: int
    """Of a run, in the nominal memory."""
    batch: int = 1
    """Samples of a run."""

    @property
    def code(self) -> bytes:
        return b"".join(i.encode() for i in self.instructions)

    @property
    def image(self) -> Image:
        return Image(
            self.config, self.constants, self.code, self.program_offset, self.data_offset, self.data_size
        )

    @property
    def memory_bytes(self) -> int:
        """Of the memory that a run needs."""
        return self.image.size

    def predict(self, memory: MemoryTiming) -> Timeline:
        """The program's timeline, each instruction with its layer, which the code does not hold."""
        timeline = predict(self.code, self.program_offset, self.config, memory)
        for event, instruction in zip(timeline.events, self.instructions, strict=False):
            event.instruction.layer = instruction.layer
        return timeline


def specialise(config: AcceleratorConfig, graph: QuantizedGraph, acc_bits: int) -> AcceleratorConfig:
    """The machine for one model, or, where the configuration is to stay as it is, a check that it suffices."""
    _check_products(config, graph)
    table = any(op.table is not None for op in graph.ops)
    product = any(isinstance(op, Linear) and isinstance(op.residual, Factor) for op in graph.ops)
    needing = {option: next((op for op in graph.ops if needs(op)), None) for option, needs in OPTIONS.items()}
    if config.specialize:
        widest = max(config.weight.fixed_bits, config.activation.fixed_bits)
        multiplier = "shift" if widest > SHIFT_OPERAND_BITS else config.multiplier
        options = {option: op is not None for option, op in needing.items()}
        return config.replace(
            acc_bits=acc_bits, table=table, product=product, multiplier=multiplier, **options
        )
    for option, op in needing.items():
        if op is not None and not getattr(config, option):
            raise ConfigError(
                f"configuration '{config.name}': {option} = false, and {type(op).__name__} '{op.name}' of model "
                f"'{graph.name}' needs the unit for it; set {option} = true"
            )
    if acc_bits > config.acc_bits:
        raise ConfigError(
            f"configuration '{config.name}': acc_bits = {config.acc_bits}, and model '{graph.name}' needs {acc_bits} "
            "to be exact"
        )
    if table and not config.table:
        raise ConfigError(
            f"configuration '{config.name}': table = false, and model '{graph.name}' uses a function table"
        )
    if product and not config.product:
        raise ConfigError(
            f"configuration '{config.name}': product = false, and model '{graph.name}' multiplies two computed tensors"
        )
    return config


def _check_products(config: AcceleratorConfig, graph: QuantizedGraph) -> None:
    """ConfigError where weights cannot be made of activations, and the graph multiplies what it computes."""
    products = [op for op in graph.ops if isinstance(op, MatMul | ComputedConv)]
    for op in products:
        what = f"configuration '{config.name}': {type(op).__name__} '{op.name}'"
        digits = op.digits if isinstance(op, MatMul) else None
        if config.weight != (digits.digit if digits else config.activation):
            wanted = f"activation_format = {config.activation_format}"
            if digits:
                wanted = f"{digits.digit.name}, for whose digits it was quantized"
            elif isinstance(op, MatMul) and any(two_digits(config.activation, f) for f in all_formats()):
                wanted += ", or a signed integer of at least half its bits"
            raise ConfigError(
                f"{what} multiplies two computed tensors, '{op.input}' and '{op.weight}', of which one becomes "
                f"weights: weight_format = {config.weight_format} must be {wanted}"
            )
        if isinstance(op, MatMul) or op.pattern.dense:
            continue
        if op.pattern not in config.sparse_patterns or config.lanes > 1:
            raise ConfigError(
                f"{what} keeps {op.pattern} of computed weights; patterns = {list(config.patterns)} must have it, and "
                f"lanes = {config.lanes} must be 1"
            )


def generate(
    graph: QuantizedGraph,
    config: AcceleratorConfig,
    dataflows: Sequence[str] | None = None,
    batch: int = 1,
    cut: int | None = None,
) -> Program:
    """Fold, put samples together, place, lower, order. ConfigError where the machine is too small for the model.

    Parameters
    ----------
    dataflows : those of the machine's that each layer may choose from; all of them if not given
    cut : the op up to which samples are computed one after the other, as `batched` has it; the fastest if not given

    Attention is woven where that takes fewer cycles.
    """
    folded, folds = fold_inputs(align_heads(graph, config), config)
    make = partial(_generated, config=config, folds=folds, dataflows=dataflows, batch=batch)
    plain = (
        _of_samples(folded, config, folds, batch, cut, make) if batch > 1 else make(batched(folded, batch))
    )
    if not (spans := attentions(plain.graph)):
        return plain
    return _fastest([plain, make(plain.graph, spans=spans)])


def _fastest(programs: Iterable[Program]) -> Program:
    return min(programs, key=lambda p: p.cycles)


def _of_samples(
    folded: QuantizedGraph,
    config: AcceleratorConfig,
    folds: dict[str, Fold],
    batch: int,
    cut: int | None,
    make: Callable[[SampledGraph], Program],
) -> Program:
    """With the given cut, or the fastest of some: those that `cuts` gives, then guesses from what layers take there."""
    ops = len(folded.ops)
    tried = [cut or 0] if cut is not None or not mixed(folded) else cuts(folded, batch, config)
    found: dict[int, Program] = {}

    def attempt(at: int) -> None:
        try:
            found[at] = make(batched(folded, batch, at, folds))
        except ConfigError:
            if at == tried[-1] and not found:
                raise

    for at in tried:
        attempt(at)
    if len(found) == 1 or max(found) < ops:
        return _fastest(found.values())
    layers = {at: layer_cycles(p, ops) for at, p in found.items()}
    for cost in (displaced(folded, batch, config), [0] * (ops + 1)):
        if (at := best_cut(layers, cost)) not in found:
            attempt(at)
    layers |= {at: layer_cycles(p, ops) for at, p in found.items() if at not in layers}
    return found[min(layers, key=lambda at: sum(layers[at]))]


def layer_cycles(program: Program, ops: int) -> list[int]:
    """By which each op of one sample's graph moves the end of the program, in all the samples."""
    cut, batch, cycles = program.graph.cut, program.batch, [0] * ops
    for layer, moved in enumerate(program.predict(NOMINAL).moved(cut * batch + ops - cut)):
        cycles[op_of(program, layer)] += moved
    return cycles


def op_of(program: Program, layer: int) -> int:
    """Which op of one sample's graph a layer of the program is."""
    cut, batch = program.graph.cut, program.batch
    return layer % cut if layer < cut * batch else layer - cut * (batch - 1)


def _generated(
    folded: SampledGraph,
    config: AcceleratorConfig,
    folds: dict[str, Fold],
    dataflows: Sequence[str] | None,
    batch: int,
    spans: Sequence[Span] = (),
) -> Program:
    placement = place(folded, config, [(first, last) for first, _, last in spans])
    lowered = Lowering(folded, placement, config, folds, dataflows).result()
    woven = weave(lowered.steps, list(spans), config)

    def ordered(steps: list[Step]) -> Program:
        return _ordered([s.copy() for s in steps], lowered, folded, placement, config, batch)

    steps, found = woven, ordered(woven)
    for change in (partial(merged, config=config), tables_late):
        changed = change(steps)
        if changed is not None and (other := ordered(changed)).cycles < found.cycles:
            steps, found = changed, other
    return found


def _ordered(
    steps: list[Step],
    lowered: Lowered,
    folded: SampledGraph,
    placement: Placement,
    config: AcceleratorConfig,
    batch: int,
) -> Program:
    ahead = 2 * config.queue_depth
    steps = hoist(steps, ahead)
    if any(isinstance(op, ComputedConv) for op in folded.ops):
        steps = hoist(steps, ahead, Opcode.MOVE)
    add_tokens(steps, config)
    instructions = cut_chunks([s.instruction for s in steps])

    def page(n: int) -> int:
        return -(-n // PAGE) * PAGE

    program_offset = page(len(lowered.constants))
    data_offset = program_offset + page(len(instructions) * INSTRUCTION_BYTES)
    end = data_offset + config.arrays * lowered.data_size  # whole pages
    if end > 1 << 32:
        arrays = f" with arrays = {config.arrays}" * (config.arrays > 1)
        raise ConfigError(
            f"model '{folded.name}' takes {end} bytes of memory{arrays}; addresses have 32 bits"
        )
    _link(steps, data_offset)
    for i in instructions:
        if i.opcode == Opcode.LOAD and i.target == Target.INSTRUCTION:
            i.fields["source"] += program_offset
    _check_fields(instructions, folded)
    memory = Extent(data_offset, data_offset + lowered.data_size)
    machine = narrowed(config, instructions, end)
    _check_proof(instructions, folded, machine, memory)
    code = b"".join(i.encode() for i in instructions)
    return Program(
        config=machine,
        graph=folded,
        placement=placement,
        instructions=instructions,
        constants=lowered.constants,
        program_offset=program_offset,
        data_offset=data_offset,
        data_size=lowered.data_size,
        inputs=tuple(replace(r, offset=r.offset + data_offset) for r in lowered.inputs),
        outputs=tuple(replace(r, offset=r.offset + data_offset) for r in lowered.outputs),
        choices=lowered.choices,
        cycles=predict(code, program_offset, machine, NOMINAL).cycles,
        batch=batch,
    )


def without_indices(graph: QuantizedGraph, program: Program) -> Program | None:
    """The program that stores every weight, zeros too; `program` itself if it does, None if there is no room for them.

    `graph` is what `program` was generated for.
    """
    if not any(i.opcode == Opcode.MATRIX and i.index_bits for i in program.instructions):
        return program
    try:
        dense = program.config.replace(patterns=(DENSE.name,), pruned_decay=False)
        return generate(graph, dense, batch=program.batch, cut=program.graph.cut)
    except ConfigError:
        return None


def _link(steps: list[Step], data_offset: int) -> None:
    for step in steps:
        if step.in_data:
            fields = LAYOUTS[step.instruction.opcode].fields
            (address,) = (f.name for f in fields if f.reach == "memory_bits")
            step.instruction.fields[address] += data_offset


def _check_proof(
    instructions: list[Instruction], graph: QuantizedGraph, config: AcceleratorConfig, memory: Extent
) -> None:
    """No program leaves the compiler that could stop in hardware."""
    try:
        prove(instructions, config, memory)  # tokens: see `narrowed`
    except Unproved as e:
        layer = e.instruction.layer
        where = (
            f"{type(graph.ops[layer]).__name__} '{graph.ops[layer].name}'" if layer >= 0 else "the program"
        )
        raise ConfigError(f"configuration '{config.name}': {where} cannot run on it: {e}") from None


def _check_fields(instructions: list[Instruction], graph: QuantizedGraph) -> None:
    """A layer whose geometry exceeds an instruction's field is the model's limit, said with the layer's name."""
    for i in instructions:
        try:
            i.encode()
        except ValueError as e:
            op = graph.ops[i.layer]
            raise ConfigError(f"{type(op).__name__} '{op.name}': {e}; split the layer") from None
