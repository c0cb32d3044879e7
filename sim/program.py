"""The `program` engine: executes the emitted instructions and memory image in NumPy, a batch at a time.

It shares nothing with the compiler but the layouts, so that tiling, allocation and packing are checked without RTL.
All samples run the same instructions; only the buffers' contents differ, so every buffer has a batch axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from sateen.errors import BuildError
from sateen.formats import SparsityPattern
from sateen.formats.requantize import requantize, times
from sateen.formats.rows import Exponentials, normalize_rows, softmax_rows
from sateen.formats.sparsity import DENSE
from sateen.hw.matrix.unit import pass_interval
from sateen.hw.memory.load import word_bytes
from sateen.hw.vector.update import digits
from sateen.ir.gradients import Update
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, Target
from sateen.machine.packing import pack, split_planes, split_words, unpack, unpack_parameters
from sateen.sim.gradients import selected, updated
from sateen.sim.integer import Convolution
from sateen.sim.proof import Extent, proved
from sateen.sim.sore import select

MOST_READS = 1 << 26
"""Of an instruction: a hundred times what a layer of a large network takes, and little enough to be held."""


class Interpreter:
    """One accelerator with `batch` samples.

    Parameters
    ----------
    constants : bytes, at address 0 of memory
    program : bytes, at `program_offset`
    data : uint8 (N, size), at `data_offset`, changed in place
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        constants: bytes,
        program: bytes,
        program_offset: int,
        data: np.ndarray,
        data_offset: int,
    ) -> None:
        self.config = config
        self.constants = np.frombuffer(constants, np.uint8)
        self.program, self.program_offset = program, program_offset
        self.data, self.data_offset = data, data_offset
        n = len(data)
        self.act = np.zeros((n, config.act_depth, config.elements), config.activation.code_dtype)
        self.weight_codes = np.zeros(
            (config.weight_depth, config.cols, config.lanes), config.weight.code_dtype
        )
        self.moved_codes: np.ndarray | None = None  # (N, …) as weight_codes, from the first MOVE on
        self.moved_indices: np.ndarray | None = None  # likewise, whole, with what they are in bits
        self.moved = np.zeros(config.weight_depth, bool)  # the weight words that a MOVE wrote
        self.index_bits = np.zeros(
            (config.weight_depth, config.index_planes, config.cols, config.lanes), np.uint8
        )
        v = config.vector_lanes
        self.bias = np.zeros((config.parameter_depth, v), object)
        self.multiplier = np.zeros((config.parameter_depth, v), np.int64)
        self.shift = np.zeros((config.parameter_depth, v), np.int64)
        self.table = np.zeros(1 << config.activation.bits, config.activation.code_dtype)
        self.exponentials = np.zeros(1 << config.activation.bits, np.uint32)
        self.wide = config.acc_bits > 62
        self.acc = np.zeros((n, 2 * config.acc_depth, config.cols), object if self.wide else np.int64)
        codes = config.activation.codes
        self.act_fixed = config.activation.fixed(codes)
        self.weight_fixed = config.weight.fixed(config.weight.codes)
        self.gradient_fixed = config.gradient.fixed(config.gradient.codes)

    def run(self, progress: Callable[[float], None] | None = None) -> None:
        """Execute in program order, to END; BuildError for a program that is not proved to end well."""
        memory = Extent(self.data_offset, self.data_offset + self.data.shape[1])
        instructions = proved(self.program, self.program_offset, self.config, memory)
        for done, i in enumerate(instructions, 1):
            if i.opcode != Opcode.END:
                EXECUTE[i.opcode](self, i)
            if progress:
                progress(done / len(instructions))

    # -- memory ---------------------------------------------------------------------------------------------

    def _read(self, source: int, size: int) -> np.ndarray:
        """(1 or N, size) bytes."""
        if source + size <= len(self.constants):
            return self.constants[None, source : source + size]
        offset = source - self.data_offset
        if offset < 0 or offset + size > self.data.shape[1]:
            raise BuildError(
                f"program.bin: LOAD of {size} bytes from {source:#x} is outside memory; compile again"
            )
        return self.data[:, offset : offset + size]

    def load(self, i: Instruction) -> None:
        INTO[Target(i.target)](self, i)

    def _words(self, i: Instruction) -> np.ndarray:
        """What a LOAD reads, (1 or N, words, bytes)."""
        size = word_bytes(Target(i.target), self.config)
        return self._read(i.source, i.words * size).reshape(-1, i.words, size)

    def _load_activations(self, i: Instruction) -> None:
        c = self.config
        self.act[:, i.destination : i.destination + i.words] = unpack(
            self._words(i), c.activation.bits, c.elements
        )

    def _load_weights(self, i: Instruction) -> None:
        span = slice(i.destination, i.destination + i.words)
        words = self._words(i)
        if len(words) > 1:  # activations, for an OUTER
            self._own_weights(span, np.stack([split_words(w, self.config) for w in words]))
            return
        self.weight_codes[span] = split_words(words[0], self.config)
        self.moved[span] = False

    def _load_indices(self, i: Instruction) -> None:
        bits = split_planes(self._words(i)[0], i.last_plane + 1, self.config)
        self.index_bits[i.destination * self.config.index_rows :][: len(bits), : i.last_plane + 1] = bits

    def _load_parameters(self, i: Instruction) -> None:
        span = slice(i.destination, i.destination + i.words)
        bias, multiplier, shift = unpack_parameters(self._words(i)[0], self.config)
        for field, values in ((self.bias, bias), (self.multiplier, multiplier), (self.shift, shift)):
            field[span] = np.array(values, field.dtype).reshape(i.words, -1)

    def _load_table(self, i: Instruction) -> None:
        self.table[i.destination : i.destination + i.words] = self._words(i)[0, :, 0]

    def _fetch(self, i: Instruction) -> None:
        """Done: `proved` has walked the program."""

    def _load_exponentials(self, i: Instruction) -> None:
        words = self._words(i)[0].astype(np.uint32) << 8 * np.arange(4, dtype=np.uint32)
        self.exponentials[i.destination : i.destination + i.words] = words.sum(-1, dtype=np.uint32)

    def store(self, i: Instruction) -> None:
        c = self.config
        words = pack(self.act[:, i.source : i.source + i.words], c.activation.bits, c.act_word_bytes)
        offset = i.destination - self.data_offset
        size = i.words * c.act_word_bytes
        if offset < 0 or offset + size > self.data.shape[1]:
            raise BuildError(
                f"program.bin: STORE of {size} bytes to {i.destination:#x} is outside memory; compile again"
            )
        self.data[:, offset : offset + size] = words.reshape(len(self.data), size)

    def move(self, i: Instruction) -> None:
        c = self.config
        w, p, r, lane = np.ogrid[: i.words, : c.dense_passes, : c.rows, : c.lanes]
        element = r * c.group + p * c.lanes + lane  # of an activation word
        there = (w * c.elements + element < i.reduction)[..., None, :]
        if i.transposed:
            col = np.arange(c.cols)[:, None]
            address = i.base + w[..., None] + col * i.step
            codes = self.act[:, address % c.act_depth, element[..., None, :]]
            there = there & (col < i.columns)
        else:
            address = i.base + (w * c.elements + element)[..., None, :] * i.step
            codes = self.act[:, address % c.act_depth, i.slice * c.cols + np.arange(c.cols)[:, None]]
        if c.digits:
            codes = c.digits.split(codes, bool(i.high))
        codes = np.where(there, codes, c.weight.zero_code)  # N, words, passes, rows, cols, lanes
        indices = None
        if i.index_bits:
            codes, indices = self._selected(i, codes)
        span = slice(i.destination, i.destination + codes.shape[1] * codes.shape[2] * c.rows)
        self._own_weights(span, codes, indices)

    def _own_weights(self, span: slice, codes: np.ndarray, indices: np.ndarray | None = None) -> None:
        """Put weight words there that each sample has its own of; no indices are 0."""
        shape = (len(codes), span.stop - span.start, *self.weight_codes.shape[1:])
        if self.moved_codes is None or self.moved_indices is None:
            self.moved_codes = np.zeros((len(self.act), *self.weight_codes.shape), self.weight_codes.dtype)
            self.moved_indices = np.zeros_like(self.moved_codes, np.uint8)
        self.moved_codes[:, span] = codes.reshape(shape)
        self.moved_indices[:, span] = 0 if indices is None else indices.reshape(shape)
        self.moved[span] = True

    def _selected(self, i: Instruction, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The largest of every m of codes (N, words, passes, rows, cols, lanes), and their indices, in fewer passes."""
        c, m = self.config, 1 << i.index_bits
        order = (0, 1, 3, 4, 2, 5)  # what a group has, last
        group = codes.transpose(order).reshape(*(codes.shape[k] for k in order[:4]), c.group)
        shape = (*group.shape[:4], -1, c.lanes)
        found = select(group, SparsityPattern(m >> i.index_shift, m), c.weight)
        kept, indices = (f.reshape(shape).transpose(0, 1, 4, 2, 3, 5) for f in found)
        return kept, indices

    # -- windows --------------------------------------------------------------------------------------------

    def _window(self, i: Instruction, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Addresses and whether they lie inside, both (kernel_h, kernel_w, channel_words, height, width)."""
        _check_reads(i, i.kernel_h, i.kernel_w, i.channel_words, height, width)
        ky = np.arange(i.kernel_h)[:, None, None, None, None]
        kx = np.arange(i.kernel_w)[:, None, None, None]
        c = np.arange(i.channel_words)[:, None, None]
        oy = np.arange(height)[:, None]
        ox = np.arange(width)
        y = i.y0 + oy * i.stride_y + ky * i.dilation_y
        x = i.x0 + ox * i.stride_x + kx * i.dilation_x
        inside = (y >= 0) & (y < i.in_h) & (x >= 0) & (x < i.in_w)
        address = i.base + oy * i.step_y + ox * i.step_x + ky * i.step_ky + kx * i.step_kx + c
        return address % self.config.act_depth, np.broadcast_to(inside, address.shape)

    def matrix(self, i: Instruction) -> None:
        c = self.config
        address, inside = self._window(i, i.out_h, i.out_w)
        taps, pixels = i.kernel_h * i.kernel_w * i.channel_words, i.out_h * i.out_w
        address, inside = address.reshape(taps, pixels), inside.reshape(taps, pixels)
        codes = self.act[:, address.T]  # N, pixels, taps, elements
        codes[:, ~inside.T] = i.padding
        fixed = self.gradient_fixed if i.gradient else self.act_fixed
        activations = fixed[codes].reshape(len(codes), pixels, taps * c.elements)

        largest = int(np.abs(fixed).max())
        parts = []
        for sample, samples in self._weight_sources(i.weight_base, taps * c.rows * i.passes, len(codes)):
            kernel = np.moveaxis(self._weights(i, taps, sample), 2, 0).reshape(c.cols, 1, 1, -1)
            parts.append(Convolution(kernel, largest)(activations[samples, :, None]))
        psum = np.concatenate(parts).reshape(len(codes), pixels, c.cols)
        if psum.dtype != object:
            psum = psum.astype(np.int64)  # Python integers, not floats, in a wide accumulator
        if i.accumulate and i.shifted:
            self.acc[:, i.acc_base : i.acc_base + pixels] <<= c.weight.bits
        self._accumulate(i, psum)

    def _accumulate(self, i: Instruction, psum: np.ndarray) -> None:
        """Sums (N, pixels, cols)."""
        target = self.acc[:, i.acc_base : i.acc_base + psum.shape[1]]
        if i.accumulate:
            target += psum.astype(target.dtype)
        else:
            target[...] = psum

    def fir(self, i: Instruction) -> None:
        """All passes' words are one stream of a word a cycle, padding where there is none."""
        c = self.config
        address, inside = self._window(i, i.lines, i.line)
        passes, words = i.kernel_h * i.kernel_w, i.lines * i.line
        interval = pass_interval(words, c)
        codes = np.full((len(self.act), passes * interval + c.rows, c.cols), i.padding, self.act.dtype)
        part = slice(i.slice * c.cols, (i.slice + 1) * c.cols)
        at = (np.arange(passes)[:, None] * interval + np.arange(words)).reshape(address.shape)
        codes[:, at[inside]] = self.act[:, address[inside], part]
        stream = self.act_fixed[codes].astype(self.acc.dtype)
        begin = np.arange(i.out_h)[:, None] * i.line + np.arange(i.out_w)
        taps = self.weight_fixed[self.weight_codes[i.weight_base :][: passes * c.rows, :, 0]]
        psum = np.zeros((len(codes), i.out_h * i.out_w, c.cols), self.acc.dtype)
        for n, tap in enumerate(taps.astype(self.acc.dtype)):
            start, row = divmod(n, c.rows)
            if tap.any():
                psum += stream[:, begin.ravel() + start * interval + row] * tap
        self._accumulate(i, psum)

    def outer(self, i: Instruction) -> None:
        """Each pass: the sums of a word's elements times the pixel's weights, a gradient, over all pixels."""
        c = self.config
        address, inside = self._window(i, i.out_h, i.out_w)
        pixels = i.kernel_w * i.out_h * i.out_w
        address = address.swapaxes(1, 2).reshape(-1, pixels)  # ky, c
        inside = inside.swapaxes(1, 2).reshape(-1, pixels)
        codes = self.act[:, address]  # N, passes, pixels, elements
        codes[:, ~inside] = i.padding
        passes = np.arange(len(address))
        element = (
            np.arange(c.rows) * (c.group >> i.short) + passes[:, None] // i.channel_words % c.dense_passes
        )
        picked = self.act_fixed[codes[:, passes[:, None, None], np.arange(pixels)[:, None], element[:, None]]]
        weight = i.weight_base + np.arange(pixels) * i.weight_step
        largest = int(np.abs(self.act_fixed).max())
        parts = []
        span = slice(i.weight_base, int(weight[-1]) + 1)
        for sample, samples in self._weight_sources(span.start, span.stop - span.start, len(codes)):
            codes_of = self._weight_words(span, 0, sample)[0][weight - i.weight_base, :, 0]
            kernel = self.gradient_fixed[codes_of].T.reshape(c.cols, 1, 1, pixels)
            words = picked[samples].swapaxes(2, 3)  # N, passes, rows, pixels
            parts.append(Convolution(kernel, largest)(words))
        psum = np.concatenate(parts).reshape(len(codes), -1, c.cols)
        self._accumulate(i, psum if psum.dtype == object else psum.astype(np.int64))

    def _weight_sources(self, base: int, words: int, samples: int) -> Iterator[tuple[int | None, slice]]:
        """None, for all samples, or, where weights are computed, one sample after the other."""
        moved = self.moved[base : base + words]
        if self.moved_codes is None or not moved.any():
            yield None, slice(None)
            return
        for n in range(samples):
            yield n, slice(n, n + 1)

    def _weight_words(self, span: slice, bits: int, sample: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Codes and stored indices of weight words (n, cols, lanes), of a sample where they are computed."""
        codes, planes = self.weight_codes[span], self.index_bits[span, :bits]
        stored = (planes << np.arange(bits)[:, None, None]).sum(1, dtype=np.int64)
        if sample is None:
            return codes, stored
        assert self.moved_codes is not None and self.moved_indices is not None
        moved = self.moved[span, None, None]
        indices = self.moved_indices[sample, span] & (1 << bits) - 1
        return np.where(moved, self.moved_codes[sample, span], codes), np.where(moved, indices, stored)

    def _weights(self, i: Instruction, taps: int, sample: int | None) -> np.ndarray:
        """Fixed-point weights (taps * channel words, elements, cols), whichever way they lie in the buffer."""
        c = self.config
        last = i.last_steps if i.output_stationary else c.rows * i.passes
        steps = [c.rows * i.passes] * (i.channel_words - 1) + [last]  # of each word of a tap
        kernel = np.arange(taps).reshape(i.kernel_h, i.kernel_w, i.channel_words).swapaxes(1, 2)  # ky, c, kx
        count = np.broadcast_to(np.array(steps)[:, None], kernel.shape).ravel()
        tap = np.repeat(kernel.ravel(), count)
        step = np.arange(len(tap)) - np.repeat(np.cumsum(count) - count, count)
        if i.output_stationary:
            row, index = np.divmod(step, i.passes)
        else:
            index, row = np.divmod(step, c.rows)
        codes, stored = self._weight_words(
            slice(i.weight_base, i.weight_base + len(tap)), i.index_bits, sample
        )
        fixed = self.weight_fixed[codes]
        part, lane = np.divmod(np.arange(c.lanes), c.sharing_lanes)
        number = (index % c.dense_passes * c.sharing_lanes)[:, None, None] + lane
        counted = (number << i.index_shift) % c.choice >> i.index_bits << i.index_bits
        element = row[:, None, None] * c.group + part * c.choice + counted + stored
        weights = np.zeros((taps, c.elements, c.cols), fixed.dtype)
        np.add.at(weights, (tap[:, None, None], element, np.arange(c.cols)[:, None]), fixed)
        return weights

    def drain(self, i: Instruction) -> None:
        c = self.config
        pixels = i.out_h * i.out_w
        acc = self.acc[:, i.acc_base : i.acc_base + pixels]
        words = slice(i.parameter_base, i.parameter_base + c.cols // c.vector_lanes)
        bias = self.bias[words].reshape(-1)
        multiplier, shift = self.multiplier[words].reshape(-1), self.shift[words].reshape(-1)
        acc = acc + (bias if self.wide else bias.astype(np.int64))
        part = slice(i.slice * c.cols, (i.slice + 1) * c.cols)
        oy, ox = np.arange(i.out_h)[:, None], np.arange(i.out_w)
        if i.raw:
            out = (acc >> i.raw_shift & (1 << c.activation.bits) - 1).astype(c.activation.code_dtype)
        else:
            fmt, fixed = (c.gradient, self.gradient_fixed) if i.gradient else (c.activation, self.act_fixed)
            addend: np.ndarray | int = 0
            if i.residual:
                address = i.residual_base + oy * i.residual_step_y + ox * i.residual_step_x
                residual = fixed[self.act[:, address.ravel() % c.act_depth, part]] - i.residual_zero
            if i.residual and c.product and not i.residual_multiplier:
                acc = times(acc, residual)
            elif i.residual:
                # Padding channels may hold a shift below the residual's; their result is never used.
                up = np.maximum(shift - i.residual_shift, 0)
                exact = np.array([i.residual_multiplier << int(u) for u in up], object)
                if int(exact.max()) * int(np.abs(fixed).max()) * 2 < 1 << 62:
                    exact = exact.astype(np.int64)
                addend = residual * exact
            out = requantize(acc, multiplier, shift, fmt, i.zero_point, i.low, i.high, addend)
            if i.table:
                out = self.table[out]
        address = (i.base + oy * i.step_y + ox * i.step_x).ravel() % c.act_depth
        self.act[:, address, part] = out

    def pool(self, i: Instruction) -> None:
        c = self.config
        address, inside = self._window(i, i.out_h, i.out_w)
        values = self.act_fixed
        best: np.ndarray | None = None
        lowest = int(c.activation.from_fixed(np.array([c.activation.min_fixed]))[0])
        for ky in range(i.kernel_h):
            for kx in range(i.kernel_w):
                codes = self.act[:, address[ky, kx]]  # N, channel words, out_h, out_w, elements
                codes[:, ~inside[ky, kx]] = lowest
                best = codes if best is None else np.where(values[codes] > values[best], codes, best)
        assert best is not None
        oy, ox = np.arange(i.out_h)[:, None], np.arange(i.out_w)
        word = np.arange(i.channel_words)[:, None, None]
        target = i.out_base + oy * i.out_step_y + ox * i.out_step_x + word
        self.act[:, target % c.act_depth] = best

    def gate(self, i: Instruction) -> None:
        c = self.config
        address, inside = self._window(i, i.out_h, i.out_w)
        oy, ox = np.arange(i.out_h)[:, None], np.arange(i.out_w)
        word = np.arange(i.channel_words)[:, None, None]
        second = i.second_base + oy * i.second_step_y + ox * i.second_step_x + word
        value = self.act_fixed[self.act[:, address[0, 0]]]  # N, channel words, out_h, out_w, elements
        gradient = second
        if i.equal:
            open_ = value == self.act_fixed[self.act[:, second % c.act_depth]]
            gradient = second + i.distance
        else:
            open_ = np.ones(value.shape, bool)
            if i.above:
                open_ &= value > self.act_fixed[i.low]
            if i.below:
                open_ &= value < self.act_fixed[i.high]
        open_ &= inside[0, 0, ..., None]
        codes = np.where(open_, self.act[:, gradient % c.act_depth], c.activation.zero_code)
        target = i.out_base + oy * i.out_step_y + ox * i.out_step_x + word
        self.act[:, target % c.act_depth] = codes

    def row(self, i: Instruction) -> None:
        c = self.config
        shape = (i.out_h * i.out_w, i.row_h * i.row_w * i.channel_words)
        _check_reads(i, *shape)
        y, x = np.arange(i.out_h)[:, None, None, None, None], np.arange(i.out_w)[:, None, None, None]
        ky, kx = np.arange(i.row_h)[:, None, None], np.arange(i.row_w)[:, None]
        word = i.base + y * i.step_y + x * i.step_x + ky * i.step_ky + kx * i.step_kx
        word = (word + np.arange(i.channel_words)).reshape(*shape)
        codes = self.act[:, word % c.act_depth].reshape(len(self.act), shape[0], i.row_h * i.row_w, -1)
        elements = np.arange(i.first, min(i.last, codes.shape[3]))
        mine = codes[..., elements]
        rows = mine.reshape(*codes.shape[:2], -1)
        if i.normalize:
            x, centred = self.act_fixed[rows] - i.zero, bool(i.centred)
            acc = normalize_rows(x, c.activation, count=i.count, epsilon=i.epsilon, centred=centred)
        else:
            acc = softmax_rows(rows, Exponentials.of_words(self.exponentials), c.activation)
        channel = elements if i.per_channel else elements % c.vector_lanes
        channel = channel + i.parameter_base * c.vector_lanes
        bias, factor, shift = (f.reshape(-1)[channel] for f in (self.bias, self.multiplier, self.shift))
        acc = np.where(factor >> 15, -acc.reshape(mine.shape), acc.reshape(mine.shape))
        acc = acc + (bias if self.wide else bias.astype(np.int64))
        codes[..., elements] = requantize(
            acc, factor & 0x7FFF, shift, c.activation, i.zero_point, i.low, i.high
        )
        self.act[:, (word + i.distance) % c.act_depth] = codes.reshape(len(codes), *shape, c.elements)

    def update(self, i: Instruction) -> None:
        c = self.config
        per_word, bits = 32 // c.activation.bits, c.activation.bits
        step, pattern = (i.step, self._pattern(i)) if c.pruned_decay else (1, DENSE)
        whole = (np.arange(i.words)[:, None] * step * per_word + np.arange(per_word)).reshape(-1)
        codes_at = (i.codes + np.arange(i.words) * step) % c.act_depth
        places = [(i.velocity + whole) % c.act_depth, (i.master + whole) % c.act_depth]
        words = (
            i.gradient + np.arange(digits(c))[:, None] * i.plane + np.arange(i.words) * step
        ) % c.act_depth
        v, w = (self._integers(self.act[:, at]) for at in places)
        planes = self.act[:, words].reshape(len(v), len(words), -1)
        wide = bits * len(words) > 62
        sums = sum(planes[:, n].astype(object if wide else np.int64) << bits * n for n in range(len(words)))
        top = 1 << bits * len(words) - 1
        fmt, decay = c.activation, np.array(i.decay)
        if not pattern.dense:
            kept = selected(fmt.fixed(self.act[:, codes_at]), pattern, 1)
            decay = np.where(kept, i.decay, i.pruned).reshape(len(v), -1)
        rule = Update((i.momentum, i.momentum_shift), (i.rate, i.rate_shift), (0, i.decay_shift), 0, 0)
        new_w, new_v = updated(rule, w, v, np.where(sums >= top, sums - 2 * top, sums), decay)
        codes = requantize(
            new_w.astype(np.int64), i.multiplier, i.shift, fmt, 0, fmt.min_fixed, fmt.max_fixed
        )
        for at, new in zip(places, (new_v, new_w), strict=True):
            raw = np.ascontiguousarray(new, "<i4").view(np.uint8).reshape(len(new), len(at), -1)
            self.act[:, at] = unpack(raw, bits, c.elements)
        self.act[:, codes_at] = codes.reshape(len(codes), i.words, c.elements)

    def _pattern(self, i: Instruction) -> SparsityPattern:
        return (
            SparsityPattern(1 << i.index_bits - i.index_shift, 1 << i.index_bits) if i.index_bits else DENSE
        )

    def _integers(self, words: np.ndarray) -> np.ndarray:
        """int32 (N, n) that lie in words of codes (N, words, elements)."""
        c = self.config
        packed = pack(words, c.activation.bits, c.act_word_bytes)
        return packed.reshape(len(words), -1).view("<i4")


def _check_reads(i: Instruction, *shape: int) -> None:
    """BuildError if so many words are more than a program that the compiler made reads at once."""
    if math.prod(map(int, shape)) > MOST_READS:
        raise BuildError(
            f"program.bin: {i.opcode.name} reads {' x '.join(map(str, shape))} words, more than {MOST_READS:,}: "
            "the program is damaged; compile again"
        )


INTO: dict[Target, Callable[[Interpreter, Instruction], None]] = {
    Target.ACTIVATION: Interpreter._load_activations,
    Target.WEIGHT: Interpreter._load_weights,
    Target.PARAMETER: Interpreter._load_parameters,
    Target.TABLE: Interpreter._load_table,
    Target.INSTRUCTION: Interpreter._fetch,
    Target.INDEX: Interpreter._load_indices,
    Target.EXPONENTIAL: Interpreter._load_exponentials,
}
"""What a LOAD does."""

EXECUTE: dict[Opcode, Callable[[Interpreter, Instruction], None]] = {
    Opcode.LOAD: Interpreter.load,
    Opcode.STORE: Interpreter.store,
    Opcode.MOVE: Interpreter.move,
    Opcode.MATRIX: Interpreter.matrix,
    Opcode.FIR: Interpreter.fir,
    Opcode.OUTER: Interpreter.outer,
    Opcode.DRAIN: Interpreter.drain,
    Opcode.POOL: Interpreter.pool,
    Opcode.GATE: Interpreter.gate,
    Opcode.ROW: Interpreter.row,
    Opcode.UPDATE: Interpreter.update,
}
