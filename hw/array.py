"""The systolic array: rows × cols processing elements, weight-stationary.

Activations are broadcast along a row and enter row r r cycles late; partial sums move down the columns, a row
a cycle, so all columns of an activation word leave together. Codes are decoded once, at the edge.

A tile's weights enter in the same wave, one row a cycle, each row just ahead of its first activation: the old
weights are in use up to the cycle in which the new ones are taken. So loading hides behind the wave itself,
without a second set of registers in the elements, and passes may follow one another every `rows` cycles (see
docs/adr/0010-weight-wave.md).
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.config import AcceleratorConfig
from sateen.hw.decode import decode, operand_shape
from sateen.hw.pe import PE, pe_latency


class SystolicArray(wiring.Component):
    """The array of a configuration.

    Members
    -------
    i_valid : In(1)
        `i_activation` is a word: its partial sums come `latency` cycles later.
    i_activation : In(act_word_bits)
        One group of codes for each row.
    i_load : In(1)
        `i_weight` is row 0 of a tile, and those of the next rows-1 cycles are the others, in order. The
        tile meets the activation words from the next cycle on. At most every `rows` cycles.
    i_weight : In(weight_word_bits)
        See docs/isa.md for the layout.
    i_index : In(index_word_bits)
        Its indices. Only if `config.indexed`.
    i_indexed : In(1)
        With `i_weight`: take `i_index`, else count the lanes from `i_pass` on. Only if `config.indexed`.
    i_pass : In(range(dense_passes))
        With `i_weight`: lane l takes element i_pass*lanes + l. Only if there is more than one pass.
    o_psum : Out
        `cols` sums of acc_bits, kept until the next.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        members = {
            "i_valid": In(1),
            "i_activation": In(config.act_word_bits),
            "i_load": In(1),
            "i_weight": In(config.weight_word_bits),
            "o_psum": Out(data.ArrayLayout(signed(config.acc_bits), config.cols)),
        }
        if config.dense_passes > 1:
            members["i_pass"] = In(range(config.dense_passes))
        if config.indexed:
            members |= {"i_index": In(config.index_word_bits), "i_indexed": In(1)}
        super().__init__(members)

    @property
    def latency(self) -> int:
        """Cycles from `i_activation` to `o_psum`: decoding, a row a cycle, and the PE's stages before its sum."""
        return array_latency(self.config)

    @property
    def initiation_interval(self) -> int:
        return 1

    def elaborate(self, platform):
        m = Module()
        rows, cols = self.config.rows, self.config.cols
        valid, load = self._waves(m)
        weights = self._weights(m, load)
        psums = [Const(0, signed(self.config.acc_bits))] * cols
        for row in range(rows):
            activations = self._activations(m, row, valid)
            for col in range(cols):
                m.submodules[f"pe_{row}_{col}"] = pe = self._pe()
                m.d.comb += [
                    Value.cast(pe.activations).eq(activations),
                    Value.cast(pe.weights).eq(weights[col]),
                    pe.load.eq(load[row + 1]),
                    pe.multiply.eq(valid[row + 1]),
                    pe.accumulate.eq(valid[row + pe.latency]),
                    pe.psum_in.eq(psums[col]),
                ]
                if self.config.lanes > 1:
                    m.d.comb += pe.add.eq(valid[row + 2])
                psums[col] = pe.psum
        m.d.comb += Value.cast(self.o_psum).eq(Cat(psums))
        return m

    def _pe(self) -> PE:
        c = self.config
        return PE(
            lanes=c.lanes,
            group=c.group,
            activation=c.activation,
            weight=c.weight,
            multiplier=c.multiplier,
            acc_bits=c.acc_bits,
        )

    def _waves(self, m: Module) -> tuple[Value, Value]:
        """`i_valid` and `i_load` by age: bit k is k cycles old."""
        waves = []
        for name, source, length in (
            ("valid", self.i_valid, self.config.rows + pe_latency(self.config.lanes) - 1),
            ("load", self.i_load, self.config.rows),
        ):
            wave = Signal(length, name=name)
            m.d.sync += wave.eq(Cat(source, wave))
            waves.append(Cat(source, wave))
        return waves[0], waves[1]

    def _weights(self, m: Module, load: Value) -> list[Value]:
        """The decoded weight row, one value per column, in the cycle after `i_weight`."""
        c = self.config
        columns = []
        for col in range(c.cols):
            lanes = []
            for lane in range(c.lanes):
                code = self.i_weight.word_select(col * c.lanes + lane, c.weight.bits)
                operand = Signal(
                    operand_shape(c.weight, c.multiplier), name=f"weight_{col}_{lane}", reset_less=True
                )
                index = Signal(c.index_bits, name=f"index_{col}_{lane}", reset_less=True)
                with m.If(load[: c.rows].any()):
                    m.d.sync += [
                        Value.cast(operand).eq(decode(c.weight, c.multiplier, code)),
                        index.eq(self._index(col, lane)),
                    ]
                lanes += [operand, index]
            columns.append(Cat(lanes))
        return columns

    def _index(self, col: int, lane: int) -> Value:
        """Which element of the group the lane multiplies."""
        c = self.config
        if not c.index_bits:
            return Const(0, 0)
        counted = Cat(Const(lane, c.index_bits - len(self.i_pass)), self.i_pass)  # lanes is a power of two
        if not c.indexed:
            return counted
        return Mux(self.i_indexed, self.i_index.word_select(col * c.lanes + lane, c.index_bits), counted)

    def _activations(self, m: Module, row: int, valid: Value) -> Value:
        """The row's group, decoded, `row` + 1 cycles after `i_activation`; codes wait, being narrower."""
        c = self.config
        codes = self.i_activation.word_select(row, c.group * c.activation.bits)
        for age in range(row):
            late = Signal(codes.shape(), name=f"codes_{row}_{age}", reset_less=True)
            with m.If(valid[age]):
                m.d.sync += late.eq(codes)
            codes = late
        operands = []
        for k in range(c.group):
            operand = Signal(
                operand_shape(c.activation, c.multiplier), name=f"activation_{row}_{k}", reset_less=True
            )
            with m.If(valid[row]):
                m.d.sync += Value.cast(operand).eq(
                    decode(c.activation, c.multiplier, codes.word_select(k, c.activation.bits))
                )
            operands.append(operand)
        return Cat(operands)


def array_latency(config: AcceleratorConfig) -> int:
    """Cycles from an activation word to its partial sums."""
    return 1 + config.rows - 1 + pe_latency(config.lanes)
