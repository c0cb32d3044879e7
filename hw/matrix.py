"""The matrix engine executes MATRIX: passes of activation words through the array into the accumulators.

Each pass reads its tile's weights and its words in one wave (see hw/array.py), so passes follow one another
without a gap, or every `pass_interval` cycles where a pass has fewer words than that.
"""

from collections.abc import Mapping

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.config import AcceleratorConfig
from sateen.hw import isa
from sateen.hw.accumulator import Accumulator, address_bits
from sateen.hw.array import SystolicArray, array_latency
from sateen.hw.ports import ReadPort
from sateen.hw.window import MATRIX_ORDER, Window

ACTIVATION_LATENCY = 2
WEIGHT_LATENCY = 1


def pass_interval(words: int, config: AcceleratorConfig) -> int:
    """Cycles from one pass of `words` activation words to the next: a pass loads `rows` rows of weights, and
    comes back to the same accumulator at the earliest after `min_interval`."""
    return max(words, config.rows, Accumulator.min_interval)


def matrix_cycles(fields, config: AcceleratorConfig) -> int:
    """D of a MATRIX instruction: cycles from start to done.

    Parameters
    ----------
    fields : mapping or object
        The fields of isa.MATRIX as integers.
    """
    get = fields.__getitem__ if isinstance(fields, Mapping) else lambda name: getattr(fields, name)
    words = int(get("out_h")) * int(get("out_w"))
    passes = int(get("kernel_h")) * int(get("kernel_w")) * int(get("channel_words")) * int(get("passes"))
    return (passes - 1) * pass_interval(words, config) + words + _drain(config)


def _announce(config: AcceleratorConfig) -> int:
    """Cycles from the read of an activation word until its sums are announced, which is two ahead of them."""
    return ACTIVATION_LATENCY + array_latency(config) - 2


def _drain(config: AcceleratorConfig) -> int:
    """Cycles from the read of the last word to its sums being written: `done` comes with the write."""
    return _announce(config) + Accumulator.latency - 1


