"""How codes, weights and parameters lie in memory (docs/isa.md, "Data"). NumPy only; all little endian."""

import math

import numpy as np

from sateen.formats.base import code_dtype
from sateen.machine.config import AcceleratorConfig


def pack(fields: np.ndarray, bits: int, word_bytes: int) -> np.ndarray:
    """(..., n) unsigned fields of `bits` bits to (..., word_bytes) bytes, field 0 lowest, zeros above."""
    fields = np.ascontiguousarray(fields, code_dtype(bits))
    if bits == 8:
        packed = fields
    else:
        one_hot = (fields[..., None] >> np.arange(bits, dtype=fields.dtype)).astype(np.uint8) & 1
        flat = one_hot.reshape(*fields.shape[:-1], fields.shape[-1] * bits)
        packed = np.packbits(flat, axis=-1, bitorder="little")
    out = np.zeros((*packed.shape[:-1], word_bytes), np.uint8)
    out[..., : packed.shape[-1]] = packed
    return out


def unpack(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse of `pack`: (..., word_bytes) bytes to (..., count) fields."""
    if bits == 8:
        return words[..., :count]
    flat = np.unpackbits(words, axis=-1, bitorder="little")[..., : count * bits]
    fields = flat.reshape(*words.shape[:-1], count, bits)
    weight = (1 << np.arange(bits)).astype(np.uint32)
    return (fields * weight).sum(-1, dtype=np.uint32).astype(code_dtype(bits))


def row_words(width: int, channels: int, config: AcceleratorConfig) -> int:
    """Words of one row of a tensor, filled up to whole bus beats so that every row can be transferred alone."""
    words = width * -(-channels // config.elements)
    unit = config.beat_bytes // math.gcd(config.beat_bytes, config.act_word_bytes)
    return -(-words // unit) * unit


def pack_activations(codes: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """(N, H, W, C) codes to (N, H * row_words * act_word_bytes) bytes."""
    n, h, w, c = codes.shape
    cw = -(-c // config.elements)
    row = row_words(w, c, config)
    padded = np.zeros((n, h, row * config.elements), config.activation.code_dtype)
    padded[:, :, : w * cw * config.elements].reshape(n, h, w, -1)[..., :c] = codes
    words = pack(padded.reshape(n, h * row, config.elements), config.activation.bits, config.act_word_bytes)
    return words.reshape(n, -1)


def pack_integers(values: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """(N, H, W, C) int32 to (N, bytes), as codes lie, 32 bits for each."""
    n, h, w, c = values.shape
    cw = -(-c // config.elements)
    padded = np.zeros((n, h, row_words(w, c, config) * config.elements), "<i4")
    padded[:, :, : w * cw * config.elements].reshape(n, h, w, -1)[..., :c] = values
    return padded.reshape(n, -1).view(np.uint8)


def unpack_integers(data: np.ndarray, shape: tuple[int, int, int], config: AcceleratorConfig) -> np.ndarray:
    """The inverse: (N, bytes) to (N, H, W, C)."""
    h, w, c = shape
    cw = -(-c // config.elements)
    values = np.ascontiguousarray(data).view("<i4").reshape(len(data), h, -1)
    return values[:, :, : w * cw * config.elements].reshape(len(data), h, w, -1)[..., :c].astype(np.int32)


def unpack_activations(
    data: np.ndarray, shape: tuple[int, int, int], config: AcceleratorConfig
) -> np.ndarray:
    """(N, bytes) to (N, H, W, C) codes."""
    h, w, c = shape
    cw = -(-c // config.elements)
    words = data.reshape(len(data), -1, config.act_word_bytes)
    codes = unpack(words, config.activation.bits, config.elements).reshape(len(data), h, -1)
    return codes[:, :, : w * cw * config.elements].reshape(len(data), h, w, -1)[..., :c]


def tile_words(weights: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """Codes of weight tiles (T, rows, cols, lanes) to (T*rows, weight_word_bytes)."""
    return pack(weights.reshape(-1, config.cols * config.lanes), config.weight.bits, config.weight_word_bytes)


def split_words(words: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """The inverse: (n, weight_word_bytes) to n array rows (n, cols, lanes) of codes."""
    codes = unpack(words, config.weight.bits, config.cols * config.lanes)
    return codes.reshape(len(words), config.cols, config.lanes)


def index_words(indices: np.ndarray, planes: int, config: AcceleratorConfig) -> np.ndarray:
    """The low `planes` bits of their indices, (T, rows, cols, lanes), to index words (n * planes, index_word_bytes).

    One word after the other holds bit 0, 1, … of a block of `index_rows` rows, the last filled up with zeros.
    """
    flat = indices.reshape(-1)
    blocks = np.pad(flat, (0, -len(flat) % config.index_word_bits)).reshape(-1, 1, config.index_word_bits)
    bits = blocks >> np.arange(planes, dtype=indices.dtype)[:, None] & 1
    return pack(bits.reshape(-1, config.index_word_bits), 1, config.index_word_bytes)


def split_planes(words: np.ndarray, planes: int, config: AcceleratorConfig) -> np.ndarray:
    """The inverse: index words to the bits of n * index_rows array rows (..., planes, cols, lanes)."""
    shape = (-1, planes, config.index_rows, config.cols, config.lanes)
    bits = unpack(words, 1, config.index_word_bits).reshape(shape).swapaxes(1, 2)
    return bits.reshape(-1, planes, config.cols, config.lanes)


def pack_parameters(
    bias: list[int], multiplier: list[int], shift: list[int], config: AcceleratorConfig
) -> bytes:
    """Whole parameter words for consecutive channels; the last word is filled up with zeros."""
    v, size, acc = config.vector_lanes, config.parameter_bytes, config.acc_bits
    out = bytearray()
    for start in range(0, len(bias), v):
        word = bytearray(config.parameter_word_bytes)
        for lane, (b, m, s) in enumerate(
            zip(bias[start : start + v], multiplier[start : start + v], shift[start : start + v], strict=True)
        ):
            value = (b & (2**acc - 1)) | m << acc | s << (acc + 16)
            word_value = int.from_bytes(word, "little") | value << (lane * 8 * size)
            word[:] = word_value.to_bytes(len(word), "little")
        out += word
    return bytes(out)


def unpack_parameters(words: np.ndarray, config: AcceleratorConfig) -> tuple[list[int], list[int], list[int]]:
    """(n, parameter_word_bytes) to the (bias, multiplier, shift) of n * vector_lanes channels."""
    acc, size = config.acc_bits, config.parameter_bytes
    bias, multiplier, shift = [], [], []
    for word in words:
        value = int.from_bytes(word.tobytes(), "little")
        for lane in range(config.vector_lanes):
            p = value >> (lane * 8 * size)
            b = p & (2**acc - 1)
            bias.append(b - 2**acc if b >> (acc - 1) else b)
            multiplier.append(p >> acc & 0xFFFF)
            shift.append(p >> (acc + 16) & 0x7F)
    return bias, multiplier, shift
