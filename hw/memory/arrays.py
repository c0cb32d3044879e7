"""Several arrays on one memory port: what they have in common is transferred once, their own data one after the other.

All arrays run the same program in lock-step, so their load units ask for the same bursts in the same cycles, and so do
their store units. What lies below DATA is the same for all, and goes to all at once. Array k's own data lie k * STRIDE
bytes behind those of the first: there a burst is one for each array, and all arrays have their beat when the last one
has. (docs/isa.md, "Several arrays".)
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from sateen.hw.memory.axi import AXI4Read, AXI4Write
from sateen.hw.memory.requests import SOURCE_BITS, log2
from sateen.hw.terms import Component, Terms
from sateen.machine.config import AcceleratorConfig


def _requests(m: Module, channel: str, bus: wiring.PureInterface, first: wiring.PureInterface, own: Signal | Const,
              stride: Signal, arrays: int) -> Signal:  # fmt: skip
    """Addresses of the first array's bursts to the bus, and, while `own`, those of the other arrays behind each.

    Returns whether an address that is taken in this cycle is the last of its burst.
    """
    offset, which = (
        Signal(SOURCE_BITS, name=f"{channel}_offset"),
        Signal(range(arrays), name=f"{channel}_which"),
    )
    last = Signal(name=f"{channel}_last")
    m.d.comb += last.eq(~own | (which == arrays - 1))
    for name in ("id", "len", "size", "burst", "lock", "cache", "prot", "qos", "valid"):
        m.d.comb += getattr(bus, channel + name).eq(getattr(first, channel + name))
    m.d.comb += getattr(bus, f"{channel}addr").eq(getattr(first, f"{channel}addr") + offset)
    with m.If(getattr(bus, f"{channel}valid") & getattr(bus, f"{channel}ready")):
        m.d.sync += [which.eq(Mux(last, 0, which + 1)), offset.eq(Mux(last, 0, offset + stride))]
    return last


class SharedReads(wiring.Component):
    """The load units of all arrays on one read port.

    Beats of an array's own data wait until the last array's are there: `burst_beats` of each of the others.

    Members
    -------
    start, source : In(1), In(32)
        The load units': a LOAD starts, from so many bytes behind BASE.
    data, stride : In(32)
        Registers DATA and STRIDE.
    parts : In(AXI4Read).array(arrays)
        The load units', which make the same requests.
    axi : Out(AXI4Read)
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "source": In(SOURCE_BITS),
                "data": In(SOURCE_BITS),
                "stride": In(SOURCE_BITS),
                "parts": In(AXI4Read(config.bus_bits)).array(config.arrays),
                "axi": Out(AXI4Read(config.bus_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, axi, parts = self.config, self.axi, self.parts
        own = Signal()  # of the LOAD that runs: no burst of another is open
        with m.If(self.start):
            m.d.sync += own.eq(self.source >= self.data)
        last_address = _requests(m, "ar", axi, parts[0], own, self.stride, config.arrays)

        turn = Signal(range(config.arrays))  # the array whose beats come
        place = Signal(log2(config.burst_beats))  # of the beat in its burst
        final = Signal()  # the beats are the last array's, or those of all
        failed = Signal(2)  # what arrays before answered
        transfer = Signal()
        m.d.comb += [
            final.eq(~own | (turn == config.arrays - 1)),
            axi.rready.eq(~final | parts[0].rready),
            transfer.eq(axi.rvalid & axi.rready),
        ]
        for k, part in enumerate(parts):
            m.d.comb += [
                part.arready.eq(axi.arready & last_address),
                part.rvalid.eq(axi.rvalid & final),
                part.rlast.eq(axi.rlast),
                part.rresp.eq(axi.rresp | failed),
                part.rdata.eq(axi.rdata),
            ]
            if k < config.arrays - 1:
                kept = memory.Memory(shape=config.bus_bits, depth=config.burst_beats, init=())
                m.submodules[f"kept_{k}"] = kept
                write, read = kept.write_port(), kept.read_port(domain="comb")
                m.d.comb += [
                    write.en.eq(axi.rvalid & ~final & (turn == k)),
                    write.addr.eq(place),
                    write.data.eq(axi.rdata),
                    read.addr.eq(place),
                ]
                with m.If(own):
                    m.d.comb += part.rdata.eq(read.data)
        with m.If(transfer):
            m.d.sync += [
                place.eq(Mux(axi.rlast, 0, place + 1)),
                failed.eq(Mux(final, Mux(axi.rlast, 0, failed), failed | axi.rresp)),
            ]
            with m.If(axi.rlast):
                m.d.sync += turn.eq(Mux(final, 0, turn + 1))
        return m


class SharedWrites(wiring.Component):
    """The store units of all arrays on one write port; what they write is always their own.

    The first array's beats go to memory when they are there. Those of the others, which are there in the same cycles,
    wait until the burst is complete, and follow. The arrays have their response when the last burst has its.

    Members
    -------
    stride : In(32)
        Register STRIDE.
    parts : In(AXI4Write).array(arrays)
        The store units', which make the same requests.
    axi : Out(AXI4Write)
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "stride": In(SOURCE_BITS),
                "parts": In(AXI4Write(config.bus_bits)).array(config.arrays),
                "axi": Out(AXI4Write(config.bus_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, axi, parts = self.config, self.axi, self.parts
        first = parts[0]
        last_address = _requests(m, "aw", axi, first, Const(1), self.stride, config.arrays)

        turn = Signal(range(config.arrays))  # the array whose beats go
        place = Signal(log2(config.burst_beats))  # of the beat in its burst
        length = Signal.like(place)  # the place of the first array's last beat
        answered = Signal(range(config.arrays))  # arrays whose bursts have their response
        failed = Signal(2)
        m.d.comb += [
            axi.wvalid.eq(first.wvalid),
            axi.wdata.eq(first.wdata),
            axi.wstrb.eq(first.wstrb),
            axi.wlast.eq(first.wlast),
            axi.bready.eq(1),
        ]
        for k, part in enumerate(parts):
            m.d.comb += [
                part.awready.eq(axi.awready & last_address),
                part.wready.eq(axi.wready & (turn == 0)),
                part.bvalid.eq(axi.bvalid & (answered == config.arrays - 1)),
                part.bresp.eq(axi.bresp | failed),
            ]
            if k:
                kept = memory.Memory(
                    shape=config.bus_bits + config.beat_bytes, depth=config.burst_beats, init=()
                )
                m.submodules[f"kept_{k}"] = kept
                write, read = kept.write_port(), kept.read_port(domain="comb")
                m.d.comb += [
                    write.en.eq(turn == 0),
                    write.addr.eq(place),
                    write.data.eq(Cat(part.wdata, part.wstrb)),
                    read.addr.eq(place),
                ]
                with m.If(turn == k):
                    m.d.comb += [
                        axi.wvalid.eq(1),
                        Cat(axi.wdata, axi.wstrb).eq(read.data),
                        axi.wlast.eq(place == length),
                    ]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += place.eq(Mux(axi.wlast, 0, place + 1))
            with m.If(turn == 0):
                m.d.sync += length.eq(place)
            with m.If(axi.wlast):
                m.d.sync += turn.eq(Mux(turn == config.arrays - 1, 0, turn + 1))
        with m.If(axi.bvalid):
            last = answered == config.arrays - 1
            m.d.sync += [
                answered.eq(Mux(last, 0, answered + 1)),
                failed.eq(Mux(last, 0, failed | axi.bresp)),
            ]
        return m


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    others = c.arrays - 1
    for bits in (c.bus_bits, c.bus_bits + c.beat_bytes):
        found = t.technology.memory(bits, c.burst_beats, synchronous=False)
        for _ in range(others):
            t.store(found, 0)
    t.add(one=1, chosen=others * (2 * c.bus_bits + c.beat_bytes), offsets=4 * SOURCE_BITS, own=SOURCE_BITS)
    t.add(ff=4 * SOURCE_BITS + 3 * log2(c.burst_beats) + 5 * others.bit_length() + 5)


SHARING = Component("sharing", (SharedReads, SharedWrites), _terms, instances=lambda c: int(c.arrays > 1))
