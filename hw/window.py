"""Loop nests and window addresses by additions only.

`NestedCounter` walks a loop nest one iteration a step and keeps any number of affine sums of the loop
indices. `Window` is the nest of docs/isa.md: it gives the word address of each (output pixel, tap, channel
word) and whether the tap lies inside the plane. The order of the loops is a parameter: MATRIX has the taps
outside (`MATRIX_ORDER`), POOL inside (`POOL_ORDER`).

How a unit uses either: put the instruction's fields on `parameters` (for a `Window`: `m.d.comb +=
window.set(view)`) and raise `load` for one cycle; they are latched. From the next cycle on the outputs belong
to the first iteration. Raise `step` in each cycle that uses them up; the next cycle shows the next iteration.
`last.NAME` says that level NAME and all levels inside it are in their last iteration, so `last.<outermost>`
is the end of the walk; `first.NAME` likewise.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from sateen.hw.terms import Delays, Terms
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import LIMITS, bits_of

MATRIX_ORDER = ("ky", "c", "kx", "p", "oy", "ox")
TILED_ORDER = ("tile_y", "tile_x", *MATRIX_ORDER)
"""Either dataflow: MATRIX_ORDER if there is one tile; else runs of neighbouring pixels, and oy and p are 1."""
POOL_ORDER = ("oy", "ox", "c", "ky", "kx")


_MOST = {name: most for name, _, most in LIMITS}


@dataclass(frozen=True)
class Widths:
    """Bits of what a window counts: by default those of an instruction's fields."""

    kernel: int = _MOST["kernel_bits"]
    channels: int = _MOST["channel_bits"]
    passes: int = bits_of("passes")
    output: int = bits_of("out_w")
    plane: int = _MOST["plane_bits"]
    position: int = _MOST["position_bits"]
    stride: int = _MOST["stride_bits"]
    dilation: int = _MOST["dilation_bits"]

    @classmethod
    def of(cls, config: AcceleratorConfig) -> "Widths":
        return cls(
            kernel=config.kernel_bits,
            channels=config.channel_bits,
            passes=config.passes_bits,
            output=config.output_bits,
            plane=config.plane_bits,
            position=config.position_bits,
            stride=config.stride_bits,
            dilation=config.dilation_bits,
        )


_FULL = Widths()


@dataclass(frozen=True)
class Sum:
    """An affine sum of loop indices: start + Σ index[level]*step[level], wrapping at the width of `shape`."""

    shape: Shape
    steps: Mapping[str, int | Shape]
    """For each level that steps the sum: a constant step, or the shape of a step given at run time."""
    limit: Shape | None = None
    """Of a limit given at run time, for `below`. Needs a step."""


def nest_layout(levels: Mapping[str, int], sums: Mapping[str, Sum]) -> data.StructLayout:
    """Layout of a `NestedCounter`'s parameters."""
    steps = {
        name: data.StructLayout({k: s for k, s in total.steps.items() if not isinstance(s, int)})
        for name, total in sums.items()
    }
    return data.StructLayout(
        {
            "count": data.StructLayout({name: unsigned(width) for name, width in levels.items()}),
            "start": data.StructLayout({name: total.shape for name, total in sums.items()}),
            "step": data.StructLayout(steps),
            "limit": data.StructLayout({name: total.limit for name, total in sums.items() if total.limit}),
        }
    )


def flag_layout(names: Iterable[str]) -> data.StructLayout:
    """One bit for each name."""
    return data.StructLayout({name: 1 for name in names})


