"""Which bits of an instruction a machine uses: synthesis drops the registers of the others."""

from __future__ import annotations

import functools
import operator

from amaranth.lib import data

from sateen.config import AcceleratorConfig
from sateen.formats import Minifloat
from sateen.fpga.resource_terms import log2
from sateen.hw import isa
from sateen.hw.accumulator import address_bits
from sateen.hw.isa import Engine, Opcode


def instruction_mask(engine: Engine, c: AcceleratorConfig) -> int:
    """The bits of an engine's instructions that reach something in the machine."""
    return functools.reduce(
        operator.or_,
        (_mask(isa.LAYOUT[opcode], _used(opcode, c)) for opcode, e in isa.ENGINE_OF.items() if e is engine),
    )


def _mask(layout: data.StructLayout, used: dict[str, int]) -> int:
    """Of the lowest bits of fields."""
    found = 0
    for name, bits in used.items():
        field = layout[name]
        found |= (1 << min(bits, field.width)) - 1 << field.offset
        if name in ("low", "high"):  # bounds are narrow, but have their sign on top
            found |= 1 << field.offset + field.width - 1
    return found


def _used(opcode: Opcode, c: AcceleratorConfig) -> dict[str, int]:
    address, acc = log2(c.act_depth), address_bits(c)
    if opcode in (Opcode.LOAD, Opcode.STORE):
        largest = max(address, log2(c.weight_depth), log2(c.parameter_depth), c.activation.bits * c.table)
        on_chip, memory_address = (
            ("destination", "source") if opcode is Opcode.LOAD else ("source", "destination")
        )
        fields = {
            on_chip: largest if opcode is Opcode.LOAD else address,
            memory_address: c.memory_bits,
            "words": 24,
        }
        return fields | ({"target": 3, "last_plane": 2} if opcode is Opcode.LOAD else {})
    walked = dict.fromkeys(("base", "step_x", "step_y"), address)
    window = walked | dict.fromkeys(("step_kx", "step_ky"), address)
    window |= dict.fromkeys(("x0", "y0"), c.position_bits) | dict.fromkeys(("in_w", "in_h"), c.plane_bits)
    window |= {"stride_x": c.stride_bits, "stride_y": c.stride_bits, "dilation_x": c.dilation_bits}
    window |= {"dilation_y": c.dilation_bits, "kernel_w": c.kernel_bits, "kernel_h": c.kernel_bits}
    window |= {"channel_words": c.channel_bits, "out_w": c.output_bits, "out_h": c.output_bits}
    if opcode is Opcode.MATRIX:
        found = window | {
            "passes": 6 if c.output_stationary else c.passes_bits,
            "weight_base": log2(c.weight_depth),
        }
        found |= {"acc_base": acc, "accumulate": 1, "padding": c.activation.bits}
        if c.indexed:
            found |= dict.fromkeys(("index_bits", "index_shift"), c.index_planes.bit_length())
        if c.output_stationary:
            found |= {
                "output_stationary": 1,
                "slide": 1,
                "last_steps": 12,
                "out_w": 12,
                "out_h": c.output_bits,
            }
        return found
    if opcode is Opcode.POOL:
        return window | dict.fromkeys(("out_base", "out_step_x", "out_step_y"), address) | {"opcode": 4}
    bound, integer = c.activation.fixed_bits - 1, not isinstance(c.activation, Minifloat)
    found = walked | {"opcode": 4, "acc_base": acc, "out_w": c.output_bits, "out_h": c.output_bits}
    found |= {"parameter_base": log2(c.parameter_depth), "slice": log2(c.slices), "low": bound, "high": bound}
    found |= {"raw": 1, "raw_shift": 7, "table": int(c.table), "zero_point": 10 * integer}
    if c.residual:
        found |= dict.fromkeys(("residual_base", "residual_step_x", "residual_step_y"), address)
        found |= {
            "residual": 1,
            "residual_multiplier": 16,
            "residual_shift": 7,
            "residual_zero": 10 * integer,
        }
    return found
