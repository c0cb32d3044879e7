"""What a program cannot make a machine do, whatever the timing: shown instruction by instruction, without running it.

`prove` covers everything that counts: tokens, chunks of instructions, fields that a narrow machine cuts off, and the
addresses of every buffer and of memory. The compiler proves each program that it emits; the `program` engine proves
again what it is given, as it has no timing by which to end where the accelerator would.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from sateen.errors import BuildError
from sateen.formats.rows import COUNT_BITS, MOST_ELEMENTS
from sateen.hw.matrix.steps import STEP_BITS
from sateen.hw.memory.load import targets, word_bytes
from sateen.hw.vector.update import FRACTION
from sateen.machine.assembler import Instruction, decode
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import CHUNK, INSTRUCTION_BYTES, LAYOUTS, Layout, Opcode, Target, Unit

Pair = tuple[Unit, Unit]
"""Giver and taker of tokens."""


class Unproved(Exception):
    """`position` in the program, and what is wrong with the instruction there."""

    def __init__(self, position: int, instruction: Instruction, reason: str) -> None:
        self.position = position
        self.instruction = instruction
        super().__init__(f"instruction {position} ({instruction.opcode.name}): {reason}")


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of memory: a program may read all `size`, and write those from `data_offset` on."""

    data_offset: int
    size: int


@lru_cache(maxsize=1)  # the portions of a large batch run the same program
def proved(program: bytes, offset: int, config: AcceleratorConfig, memory: Extent) -> tuple[Instruction, ...]:
    """As `walk`; BuildError for a program that could do what `prove` and `prove_tokens` rule out."""
    instructions = walk(program, offset)
    try:
        prove(instructions, config, memory)
        prove_tokens(instructions, config)
    except Unproved as e:
        raise BuildError(f"program.bin: {e}; compile again") from None
    return tuple(instructions)


def walk(program: bytes, offset: int) -> list[Instruction]:
    """The instructions of the program that lies at `offset` in memory, in the order in which they are fetched.

    The last chunk is cut off after its first END. Raises BuildError for an illegal instruction, or a program that does
    not end.
    """
    out: list[Instruction] = []
    chunk, fetched = offset, {offset}
    while True:
        following = None
        for slot in range(CHUNK):
            at = chunk - offset + slot * INSTRUCTION_BYTES
            try:
                instruction = decode(program[max(0, at) : max(0, at + INSTRUCTION_BYTES)])
            except ValueError as e:
                raise BuildError(f"program.bin: illegal instruction ({e}); compile again") from None
            out.append(instruction)
            if instruction.opcode == Opcode.END:
                return out
            if instruction.opcode == Opcode.LOAD and instruction.target == Target.INSTRUCTION:
                following = instruction.source
        if following is None or following in fetched:
            raise BuildError("program.bin: ends without END; compile again")
        fetched.add(following)
        chunk = following


# -- tokens -------------------------------------------------------------------------------------------------


def token_bounds(instructions: Sequence[Instruction], queue_depth: int) -> dict[Pair, int]:
    """More tokens from one unit to another are never there at once, whatever the timing.

    When an instruction is done, so is what it waited for, and what that had waited for. And as instructions reach
    their queues in order, those before it are in their queues or have started, and of a unit's all but the last
    `queue_depth` have. Raises Unproved for a token that is taken before it is given.
    """
    found: dict[Pair, int] = {}
    given: dict[Pair, int] = {}
    there: dict[Pair, deque[list[int]]] = {}  # what is known when each token not yet taken is given
    takers: dict[Pair, list[int]] = {}  # numbers among the taker's instructions
    count = [0] * len(Unit)
    clocks = [[0] * len(Unit) for _ in Unit]  # instructions of each unit known done, as a unit's last starts
    for position, i in enumerate(instructions):
        if i.opcode == Opcode.END:
            continue
        me = i.unit
        clock = clocks[me]
        for giver in Unit:
            if i.wait >> giver & 1:
                pair = giver, me
                if not there.get(pair):
                    raise Unproved(position, i, f"waits for a token that the {giver.label} unit never gives")
                clock = [max(a, b) for a, b in zip(clock, there[pair].popleft(), strict=True)]
                takers.setdefault(pair, []).append(count[me])
        clock = [max(known, n - queue_depth - 1) for known, n in zip(clock, count, strict=True)]
        clock[me] = count[me]
        clocks[me] = clock
        done = [*clock[:me], count[me] + 1, *clock[me + 1 :]]
        for taker in Unit:
            if i.signal >> taker & 1:
                pair = me, taker
                given[pair] = given.get(pair, 0) + 1
                started = max(clock[taker], count[taker] - queue_depth)
                taken = bisect_left(takers.get(pair, []), started)
                found[pair] = max(found.get(pair, 0), given[pair] - taken)
                there.setdefault(pair, deque()).append(done)
        count[me] += 1
    return found


