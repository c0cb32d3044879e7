"""Softmax and normalization to ROW instructions."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from sateen.compiler.schedule.emitter import Access, Emitter, View
from sateen.errors import ConfigError
from sateen.ir.quantized import (
    Normalize,
    Softmax,
)
from sateen.ir.sums import FACTOR_BITS
from sateen.machine.isa import Opcode, Target, bits_of
from sateen.machine.packing import pack_parameters

_MOST_PIXELS = (1 << bits_of("out_w", Opcode.ROW)) - 1


class Rows(Emitter):
    """The part of the lowering that is about rows."""

    def softmax(self, op: Softmax) -> None:
        table = op.exponentials.astype("<u4").tobytes()
        words = len(op.exponentials)
        if table != self.exponentials:
            self.load_constant(Target.EXPONENTIAL, "exponential", 0, words, self.constant(table))
            self.exponentials = table
        self._pixels(op, [("exponential", 0, words)])

    def normalize(self, op: Normalize) -> None:
        if op.plane:
            self._planes(op)
        else:
            self._pixels(op, [])

    def _pixels(self, op: Softmax | Normalize, reads: list[Access]) -> None:
        """Rows that are pixels."""
        depth = self.config.act_depth
        _, width, channels = self.graph.tensors[op.output].shape
        parameters, fields = self._row_parameters(op)
        for r0, r1, views in self.stripe_views(op):
            source, target = views[op.input], views[op.output]
            for y0, y1 in self.bands(op, r0, r1):
                self.bring(op.input, source, y1)
                for x0 in range(0, width, _MOST_PIXELS):
                    self.emit(
                        Opcode.ROW, [source.rows(y0, y1), *reads, parameters], [target.rows(y0, y1)],
                        **fields,
                        base=(source.base + y0 * source.row + x0 * source.cw) % depth,
                        step_x=source.cw % depth, step_y=source.row % depth,
                        out_w=min(_MOST_PIXELS, width - x0), out_h=y1 - y0, row_w=1, row_h=1,
                        channel_words=source.cw, first=0, last=channels, distance=_distance(source, target, depth),
                    )  # fmt: skip
            if self.must_store(op.output):
                self.transfer(Opcode.STORE, op.output, target, r0, r1)

    def _planes(self, op: Normalize) -> None:
        """Each row is a group of channels of all pixels.

        Where groups share words, these are copied first, and each group is then normalized in its place.
        """
        depth, elements = self.config.act_depth, self.config.elements
        height, width, channels = self.graph.tensors[op.output].shape
        own = height // self.graph.apart(op)
        if self.placement.stripes[self.layer].rows < height:
            raise ConfigError(
                f"normalization '{op.name}': its statistics are those of all {own} x {width} pixels, which do not "
                f"fit the activation buffer of {depth} words beside their results; raise act_bank_depth or act_banks"
            )
        size = channels // op.groups
        shared = op.groups > 1 and size % elements > 0
        parameters, fields = self._row_parameters(op)
        for _, _, views in self.stripe_views(op):
            source, target = views[op.input], views[op.output]
            self.bring(op.input, source, height)
            if shared:
                self._copy(source, target, height, width)
            read = target if shared else source
            for y, low in product(range(0, height, own), range(0, channels, size)):
                word, end = low // elements, -(-(low + size) // elements)
                self.emit(
                    Opcode.ROW, [read.rows(y, y + own), parameters], [target.rows(y, y + own)],
                    **fields
                    | {"parameter_base": self._first_parameter(fields, word)},
                    base=(read.base + y * read.row + word) % depth, out_w=1, out_h=1,
                    step_kx=read.cw % depth, step_ky=read.row % depth, row_w=width, row_h=own,
                    channel_words=end - word, first=low - word * elements, last=low + size - word * elements,
                    distance=_distance(read, target, depth),
                )  # fmt: skip
            if self.must_store(op.output):
                self.transfer(Opcode.STORE, op.output, target, 0, height)

    def _first_parameter(self, fields: dict[str, int], word: int) -> int:
        """The word of parameters for an activation word of a pixel."""
        steps = self.config.elements // self.config.vector_lanes
        return fields["parameter_base"] + fields["per_channel"] * word * steps

    def _copy(self, source: View, target: View, height: int, width: int) -> None:
        """Whole words of a plane."""
        depth = self.config.act_depth
        self.emit(
            Opcode.POOL, [source.rows(0, height)], [target.rows(0, height)],
            base=source.base % depth, step_x=source.cw % depth, step_y=source.row % depth, in_w=width, in_h=height,
            stride_x=1, stride_y=1, dilation_x=1, dilation_y=1, kernel_w=1, kernel_h=1, channel_words=source.cw,
            out_w=width, out_h=height, out_base=target.base % depth, out_step_x=target.cw % depth,
            out_step_y=target.row % depth,
        )  # fmt: skip

    def _row_parameters(self, op: Softmax | Normalize) -> tuple[Access, dict[str, Any]]:
        """What a ROW reads of parameters, loaded, and the fields that do not depend on where rows are."""
        config, lanes = self.config, self.config.vector_lanes
        source, target = (self.graph.tensors[t].quant for t in (op.input, op.output))
        factors = op.multiplier
        packed = [np.abs(factors) | (factors < 0).astype(np.int64) << FACTOR_BITS, op.shift, op.bias]
        multiplier, shift, bias = ([int(v) for v in values] for values in packed)
        same = len({*zip(multiplier, shift, bias, strict=True)}) == 1
        if same:
            multiplier, shift, bias = multiplier[:1] * lanes, shift[:1] * lanes, bias[:1] * lanes
        else:
            fill = -len(bias) % config.elements
            multiplier, shift, bias = multiplier + [1] * fill, shift + [0] * fill, bias + [0] * fill
        words = len(bias) // lanes
        if words > config.parameter_depth:
            raise ConfigError(
                f"normalization '{op.name}': {len(op.bias)} channels have factors of their own, {words} words of "
                f"parameters, and parameter_depth = {config.parameter_depth}; raise it"
            )
        base = self.parameters.take(words)
        data = self.constant(pack_parameters(bias, multiplier, shift, config))
        self.load_constant(Target.PARAMETER, "param", base, words, data)
        fields: dict[str, Any] = {
            "parameter_base": base, "per_channel": int(not same), "zero_point": target.zero_after,
            "low": target.format.min_fixed, "high": target.format.max_fixed,
        }  # fmt: skip
        if isinstance(op, Normalize):
            fields |= {
                "normalize": 1, "centred": int(op.centred), "count": op.count, "zero": source.zero_point,
                "epsilon": op.epsilon,
            }  # fmt: skip
        return ("param", base, base + words), fields


def _distance(source: View, target: View, depth: int) -> int:
    return (target.base - source.base) % depth
