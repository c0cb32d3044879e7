"""On-chip buffers: banked activations with a port per unit, indices in bit planes, plain weights and parameters.

Nothing arbitrates: programs keep units off one another's banks (docs/isa.md), and never read a word in the
cycle in which it is written. A read in the next cycle sees the new value.
"""

from collections.abc import Callable

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2, exact_log2

from sateen.hw.ports import STORE_READ_LATENCY, ReadPort, WritePort, activation_latency
from sateen.hw.terms import Component, Delays, Terms
from sateen.machine.config import AcceleratorConfig


def memory_of(*, shape: ShapeLike, depth: int) -> memory.Memory:
    """A memory whose word is not read in the cycle in which it is written, so that block RAM does without bypass.

    Synthesis may return anything in that case; a simulation returns the old word.
    """
    return memory.Memory(shape=shape, depth=depth, init=[], attrs={"no_rw_check": 1})


def behind(m: Module, word: Value, registered: bool, name: str) -> Value:
    """What a memory reads, or a register straight behind it, which block RAM has of its own: it always follows."""
    if not registered:
        return word
    register = Signal(len(word), name=name, reset_less=True)
    m.d.sync += register.eq(word)
    return register


class Buffer(wiring.Component):
    """One memory with one read and one write port.

    Parameters
    ----------
    depth : int
        Words, a power of two.
    width : int
        Bits of a word.
    registered : bool
        A register follows the memory: `latency` is 2, else 1.

    Members
    -------
    read : In(ReadPort)
        Data comes after `latency` cycles and stays until the next read's.
    write : In(WritePort)
    """

    initiation_interval = 1

    def __init__(self, *, depth: int, width: int, registered: bool = False):
        addr_bits = exact_log2(depth)
        self.depth = depth
        self.width = width
        self.registered = registered
        self.latency = 1 + registered
        super().__init__({"read": In(ReadPort(addr_bits, width)), "write": In(WritePort(addr_bits, width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = mem = memory_of(shape=self.width, depth=self.depth)
        write, read = mem.write_port(), mem.read_port()
        m.d.comb += [
            write.en.eq(self.write.en),
            write.addr.eq(self.write.addr),
            write.data.eq(self.write.data),
            read.en.eq(self.read.en),
            read.addr.eq(self.read.addr),
            self.read.data.eq(behind(m, read.data, self.registered, "word")),
        ]
        return m


def index_write_port(config: AcceleratorConfig) -> WritePort:
    """A slice is a plane: one bit of every lane of `index_rows` weight words."""
    blocks, planes = config.weight_depth // config.index_rows, config.index_planes
    return WritePort(exact_log2(blocks), planes * config.index_word_bits, planes)


class IndexBuffer(wiring.Component):
    """The stored bits of the indices: written as blocks of `index_rows` rows, plane by plane, read row by row.

    So a beat of memory is written as it is, however many bits an index of the layer has.

    Members
    -------
    read : In(ReadPort(log2(weight_depth), index_row_bits))
        The planes of a weight word, that of bit 0 lowest. Data comes after `latency` cycles and stays until the
        next read's.
    write : In(index_write_port(config))
    moved : In(WritePort(log2(weight_depth), index_row_bits))
        One row, all planes, with `computed_patterns`; not in the cycle of a `write`.
    """

    initiation_interval = 1

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        self.latency = config.memory_latency
        read = ReadPort(exact_log2(config.weight_depth), config.index_row_bits)
        members = {"read": In(read), "write": In(index_write_port(config))}
        if config.computed_patterns:
            members["moved"] = In(WritePort(exact_log2(config.weight_depth), config.index_row_bits))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, row_bits = self.config, self.config.cols * self.config.lanes
        place_bits = exact_log2(config.index_rows)
        for b in range(config.index_planes):
            m.submodules[f"plane_{b}"] = plane = memory_of(shape=row_bits, depth=config.weight_depth)
            read = plane.read_port()
            m.d.comb += [
                read.en.eq(self.read.en),
                read.addr.eq(self.read.addr),
                self.read.data.word_select(b, row_bits).eq(
                    behind(m, read.data, config.memory_registers, f"row_{b}")
                ),
            ]
            word = self.write.data.word_select(b, config.index_word_bits)
            for place in range(config.index_rows):  # synthesis makes them one wide port
                write = plane.write_port()
                enabled = self.write.en & (self.write.mask[b] if config.index_planes > 1 else 1)
                block, row = self.write.addr, word.word_select(place, row_bits)
                if config.computed_patterns:
                    moved = self.moved
                    enabled |= moved.en & (moved.addr[:place_bits] == place)
                    block = Mux(moved.en, moved.addr[place_bits:], block)
                    row = Mux(moved.en, moved.data.word_select(b, row_bits), row)
                m.d.comb += [
                    write.en.eq(enabled),
                    write.addr.eq(Cat(Const(place, place_bits), block)),
                    write.data.eq(row),
                ]
        return m


class ActivationBuffer(wiring.Component):
    """`act_banks` memories of `act_bank_depth` activation words, one read and one write each a cycle.

    An address is {bank, offset}. A slice is `cols` elements, what a DRAIN writes at once.

    Members
    -------
    matrix_read, vector_read : In(ReadPort(log2(act_depth), act_word_bits))
        Data comes after `latency` cycles and stays until the next read's.
    store_read : In(ReadPort(log2(act_depth), act_word_bits))
        Data comes after `store_latency` cycles, and is valid in that cycle only.
    load_write : In(WritePort(log2(act_depth), act_word_bits))
        Writes whole words.
    vector_write : In(WritePort(log2(act_depth), act_word_bits, slices))
        Writes the slices in `mask`; there is no `mask` if the word is one slice.
    conflict : Out(1)
        In this cycle two requesters use the same port of the same bank. One of them is not served.
    """

    store_latency = STORE_READ_LATENCY
    initiation_interval = 1

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        self.latency = activation_latency(config)
        addr_bits = exact_log2(config.act_depth)
        read, width = ReadPort(addr_bits, config.act_word_bits), config.act_word_bits
        super().__init__(
            {
                "matrix_read": In(read),
                "vector_read": In(read),
                "store_read": In(read),
                "load_write": In(WritePort(addr_bits, width)),
                "vector_write": In(WritePort(addr_bits, width, config.slices)),
                "conflict": wiring.Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        offset_bits = exact_log2(config.act_bank_depth)
        readers = {"matrix": self.matrix_read, "vector": self.vector_read, "store": self.store_read}
        all_slices = Const(-1, config.slices)
        writers = [
            (self.load_write, all_slices),
            (self.vector_write, self.vector_write.mask if config.slices > 1 else all_slices),
        ]
        conflicts = []

        banks = []
        for b in range(config.act_banks):
            m.submodules[f"bank_{b}"] = bank = memory_of(
                shape=config.act_word_bits, depth=config.act_bank_depth
            )
            read, write = bank.read_port(), bank.write_port(granularity=config.act_word_bits // config.slices)
            banks.append(behind(m, read.data, config.memory_registers, f"word_{b}"))

            hits = [Signal(name=f"{name}_reads_{b}") for name in readers]
            for hit, port in zip(hits, readers.values(), strict=True):
                m.d.comb += hit.eq(port.en & (port.addr[offset_bits:] == b))
            matrix, vector, store = (port.addr[:offset_bits] for port in readers.values())
            m.d.comb += [
                read.en.eq(hits[0] | hits[1] | hits[2]),
                read.addr.eq(Mux(hits[0], matrix, Mux(hits[1], vector, store))),
            ]
            conflicts += [hits[0] & hits[1], hits[2] & (hits[0] | hits[1])]

            loads, drains = Signal(name=f"load_writes_{b}"), Signal(name=f"vector_writes_{b}")
            (load, load_mask), (vector, vector_mask) = writers
            m.d.comb += [
                loads.eq(load.en & (load.addr[offset_bits:] == b)),
                drains.eq(vector.en & (vector.addr[offset_bits:] == b)),
                write.en.eq(Mux(loads, load_mask, Mux(drains, vector_mask, 0))),
                write.addr.eq(Mux(loads, load.addr, vector.addr)[:offset_bits]),
                write.data.eq(Mux(loads, load.data, vector.data)),
            ]
            conflicts.append(loads & drains)

        for name, port in readers.items():
            valid = Signal(name=f"{name}_valid")
            selected = Signal(exact_log2(config.act_banks), name=f"{name}_bank", reset_less=True)
            word = Signal(config.act_word_bits, name=f"{name}_word", reset_less=True)
            m.d.sync += valid.eq(port.en)
            with m.If(port.en):
                m.d.sync += selected.eq(port.addr[offset_bits:])
            if config.memory_registers:
                selected = behind(m, selected, True, f"{name}_bank_2")
                valid = behind(m, valid, True, f"{name}_valid_2")
            choices = banks
            for bit in selected:  # a tree of two-way multiplexers is smaller than a case
                choices = [Mux(bit, high, low) for low, high in zip(choices[::2], choices[1::2], strict=True)]
            if config.memory_registers and name == "store":
                m.d.comb += port.data.eq(choices[0])
                continue
            with m.If(valid):
                m.d.sync += word.eq(choices[0])
            m.d.comb += port.data.eq(word)

        m.d.comb += self.conflict.eq(_any(conflicts))
        return m


def _any(signals: list[Value]) -> Value:
    result = signals[0]
    for s in signals[1:]:
        result = result | s
    return result


def _activation_terms(c: AcceleratorConfig, t: Terms) -> None:
    width, banks = c.act_word_bits, c.act_banks
    found = t.technology.memory(width, c.act_bank_depth, slices=c.slices)
    offset = ceil_log2(c.act_bank_depth)
    for _ in range(banks):
        t.store(found, width)
    t.add(one=1, write_data=banks * width, write_mask=banks * c.slices, read_address=2 * banks * offset,
          write_address=banks * offset, banks=banks)  # fmt: skip
    t.add(
        read_data=3 * width * t.technology.mux(banks),
        read_tree=3 * width * (banks - 1),
        ff=3 * (width + ceil_log2(banks) + 1),
    )
    if c.memory_registers:  # the banks' and a later choice, but none for STORE
        t.add(ff=(banks - 1) * width + 3 * ceil_log2(banks) + 1)


def _index_terms(c: AcceleratorConfig, t: Terms) -> None:
    found = t.technology.memory(c.cols * c.lanes, c.weight_depth, rows=c.index_rows)
    for _ in range(c.index_planes):
        t.store(found, c.cols * c.lanes)
    t.add(ff=c.memory_registers * c.index_row_bits)
    t.add(planes=c.index_planes, blocks=c.index_planes * c.index_rows * (found.ways > 1))
    if c.computed_patterns:
        t.add(moved=c.index_planes * (c.index_word_bits + 2 * c.index_rows + c.weight_address_bits))


def _path(c: AcceleratorConfig, d: Delays) -> dict[str, float]:
    return {"buffers": d.register + 2 * d.lut}


def _buffer(name: str, size: Callable[[AcceleratorConfig], tuple[int, int]]) -> Component:
    """`size` gives width and depth."""

    def terms(c: AcceleratorConfig, t: Terms) -> None:
        width, depth = size(c)
        t.store(t.technology.memory(width, depth), width)
        t.add(ff=c.memory_registers * width)

    return Component(
        name, (Buffer,), terms, paths=_path, blocks=lambda c, technology: technology.memory(*size(c)).blocks
    )


ACTIVATIONS = Component(
    "activations",
    (ActivationBuffer,),
    _activation_terms,
    paths=lambda c, d: {
        "bank address": d.register + 3 * d.lut,
        "activations": max(d.memory, d.register + d.select(c.act_banks))
        if c.memory_registers
        else d.memory + d.select(c.act_banks),
    },
    blocks=lambda c, technology: c.act_banks * technology.memory(c.act_word_bits, c.act_bank_depth).blocks,
)
WEIGHTS = _buffer("weights", lambda c: (c.weight_word_bits, c.weight_depth))
INDICES = Component("indices", (IndexBuffer,), _index_terms, instances=lambda c: int(c.indexed), paths=_path)
PARAMETERS = _buffer("parameters", lambda c: (c.vector_lanes * c.parameter_bits, c.parameter_depth))