def token_pairs(instructions: Sequence[Instruction]) -> int:
    """Which units give tokens to which: bit n*giver + taker of n units."""
    n, pairs = len(Unit), 0
    for i in instructions:
        if i.opcode != Opcode.END:
            pairs |= sum(1 << (n * i.unit + t) for t in range(n) if i.signal >> t & 1)
            pairs |= sum(1 << (n * g + i.unit) for g in range(n) if i.wait >> g & 1)
    return max(1, pairs)


def prove_tokens(instructions: Sequence[Instruction], config: AcceleratorConfig) -> None:
    """Raises Unproved where a counter could be full and given one more."""
    most = (1 << config.token_bits) - 1
    bounds = token_bounds(instructions, config.queue_depth)
    for (giver, taker), bound in bounds.items():
        names = f"from the {giver.label} to the {taker.label} unit"
        problem = None
        if bound > most:
            problem = (
                f"TOKEN_OVERFLOW: from here on up to {bound} tokens {names} may be under way, and a counter of "
                f"token_bits = {config.token_bits} holds {most}"
            )
        elif not config.token_pairs >> (len(Unit) * giver + taker) & 1:
            problem = f"gives a token {names}, for which the machine has no counter"
        if problem:
            gives = (
                i.opcode != Opcode.END and i.unit == giver and i.signal >> taker & 1 == 1
                for i in instructions
            )
            position = list(gives).index(True)
            raise Unproved(position, instructions[position], problem)


# -- fields and addresses -----------------------------------------------------------------------------------


def needed_bits(i: Instruction) -> dict[str, int]:
    """Fields of the configuration to the bits that the instruction needs; not of addresses in memory."""
    get = i.fields.get
    found: dict[str, int] = {}
    for counted, names in _counted(i.opcode):
        found[counted] = max(get(name, 0) for name in names).bit_length()
    if "kernel_bits" in found:  # a window: where its taps are
        ends = [get("x0", 0), get("y0", 0)]
        for axis, size in (("x", "w"), ("y", "h")):
            words = max(get(f"out_{size}", 0), get({"w": "line", "h": "lines"}[size], 0))
            steps = (words - 1) * get(f"stride_{axis}", 0)
            taps = (get(f"kernel_{size}", 0) - 1) * get(f"dilation_{axis}", 0)
            ends.append(get(f"{axis}0", 0) + steps + taps)
        found["position_bits"] = 1 + max((~n if n < 0 else n).bit_length() for n in ends)
    return found


@cache
def _counted(opcode: Opcode) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Fields of the configuration that limit an instruction's, and those."""
    fields = LAYOUTS[opcode].fields
    limits = dict.fromkeys(f.counted for f in fields if f.counted)
    return tuple((limit, tuple(f.name for f in fields if f.counted == limit)) for limit in limits)


def prove(instructions: Sequence[Instruction], config: AcceleratorConfig, memory: Extent) -> None:
    """Raises Unproved for the first instruction that counts or reaches further than the machine or the memory.

    All but tokens, see `prove_tokens`. Reads of the activation buffer wrap at its end by definition.
    """
    for position, i in enumerate(instructions):
        for name, bits in needed_bits(i).items():
            if bits > getattr(config, name):
                raise Unproved(
                    position, i, f"needs {name} = {bits}, and the machine has {getattr(config, name)}"
                )
        for problem in CHECKS[i.opcode](position, i, config, memory):
            raise Unproved(position, i, problem)


Check = Callable[[int, Instruction, AcceleratorConfig, Extent], Iterator[str]]
"""Gives what is wrong with an instruction."""