class MatrixEngine(wiring.Component):
    """The engine with its array and its accumulators.

    Members
    -------
    start, instruction, done
        The engine protocol: `instruction` is an isa.MATRIX in its low bits. `done` comes matrix_cycles()
        after `start`; from the next cycle on the accumulators can be read.
    act_read : Out(ReadPort)
        Activation words, latency ACTIVATION_LATENCY. Padding is not read.
    weight_read : Out(ReadPort)
        Weight rows, latency WEIGHT_LATENCY.
    index_read : Out(ReadPort)
        Their indices, likewise, read if the instruction is `indexed`. Only if `config.indexed`.
    acc_read : In(ReadPort)
        The accumulators, for the vector engine; latency Accumulator.read_latency. The top bit of the address
        is the bank.
    acc_conflict : Out(1)
        See Accumulator.conflict.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        act_bits = (config.act_depth - 1).bit_length()
        weight_bits = (config.weight_depth - 1).bit_length()
        members = {
            "start": In(1),
            "instruction": In(isa.INSTRUCTION_BITS),
            "done": Out(1),
            "act_read": Out(ReadPort(act_bits, config.act_word_bits)),
            "weight_read": Out(ReadPort(weight_bits, config.weight_word_bits)),
            "acc_read": In(ReadPort(address_bits(config), config.cols * config.acc_bits)),
            "acc_conflict": Out(1),
        }
        if config.indexed:
            members["index_read"] = Out(ReadPort(weight_bits, config.index_word_bits))
        super().__init__(members)

    @property
    def latency(self) -> int:
        """Cycles from `start` to `done` of the smallest instruction, one pass of one word."""
        return 1 + _drain(self.config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.window = window = Window(order=MATRIX_ORDER, addr_bits=len(self.act_read.addr))
        fields = data.View(isa.MATRIX, self.instruction[: isa.MATRIX.size])
        read, pass_start = self._sequence(m, fields, window)
        psums = self._compute(m, fields, window, read, pass_start)
        self._collect(m, fields, window, read, psums)
        return m

    def _sequence(self, m: Module, fields: data.View, window: Window) -> tuple[Signal, Signal]:
        """Step through the window and read the buffers; return "a word is read", "it is a pass's first"."""
        interval = pass_interval(1, self.config)
        running = Signal()
        read = Signal()
        pass_start = Signal()
        wait = Signal(range(interval))  # cycles until the next pass may begin
        m.d.comb += [
            *window.set(fields),
            window.load.eq(self.start),
            read.eq(running & ~(window.first.oy & wait.any())),
            pass_start.eq(read & window.first.oy),
            window.step.eq(read),
            self.act_read.en.eq(read & window.inside),
            self.act_read.addr.eq(window.addr),
            # a row in each of the first `rows` cycles of the pass
            self.weight_read.en.eq(pass_start | (wait > interval - self.config.rows)),
        ]
        with m.If(pass_start):
            m.d.sync += wait.eq(interval - 1)
        with m.Elif(wait.any()):
            m.d.sync += wait.eq(wait - 1)

        weight_addr = self.weight_read.addr
        with m.If(self.start):
            m.d.sync += [running.eq(1), weight_addr.eq(fields.weight_base)]
        with m.Else():
            with m.If(read & window.last[MATRIX_ORDER[0]]):
                m.d.sync += running.eq(0)
            with m.If(self.weight_read.en):
                m.d.sync += weight_addr.eq(weight_addr + 1)  # wraps at the buffer's size
        return read, pass_start

    def _compute(
        self, m: Module, fields: data.View, window: Window, read: Signal, pass_start: Signal
    ) -> Value:
        """Hand what the buffers answer to the array, padding where the tap was outside; return the sums."""
        m.submodules.array = array = SystolicArray(config=self.config)
        valid = _delay(m, read, ACTIVATION_LATENCY, "valid")
        outside = _delay(m, ~window.inside, ACTIVATION_LATENCY, "outside")
        padding = Signal(self.config.activation.bits, reset_less=True)
        with m.If(self.start):
            m.d.sync += padding.eq(fields.padding)
        m.d.comb += [
            array.i_valid.eq(valid),
            array.i_activation.eq(Mux(outside, Cat([padding] * self.config.elements), self.act_read.data)),
            array.i_load.eq(_delay(m, pass_start, WEIGHT_LATENCY, "load")),
            array.i_weight.eq(self.weight_read.data),
        ]
        if self.config.dense_passes > 1:
            self._indices(m, fields, window, read, pass_start, array)
        return Value.cast(array.o_psum)

    def _indices(
        self,
        m: Module,
        fields: data.View,
        window: Window,
        read: Signal,
        pass_start: Signal,
        array: SystolicArray,
    ) -> None:
        """Tell the array which elements the weights belong to: count the passes of a word, or read the indices."""
        current = Signal.like(array.i_pass)  # of the word that is read
        loading = Signal.like(
            array.i_pass
        )  # of the weights that come: words may be over before their rows are
        with m.If(self.start):
            m.d.sync += current.eq(0)
        with m.Elif(read & window.last.oy):
            m.d.sync += current.eq(Mux(window.last.p, 0, current + 1))
        with m.If(pass_start):
            m.d.sync += loading.eq(current)
        m.d.comb += array.i_pass.eq(loading)  # WEIGHT_LATENCY after pass_start
        if self.config.indexed:
            indexed = Signal()
            with m.If(self.start):
                m.d.sync += indexed.eq(fields.indexed)
            m.d.comb += [
                self.index_read.en.eq(self.weight_read.en & indexed),
                self.index_read.addr.eq(self.weight_read.addr),
                array.i_index.eq(self.index_read.data),
                array.i_indexed.eq(indexed),
            ]

    def _collect(self, m: Module, fields: data.View, window: Window, read: Signal, psums: Value) -> None:
        """Address the accumulators; the flags of a word travel as long as the word does."""
        m.submodules.accumulator = accumulator = Accumulator(config=self.config)
        valid = _delay(m, read, _announce(self.config), "announced")
        pass_end = _delay(m, read & window.last.oy, _announce(self.config), "pass_end")
        end = read & window.last[MATRIX_ORDER[0]]
        base = Signal(accumulator.addr_bits, reset_less=True)
        addr = Signal(accumulator.addr_bits, reset_less=True)
        add = Signal(reset_less=True)
        with m.If(self.start):
            m.d.sync += [base.eq(fields.acc_base), addr.eq(fields.acc_base), add.eq(fields.accumulate)]
        with m.Elif(valid):
            m.d.sync += [addr.eq(Mux(pass_end, base, addr + 1)), add.eq(add | pass_end)]
        m.d.comb += [
            accumulator.i_valid.eq(valid),
            accumulator.i_addr.eq(addr),
            accumulator.i_add.eq(add),
            Value.cast(accumulator.i_psum).eq(psums),
            accumulator.read.en.eq(self.acc_read.en),
            accumulator.read.addr.eq(self.acc_read.addr),
            self.acc_read.data.eq(accumulator.read.data),
            self.acc_conflict.eq(accumulator.conflict),
            self.done.eq(_delay(m, end, _drain(self.config), "end")),
        ]


def _delay(m: Module, source: Value, cycles: int, name: str) -> Value:
    """One bit, `cycles` (at least 1) later."""
    late = Signal(cycles, name=name)
    m.d.sync += late.eq(Cat(source, late))
    return late[-1]
