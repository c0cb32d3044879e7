"""Where every tensor lives: in the activation buffer for its lifetime if it fits, else in memory, through stripes.

A tensor that is not on chip is read and written in stripes of rows, through scratch space that its op holds while
it runs (two slots a stream, so that a stripe is loaded or stored while another is computed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sateen.compiler.schedule.samples import SampledGraph, in_buffer
from sateen.compiler.schedule.sums import pixel_slots
from sateen.errors import ConfigError
from sateen.ir.quantized import Arrange, BiasGradient, ComputedConv, Op, QuantizedGraph, WeightGradient
from sateen.machine.config import AcceleratorConfig
from sateen.machine.packing import row_words


@dataclass(slots=True)
class Block:
    """`size` words of the activation buffer during ops `first` to `last`."""

    name: str
    size: int
    first: int
    last: int
    apart: frozenset[str] = frozenset()
    """Those that another unit reads at the same time."""
    base: int = -1


@dataclass(slots=True)
class Stripes:
    """An op's partition: `rows` output rows at a time; slot bases of each streamed tensor."""

    rows: int
    slots: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Placement:
    on_chip: dict[str, int]  # tensor: first word
    stripes: list[Stripes]  # one for each op
    spilled: list[str]
    ahead: bool = False
    """Whether weights that are inputs have their place while the op before theirs runs."""


def tensor_words(graph: QuantizedGraph, name: str, config: AcceleratorConfig, planes: int = 1) -> int:
    h, w, c = graph.tensors[name].shape
    return h * row_words(w, c, config) * planes