def _nothing(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    yield from ()


def _within(what: str, first: int, count: int, limit: int) -> Iterator[str]:
    if first + count > limit:
        yield f"{what} {first} to {first + count - 1} are beyond the {limit} that there are"


def _transfer(address: int, size: int, first: int, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    if address % c.beat_bytes:
        yield f"address {address:#x} is not a multiple of the bus width of {c.beat_bytes} bytes"
    if address < first or address + size > memory.size:
        yield f"bytes {address:#x} to {address + size - 1:#x} are outside {first:#x} to {memory.size - 1:#x}"


def _load(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    if i.target not in targets(c):
        yield f"the machine has no target {i.target}"
        return
    yield from _transfer(i.source, i.words * word_bytes(Target(i.target), c), 0, c, memory)
    if i.target == Target.INSTRUCTION:
        # Only then has the instruction buffer, of two chunks, room for it.
        if position % CHUNK or i.words != CHUNK:
            yield f"fetches {i.words} instructions in place {position % CHUNK} of its chunk; {CHUNK}, in place 0"
        return
    count, depth = i.words, {
        Target.ACTIVATION: c.act_depth,
        Target.WEIGHT: c.weight_depth,
        Target.PARAMETER: c.parameter_depth,
        Target.TABLE: 1 << c.activation.bits,
        Target.INDEX: c.weight_depth // c.index_rows,
        Target.EXPONENTIAL: 1 << c.activation.bits,
    }[Target(i.target)]  # fmt: skip
    if i.target == Target.INDEX:
        planes = i.last_plane + 1
        if planes > c.index_planes or count % planes:
            yield f"{count} index words in {planes} planes; the machine has {c.index_planes}"
        count = -(-count // planes)
    yield from _within(f"{Target(i.target).name.lower()} words", i.destination, count, depth)


def _store(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    yield from _transfer(i.destination, i.words * c.act_word_bytes, memory.data_offset, c, memory)
    yield from _within("activation words", i.source, i.words, c.act_depth)


def _sums(i: Instruction, c: AcceleratorConfig) -> Iterator[str]:
    bank, pixels = i.acc_base // c.acc_depth, i.out_h * i.out_w
    yield from _within("accumulators", i.acc_base, pixels, (min(bank, 1) + 1) * c.acc_depth)


def _matrix(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    yield from _sums(i, c)
    steps = c.rows * i.passes
    if i.passes > c.dense_passes:
        yield f"passes = {i.passes}; a word of this machine takes at most {c.dense_passes}"
    if i.index_bits > c.index_planes:
        yield f"index_bits = {i.index_bits}, and the machine stores {c.index_planes}"
    last = steps
    if i.output_stationary:
        last = i.last_steps
        if not c.output_stationary:
            yield "is output-stationary, and the machine is not built for that"
        if not 0 < last <= steps < 1 << STEP_BITS:
            yield f"last_steps = {last} of {steps} steps, of which a turn counts {(1 << STEP_BITS) - 1}"
    if i.slide and (not i.output_stationary or (i.stride_x, i.step_x) != (i.dilation_x, i.step_kx)):
        yield "slides, but its taps are not its pixels' neighbours"
    if i.shifted and not c.computed_digits:
        yield "counts sums of high digits, and the machine is not built with weights of digits"
    if i.gradient and not c.own_gradients:
        yield "reads gradients, and those of the machine have no format of their own"
    rows = i.kernel_h * i.kernel_w * ((i.channel_words - 1) * steps + last)
    yield from _within("weight words", i.weight_base, rows, c.weight_depth)


def _fir(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    if not c.depthwise:
        yield "filters, and the machine is not built for that"
    yield from _sums(i, c)
    yield from _within("slices", i.slice, 1, c.slices)
    if i.passes != 1 or i.channel_words != 1 or i.index_bits:
        yield "filters more than an element a column"
    for words, windows in (("line", "out_w"), ("lines", "out_h")):
        if getattr(i, words) < getattr(i, windows):
            yield f"{words} = {getattr(i, words)} words for {windows} = {getattr(i, windows)} windows"
    rows = i.kernel_h * i.kernel_w * c.rows
    yield from _within("weight words", i.weight_base, rows, c.weight_depth)


def _outer(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    if not c.outer_products:
        yield "sums outer products, and the machine is not built with outer_products"
    bank, sums = i.acc_base // c.acc_depth, i.kernel_h * i.channel_words * c.rows
    yield from _within("accumulators", i.acc_base, sums, (min(bank, 1) + 1) * c.acc_depth)
    if i.passes != 1 or i.index_bits or i.index_shift:
        yield "sums more than an element of each group at a time"
    if i.short and not (c.short_groups and c.group >> i.short):
        yield f"takes parts of words 2**{i.short} times shorter than groups, and the machine is not built for that"
    yield from _within("elements of a row's part", 0, i.kernel_h, c.group >> i.short)
    pixels = i.kernel_w * i.out_h * i.out_w
    yield from _within("weight words", i.weight_base, (pixels - 1) * i.weight_step + 1, c.weight_depth)


def _drain(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    yield from _sums(i, c)
    yield from _within("parameter words", i.parameter_base, c.cols // c.vector_lanes, c.parameter_depth)
    yield from _within("slices", i.slice, 1, c.slices)
    for name, built in (("residual", c.residual), ("table", c.table)):
        if getattr(i, name) and not built:
            yield f"uses a {name}, which the machine lacks"
    if i.residual and not i.residual_multiplier and not c.product:
        yield "multiplies by its residual, and the machine is not built for that"
    if i.gradient and not c.own_gradients:
        yield "gives gradients, and those of the machine have no format of their own"


def _gate(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    if not c.gates:
        yield "gates, and the machine is not built with gates"
    if (i.kernel_h, i.kernel_w) != (1, 1):
        yield f"gates by {i.kernel_h} x {i.kernel_w} pixels; one decides"


def _row(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    steps = i.channel_words * (c.elements // c.vector_lanes)
    yield from _within("parameter words", i.parameter_base, steps if i.per_channel else 1, c.parameter_depth)
    for name, there, built in (
        ("normalizes", i.normalize, c.normalize),
        ("is a softmax", not i.normalize, c.softmax),
    ):
        if there and not built:
            yield f"{name}, which the machine does not"
    elements = i.channel_words * c.elements
    if elements >= 1 << COUNT_BITS or not i.first < i.last <= elements:
        yield f"has elements {i.first} to {i.last - 1} of the {elements} of a pixel's words; at most {MOST_ELEMENTS}"
    count = i.row_w * i.row_h * (i.last - i.first)
    if count > MOST_ELEMENTS:
        yield f"has rows of {count} elements; at most {MOST_ELEMENTS}"
    if i.normalize and not (i.count == 1 and not i.centred) and i.count != count:
        yield f"counts {i.count} of its rows' {count} elements"


def _move(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    if not c.computed_weights:
        yield "makes weights of activations, and the machine is not built with computed_weights"
    if i.high and not c.computed_digits:
        yield "makes high digits, and the machine is not built with weights of digits"
    yield from _kept(i, c, c.computed_patterns)
    shift = i.index_shift if i.index_bits else 0
    rows = i.words * (c.dense_passes >> shift) * c.rows
    yield from _within("weight words", i.destination, rows, c.weight_depth)
    yield from _within("columns", 0, i.columns, c.cols)
    yield from _within("slices", i.slice, 1, c.slices)


def _kept(i: Instruction, c: AcceleratorConfig, built: bool) -> Iterator[str]:
    """A pattern that the unit's SORE does not know, if it is `built` with one."""
    known = [(p.index_bits, p.n) for p in c.sparse_patterns if built]
    if i.index_bits and (i.index_bits, 1 << max(0, i.index_bits - i.index_shift)) not in known:
        yield f"keeps a pattern of index_bits = {i.index_bits}, index_shift = {i.index_shift}, which the machine lacks"


def _update(position: int, i: Instruction, c: AcceleratorConfig, memory: Extent) -> Iterator[str]:
    if not c.update:
        yield "updates weights, and the machine is not built for that"
    for name in ("momentum_shift", "decay_shift", "rate_shift"):
        if getattr(i, name) > FRACTION:
            yield f"{name} = {getattr(i, name)}, and a sum has {FRACTION} bits of fraction"
    yield from _kept(i, c, c.pruned_decay)


BOUNDED: dict[Opcode, Check] = {
    Opcode.LOAD: _load,
    Opcode.STORE: _store,
    Opcode.MATRIX: _matrix,
    Opcode.FIR: _fir,
    Opcode.OUTER: _outer,
    Opcode.DRAIN: _drain,
    Opcode.GATE: _gate,
    Opcode.ROW: _row,
    Opcode.MOVE: _move,
    Opcode.UPDATE: _update,
}
ENDS = {
    f"{name}_bits"
    for name in ("memory", "load_address", "weight_address", "parameter_address", "acc_address")
}
"""Of addresses that end, where those of the activation buffer wrap."""


def _check(layout: Layout) -> Check:
    """Its row, or none where there is nothing to prove: none of its addresses ends."""
    if layout.opcode in BOUNDED:
        return BOUNDED[layout.opcode]
    ends = [f.name for f in layout.fields if f.reach in ENDS]
    if ends:
        raise NotImplementedError(f"{layout.opcode.name}: add to BOUNDED how far '{ends[0]}' may go")
    return _nothing


CHECKS: dict[Opcode, Check] = {opcode: _check(layout) for opcode, layout in LAYOUTS.items()}
