"""The instruction set: one set of layouts that the assembler, the interpreters and the RTL share.

An instruction is 512 bits in memory, little endian, its layout in the low bits. The first fields are the
same in all: the opcode, which also names the engine, and the two token masks (see docs/isa.md).

Addresses of on-chip buffers count words, wrap at the buffer's size, and are relative to nothing; addresses
in memory count bytes from the base register.
"""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, enum

INSTRUCTION_BITS = 512
INSTRUCTION_BYTES = INSTRUCTION_BITS // 8
CHUNK = 16
"""Instructions in a chunk. A program is fetched chunk by chunk; all but the last begin with the LOAD of the next."""


class Engine(enum.IntEnum, shape=unsigned(2)):
    LOAD = 0
    MATRIX = 1
    VECTOR = 2
    STORE = 3


class Opcode(enum.IntEnum, shape=unsigned(4)):
    LOAD = 1
    MATRIX = 4
    DRAIN = 8
    POOL = 9
    STORE = 12
    END = 15


ENGINE_OF = {
    Opcode.LOAD: Engine.LOAD,
    Opcode.MATRIX: Engine.MATRIX,
    Opcode.DRAIN: Engine.VECTOR,
    Opcode.POOL: Engine.VECTOR,
    Opcode.STORE: Engine.STORE,
}


class Target(enum.IntEnum, shape=unsigned(3)):
    """Where a LOAD writes."""

    ACTIVATION = 0
    WEIGHT = 1
    PARAMETER = 2
    TABLE = 3
    INSTRUCTION = 4
    INDEX = 5


_HEADER = {
    "opcode": Opcode,
    "wait": unsigned(4),  # bit e: take one token that engine e gave to this engine, before starting
    "signal": unsigned(4),  # bit e: give one token to engine e, when done
}

HEADER = data.StructLayout(_HEADER)

LOAD = data.StructLayout(
    _HEADER
    | {
        "target": Target,
        "destination": unsigned(23),  # first word in the target; ignored for INSTRUCTION
        "source": unsigned(32),  # bytes, a multiple of the bus width
        "words": unsigned(24),  # words of the target, at least 1
        "last_plane": unsigned(2),  # INDEX: every last_plane + 1 words belong to one block of weight words
    }
)

STORE = data.StructLayout(
    _HEADER
    | {
        "source": unsigned(24),  # first word in the activation buffer
        "destination": unsigned(32),  # bytes, a multiple of the bus width
        "words": unsigned(24),  # at least 1
    }
)

# A window walks over a (in_h, in_w) plane of words: output pixel (oy, ox), tap (ky, kx) and channel word c read
#   y = y0 + oy*stride_y + ky*dilation_y,  x = x0 + ox*stride_x + kx*dilation_x
#   word = base + oy*step_y + ox*step_x + ky*step_ky + kx*step_kx + c        (modulo the buffer's size)
# and padding where (y, x) lies outside. `base` is thus the word of (y0, x0), which may lie outside the tensor.
_WINDOW = {
    "base": unsigned(24),
    "step_x": unsigned(24),
    "step_y": unsigned(24),
    "step_kx": unsigned(24),
    "step_ky": unsigned(24),
    "x0": signed(14),
    "y0": signed(14),
    "in_w": unsigned(14),
    "in_h": unsigned(14),
    "stride_x": unsigned(6),
    "stride_y": unsigned(6),
    "dilation_x": unsigned(8),
    "dilation_y": unsigned(8),
    "kernel_w": unsigned(9),
    "kernel_h": unsigned(9),
    "channel_words": unsigned(12),
    "out_w": unsigned(12),
    "out_h": unsigned(12),
}

MATRIX = data.StructLayout(
    _HEADER
    | _WINDOW
    | {
        "passes": unsigned(6),  # weight tiles per activation word: group/lanes if dense, ceil(n/lanes) if N:M
        "weight_base": unsigned(24),  # first row of the first weight tile
        # Lane l of pass p picks element (p*lanes + l) << index_shift, its low index_bits bits as stored.
        "index_bits": unsigned(3),  # 0: none is stored
        "index_shift": unsigned(3),  # log2(m/n) where n of each m elements are kept
        "acc_base": unsigned(16),
        "accumulate": unsigned(1),  # 0: the first weight tile overwrites; 1: it adds too
        "padding": unsigned(8),  # the activation code that padding reads
        "output_stationary": unsigned(
            1
        ),  # 1: a row of the array computes a pixel, else a part of the reduction
        "slide": unsigned(
            1
        ),  # 1: a pixel's tap is its neighbour's next (stride_x = dilation_x), so each is read once
        "last_steps": unsigned(12),  # weight words of a tap's last channel word, if output_stationary
    }
)

DRAIN = data.StructLayout(
    _HEADER
    | {
        "acc_base": unsigned(16),
        "out_w": unsigned(12),
        "out_h": unsigned(12),
        "parameter_base": unsigned(16),
        "base": unsigned(24),
        "step_x": unsigned(24),
        "step_y": unsigned(24),
        "slice": unsigned(
            6
        ),  # which run of `cols` elements of the word is written (and read from the residual)
        "residual": unsigned(1),
        "residual_base": unsigned(24),
        "residual_step_x": unsigned(24),
        "residual_step_y": unsigned(24),
        "residual_multiplier": unsigned(16),
        "residual_shift": unsigned(7),  # s0: the residual is shifted left by shift_c - s0
        "residual_zero": signed(10),
        "zero_point": signed(10),
        "low": signed(40),  # clamp, in fixed-point units of the activation format
        "high": signed(40),
        "table": unsigned(1),  # look the code up in the activation table
        "raw": unsigned(1),  # write bits [raw_shift, raw_shift + activation bits) of acc + bias instead
        "raw_shift": unsigned(7),
    }
)

POOL = data.StructLayout(
    _HEADER
    | _WINDOW
    | {
        "out_base": unsigned(24),
        "out_step_x": unsigned(24),
        "out_step_y": unsigned(24),
    }
)

END = HEADER

LAYOUT = {
    Opcode.LOAD: LOAD,
    Opcode.MATRIX: MATRIX,
    Opcode.DRAIN: DRAIN,
    Opcode.POOL: POOL,
    Opcode.STORE: STORE,
    Opcode.END: END,
}


def parameter_layout(acc_bits: int) -> data.StructLayout:
    """One output channel's requantization: (acc + bias) * multiplier * 2**-shift."""
    return data.StructLayout({"bias": signed(acc_bits), "multiplier": unsigned(16), "shift": unsigned(7)})