def planes_of(op: Op | None, config: AcceleratorConfig) -> int:
    """Digits in which a raw output is written; 1 for codes."""
    if op is not None and op.raw:
        return -(-config.acc_bits // config.activation.bits)
    return 1


def words_on_chip(
    graph: SampledGraph, placement: Placement, config: AcceleratorConfig
) -> dict[str, tuple[int, int]]:
    """Of each tensor in the activation buffer, its first word and how many it has."""
    makers = {op.output: op for op in graph.ops}
    return {
        t: (word, tensor_words(graph, t, config, planes_of(makers.get(t), config)))
        for t, word in placement.on_chip.items()
        if t in graph.tensors
    }


def place(
    graph: SampledGraph, config: AcceleratorConfig, together: Sequence[tuple[int, int]] = ()
) -> Placement:
    """Raises ConfigError if an op cannot run even one row at a time.

    One sample's rows of a tensor that is read whole have their place in it.
    `together` are first and last of ops that run beside one another, if that costs no tensor its place on chip: their
    tensors share no word, and what they read no bank where that can be.
    """
    alone = _place(graph, config, ())
    ahead = any(isinstance(op, ComputedConv) for op in graph.ops)
    if not together and not ahead:
        return alone
    try:
        found = _place(graph, config, together, ahead)
    except ConfigError:
        return alone
    return found if set(found.spilled) <= set(alone.spilled) else alone


def _place(
    graph: SampledGraph, config: AcceleratorConfig, together: Sequence[tuple[int, int]], ahead: bool = False
) -> Placement:
    ops = graph.ops
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    producer: dict[str, Op] = {}
    used = {t for op in ops for t in in_buffer(op) if t != op.output}
    inside = {t: (whole, row) for t, (whole, row) in graph.parts.items() if whole in used}

    def held(t: str) -> str:
        """What has the tensor's place: itself, or that of all samples."""
        return inside[t][0] if t in inside else t

    for i, op in enumerate(ops):
        for tensor in map(held, in_buffer(op)):
            first.setdefault(tensor, i)
            last[tensor] = i
        producer[op.output] = op
    apart: dict[str, frozenset[str]] = {}
    for low, high in together:
        run = ops[low : high + 1]
        for t in {held(t) for op in run for t in (*op.inputs, op.output)}:
            first[t], last[t] = min(first[t], low), max(last[t], high)
        read = frozenset(held(t) for op in run if not isinstance(op, Arrange) for t in op.inputs)
        apart |= dict.fromkeys(read, read)
    if ahead:
        for t in {op.weight for op in ops if isinstance(op, ComputedConv)} - set(producer):
            first[t] = max(0, first[t] - 1)
        for op in ops:
            if isinstance(op, ComputedConv):  # MOVE reads one, MATRIX the other
                both = frozenset((op.input, op.weight))
                apart |= {t: apart.get(t, frozenset()) | both for t in both}
    sizes = {t: tensor_words(graph, t, config, planes_of(producer.get(t), config)) for t in first}
    unstriped = {op.weight for op in ops if isinstance(op, ComputedConv)}
    spilled: list[str] = [t for t, n in sizes.items() if n > config.act_depth]

    while True:
        blocks = [
            Block(t, sizes[t], first[t], last[t], apart.get(t, frozenset()))
            for t in first
            if t not in spilled
        ]
        failed = _fit(blocks, graph, config)
        if failed is not None:
            spilled.append(_victim(blocks, failed.first, failed.last, unstriped).name)
            continue
        stripes: list[Stripes] = []
        for i, op in enumerate(ops):
            found = _stripes(i, op, blocks, spilled, graph, config, sizes)
            if isinstance(found, Stripes):
                stripes.append(found)
                continue
            candidates = [b for b in blocks if b.first <= i <= b.last]
            if not candidates:
                raise ConfigError(
                    f"{type(op).__name__} '{op.name}': one output row takes {found} words of the activation buffer, "
                    f"which has {config.act_depth}; raise act_bank_depth or act_banks, or narrow the layer"
                )
            spilled.append(_victim(blocks, i, i, unstriped).name)
            break
        else:
            on_chip = {b.name: b.base for b in blocks}
            for t, (container, row) in inside.items():
                if container in on_chip:
                    on_chip[t] = on_chip[container] + row * row_words(*graph.tensors[t].shape[1:], config)
            return Placement(on_chip, stripes, spilled, ahead)


def _victim(blocks: list[Block], first: int, last: int, whole: set[str]) -> Block:
    """The largest, then the longest-lived tensor that is there between ops `first` and `last`; one that stripes would
    read `whole`, each of them, only if there is no other."""
    alive = [b for b in blocks if b.first <= last and first <= b.last]
    return max(alive, key=lambda b: (b.name not in whole, b.size, b.last - b.first, b.name))


def _fit(blocks: list[Block], graph: QuantizedGraph, config: AcceleratorConfig) -> Block | None:
    """Give every block a base; the first that finds no room is returned. Blocks in order of their first op."""
    placed: list[Block] = []
    for block in sorted(blocks, key=lambda b: (b.first, -b.size, b.name)):
        base = _best_base(block, placed, graph, config)
        if base is None:
            return block
        block.base = base
        placed.append(block)
    return None


_APART = 8
"""What a shared bank counts where two units read it at once."""


def _banks(base: int, size: int, config: AcceleratorConfig) -> set[int]:
    return set(range(base // config.act_bank_depth, (base + size - 1) // config.act_bank_depth + 1))


def _best_base(
    block: Block, placed: list[Block], graph: QuantizedGraph, config: AcceleratorConfig
) -> int | None:
    """The base with the fewest banks shared with blocks alive at the same time, then the lowest.

    A shared bank costs overlap, never correctness: units that would meet at a port are ordered by tokens.
    """
    alive = [b for b in placed if b.first <= block.last and block.first <= b.last]
    candidates = {0} | {b.base + b.size for b in alive}
    candidates |= {i * config.act_bank_depth for i in range(config.act_banks)}
    candidates |= {config.act_depth - block.size} | {b.base - block.size for b in alive}
    best = None
    for base in sorted(candidates):
        if base < 0 or base + block.size > config.act_depth:
            continue
        if any(b.base < base + block.size and base < b.base + b.size for b in alive):
            continue
        mine = _banks(base, block.size, config)
        shared = sum(
            len(mine & _banks(b.base, b.size, config)) * (_APART if b.name in block.apart else 1)
            for b in alive
        )
        fragmented = base % config.act_bank_depth != 0 and not any(b.base + b.size == base for b in alive)
        score = (shared, fragmented, base)
        if best is None or score < best[0]:
            best = (score, base)
    return best[1] if best else None


def _stripes(
    index: int,
    op: Op,
    blocks: list[Block],
    spilled: list[str],
    graph: SampledGraph,
    config: AcceleratorConfig,
    sizes: dict[str, int],
) -> Stripes | int:
    """The tallest stripes whose slots fit beside the tensors on chip; else the words that one row would take."""
    alive = [b for b in blocks if b.first <= index <= b.last]
    if isinstance(op, WeightGradient | BiasGradient):
        return _pixel_stripes(index, op, alive, spilled, graph, config)
    height = graph.tensors[op.output].shape[0]
    streamed = [
        t for t in dict.fromkeys((*op.inputs, op.output)) if t in spilled or graph.whole(t) in spilled
    ]
    if not streamed:
        return Stripes(height)

    def attempt(rows: int, count: int) -> Stripes | None:
        """`count` slots for each streamed tensor, if there is room."""
        slots: dict[str, tuple[int, ...]] = {}
        taken: list[Block] = []
        for t in streamed:
            for _ in range(count):
                scratch = Block(t, _stripe_words(t, op, rows, graph, config, sizes), index, index)
                base = _best_base(scratch, alive + taken, graph, config)
                if base is None:
                    return None
                scratch.base = base
                taken.append(scratch)
                slots[t] = (*slots.get(t, ()), base)
        return Stripes(rows, slots)

    # one slot is enough to be correct; two overlap transfers with computing
    for parts in sorted({-(-height // r) for r in range(1, height + 1)}):
        if found := attempt(-(-height // parts), 1 if parts == 1 else 2):
            return found
    single = attempt(1, 1)
    return single or sum(_stripe_words(t, op, 1, graph, config, sizes) for t in streamed)


def _pixel_stripes(
    index: int,
    op: WeightGradient | BiasGradient,
    alive: list[Block],
    spilled: list[str],
    graph: SampledGraph,
    config: AcceleratorConfig,
) -> Stripes | int:
    """As `_stripes`, where rows are those of gradients."""
    least = 0
    for rows, wanted in pixel_slots(op, graph, config, streamed=op.inputs[0] in spilled):
        slots: dict[str, tuple[int, ...]] = {}
        taken: list[Block] = []
        for t, words, count in wanted:
            for _ in range(count):
                scratch = Block(t, words, index, index)
                base = _best_base(scratch, alive + taken, graph, config)
                if base is not None:
                    scratch.base = base
                    taken.append(scratch)
                    slots[t] = (*slots.get(t, ()), base)
        if len(taken) == sum(count for _, _, count in wanted):
            return Stripes(rows, slots)
        least = sum(words for _, words, _ in wanted)
    return least


def _stripe_words(
    t: str, op: Op, rows: int, graph: SampledGraph, config: AcceleratorConfig, sizes: dict[str, int]
) -> int:
    """Words of the tallest stripe of tensor `t`."""
    whole = t if t in sizes else graph.whole(t)
    row = sizes[whole] // graph.tensors[whole].shape[0]  # all planes of a raw output
    height = graph.tensors[op.output].shape[0]
    if t == op.output:
        return rows * row
    spans = (graph.rows(op, t, low, min(low + rows, height)) for low in range(0, height, rows))
    return max(max(1, hi - lo) for lo, hi in spans) * row