class NestedCounter(wiring.Component):
    """A loop nest with incremental sums.

    Parameters
    ----------
    levels : mapping
        Level name to width of its count in bits, outermost first.
    sums : mapping
        Sum name to `Sum`.

    Members
    -------
    load : In(1)
        Latch `parameters` and go to the first iteration.
    parameters : In(layout)
        `count.<level>` (at least 1), `start.<sum>`, `step.<sum>.<level>` (of steps that are not constant),
        `limit.<sum>` (of sums that have one).
    step : In(1)
        Go to the next iteration. After the step of the last iteration nothing is defined until `load`.
    value : Out
        `value.<sum>` of this iteration.
    below : Out
        One bit for each sum with a limit, a register: 0 <= value < limit.
    first, last : Out
        One bit for each level: it and all levels inside it are in their first (last) iteration.
    final : Out
        One bit for each level: it is in its last iteration, wherever those inside it are.
    """

    latency = 1
    """Cycles from `load` to the first iteration."""
    initiation_interval = 1

    def __init__(self, *, levels: Mapping[str, int], sums: Mapping[str, Sum]):
        for name, total in sums.items():
            if unknown := set(total.steps) - set(levels):
                raise ValueError(
                    f"sum '{name}' steps at unknown levels {sorted(unknown)}; levels are {list(levels)}"
                )
        self.levels = dict(levels)
        self.sums = dict(sums)
        self.layout = nest_layout(self.levels, self.sums)
        flags = flag_layout(self.levels)
        super().__init__(
            {
                "load": In(1),
                "parameters": In(self.layout),
                "step": In(1),
                "value": Out(data.StructLayout({name: total.shape for name, total in sums.items()})),
                "below": Out(flag_layout(name for name, total in sums.items() if total.limit)),
                "first": Out(flags),
                "last": Out(flags),
                "final": Out(flags),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        restarts = self._counters(m)
        for name in self.sums:
            self._sum(m, name, restarts)
        return m

    def _counters(self, m: Module) -> dict[str, Value]:
        """Count each level down; return, for each level, "this step restarts all levels inside it"."""
        restarts = {}
        inner_last: Value = Const(1)
        for name, width in reversed(self.levels.items()):
            limit = Signal(width, name=f"{name}_limit", reset_less=True)  # count - 1
            left = Signal(width, name=f"{name}_left", reset_less=True)  # iterations after this one
            here = Signal(
                name=f"{name}_here"
            )  # in the last iteration; a register, to keep the carry chain off the path
            restarts[name] = self.step & inner_last
            with m.If(self.load):
                m.d.sync += [
                    limit.eq(self.parameters.count[name] - 1),
                    left.eq(self.parameters.count[name] - 1),
                    here.eq(self.parameters.count[name] == 1),
                    self.first[name].eq(1),
                ]
            with m.Elif(self.step):
                m.d.sync += self.first[name].eq(self.last[name])
                with m.If(inner_last):
                    m.d.sync += left.eq(Mux(here, limit, left - 1))
                    m.d.sync += here.eq(Mux(here, limit == 0, left == 1))
            m.d.comb += [self.final[name].eq(here), self.last[name].eq(inner_last & here)]
            inner_last = self.last[name]
        return restarts

    def _sum(self, m: Module, name: str, restarts: Mapping[str, Value]) -> None:
        """Each level that steps the sum keeps the sum as it was with all levels inside at zero.

        Where a step leads is told by registers alone; `step`, which a unit decides late in a cycle, only enables.
        """
        total = self.sums[name]
        start = self.parameters.start[name]
        home = Signal(total.shape, name=f"{name}_start", reset_less=True)
        with m.If(self.load):
            m.d.sync += home.eq(start)
        value = following = home  # now, and after a step that restarts all levels inside
        changes: Value = Const(0)
        for position, (level, restart) in enumerate((k, restarts[k]) for k in self.levels):
            if level not in total.steps:
                following = Mux(self.final[level], following, value)
                continue
            step = total.steps[level]
            if not isinstance(step, int):
                latched = Signal(step, name=f"{name}_step_{level}", reset_less=True)
                with m.If(self.load):
                    m.d.sync += latched.eq(self.parameters.step[name][level])
                step = latched
            value = Signal(total.shape, name=f"{name}_{level}", reset_less=True)
            after = Signal(total.shape, name=f"{name}_{level}_next")
            moved = value + step  # wraps at the sum's width
            # the outermost level's last step leads nowhere
            m.d.comb += after.eq(Mux(self.final[level], following, moved) if position else moved)
            with m.If(self.load):
                m.d.sync += value.eq(start)
            with m.Elif(restart):
                m.d.sync += value.eq(after)
            following, changes = after, restart
        m.d.comb += self.value[name].eq(value)
        if total.limit is not None:
            limit = Signal(total.limit, name=f"{name}_limit", reset_less=True)
            bound = Mux(self.load, self.parameters.limit[name], limit)
            then = Mux(self.load, start, after)
            with m.If(self.load):
                m.d.sync += limit.eq(bound)
            with m.If(self.load | changes):
                # one unsigned comparison: a negative value is a large number, above any limit
                m.d.sync += self.below[name].eq(then.as_unsigned() < bound)


class Window(wiring.Component):
    """The window of docs/isa.md: words of an (in_h, in_w) plane, with padding around.

    Parameters
    ----------
    order : tuple of str
        The loops, outermost first: a permutation of ky, kx, c, oy, ox, and p where there are passes; tile_y and
        tile_x step as oy does, and as `tile_width` times ox.
    addr_bits : int
        Width of `addr`; addresses wrap there.
    tile_width : int
        A power of two.
    widths : Widths
        Fields that have more bits are cut to these.

    Members
    -------
    load, parameters, step, first, last, final
        As in `NestedCounter`; `set(view)` wires `parameters` from a view of an instruction.
    addr : Out(addr_bits)
        Word of this iteration.
    inside : Out(1)
        The position lies in the plane; if not, the tap is padding and `addr` means nothing.
    """

    latency = 1
    initiation_interval = 1

    def __init__(
        self, *, order: tuple[str, ...], addr_bits: int, tile_width: int = 1, widths: Widths = _FULL
    ):
        bits = {"ky": widths.kernel, "kx": widths.kernel, "c": widths.channels, "p": widths.passes}
        bits |= dict.fromkeys(("oy", "ox", "tile_y", "tile_x"), widths.output)
        position, stride, dilation = (
            signed(widths.position),
            unsigned(widths.stride),
            unsigned(widths.dilation),
        )
        optional = {"p", "tile_y", "tile_x"}
        if set(order) - optional != set(bits) - optional or len(order) != len(set(order)):
            raise ValueError(
                f"order must hold each of ky, kx, c, oy, ox (and p, tile_y, tile_x) once, not {order!r}"
            )
        address = unsigned(addr_bits)
        self.widths = widths
        self.levels = {name: bits[name] for name in order}
        self.tile_width = tile_width
        self.sums = {
            "addr": Sum(address, {name: 1 if name == "c" else address for name in order if name != "p"}),
            "y": Sum(
                position,
                {"ky": dilation, "oy": stride} | ({"tile_y": stride} if "tile_y" in order else {}),
                limit=unsigned(widths.plane),
            ),
            "x": Sum(
                position,
                {"kx": dilation, "ox": stride}
                | ({"tile_x": unsigned(widths.stride + exact_log2(tile_width))} if "tile_x" in order else {}),
                limit=unsigned(widths.plane),
            ),
        }
        self.layout = nest_layout(self.levels, self.sums)
        flags = flag_layout(self.levels)
        super().__init__(
            {
                "load": In(1),
                "parameters": In(self.layout),
                "step": In(1),
                "addr": Out(addr_bits),
                "inside": Out(1),
                "first": Out(flags),
                "last": Out(flags),
                "final": Out(flags),
            }
        )

    def set(self, view: data.View, **counts: Value) -> list:
        """Assignments that take `parameters` from a view with the window fields of isa.MATRIX or isa.POOL.

        `counts` gives the count of a level in the place of the view's; it must for tile_y and tile_x.
        """
        nest = self.parameters
        fields = {
            "ky": "kernel_h",
            "kx": "kernel_w",
            "c": "channel_words",
            "p": "passes",
            "oy": "out_h",
            "ox": "out_w",
        }
        tile = []
        if "tile_x" in self.levels:
            shift = exact_log2(self.tile_width)
            tile = [
                nest.step.addr.tile_y.eq(view.step_y),
                nest.step.addr.tile_x.eq(view.step_x << shift),
                nest.step.y.tile_y.eq(view.stride_y),
                nest.step.x.tile_x.eq(view.stride_x << shift),
            ]
        return [
            *(
                nest.count[level].eq(counts[level] if level in counts else view[fields[level]])
                for level in self.levels
            ),
            *tile,
            nest.start.addr.eq(view.base),
            nest.start.y.eq(view.y0),
            nest.start.x.eq(view.x0),
            nest.step.addr.ky.eq(view.step_ky),
            nest.step.addr.kx.eq(view.step_kx),
            nest.step.addr.oy.eq(view.step_y),
            nest.step.addr.ox.eq(view.step_x),
            nest.step.y.ky.eq(view.dilation_y),
            nest.step.y.oy.eq(view.stride_y),
            nest.step.x.kx.eq(view.dilation_x),
            nest.step.x.ox.eq(view.stride_x),
            nest.limit.y.eq(view.in_h),
            nest.limit.x.eq(view.in_w),
        ]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.nest = nest = NestedCounter(levels=self.levels, sums=self.sums)
        m.d.comb += [
            nest.load.eq(self.load),
            nest.parameters.eq(self.parameters),
            nest.step.eq(self.step),
            self.addr.eq(nest.value.addr),
            self.inside.eq(nest.below.y & nest.below.x),
            Cat(self.first).eq(Cat(nest.first)),
            Cat(self.last).eq(Cat(nest.last)),
            Cat(self.final).eq(Cat(nest.final)),
        ]
        return m


def count_terms(widths: list[int], t: Terms) -> None:
    """Levels of a loop nest: each counts down from a limit, and compares with zero and one."""
    t.add(counts=5 * sum(widths), levels=len(widths), ff=2 * sum(widths) + len(widths))


def window_terms(c: AcceleratorConfig, t: Terms, order: tuple[str, ...], address: int) -> None:
    """The loop nest with its sums."""
    w = Widths.of(c)
    bits = {"ky": w.kernel, "kx": w.kernel, "c": w.channels, "p": w.passes}
    count_terms([bits.get(name, w.output) for name in order], t)
    t.add(ff=2 * w.plane + 2)
    # the start is kept for x alone, which the outermost loop does not step; a tile's steps are a pixel's
    for width, levels, rest in (
        (address, {name for name in order if name != "p"}, 4 * address),
        (w.position, {"tile_y", "ky", "oy"} & set(order), w.dilation + w.stride),
        (w.position, {"tile_x", "kx", "ox"} & set(order), w.dilation + w.stride + min(w.position, 14)),
    ):
        t.add(
            sums=width * len(levels), sources=width * _sources(order, levels), ff=width * len(levels) + rest
        )
    t.add(inside=2 * w.position)


def _sources(order: tuple[str, ...], levels: set[str]) -> int:
    """Two-way multiplexers for a bit of all values of a sum."""
    places = [place for place, name in enumerate(order) if name in levels]
    first, last = places[0], places[-1]
    # where a step of each level leads, or what it keeps; and the start
    return last - first + (first > 0) + len(levels)


def window_path(c: AcceleratorConfig, d: Delays) -> float:
    """ns of logic to a sum."""
    return d.register + 2 * d.lut + d.carry(max(c.position_bits, ceil_log2(c.act_depth)))
