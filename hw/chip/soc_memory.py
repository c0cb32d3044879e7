"""The memory of the system on the chip: block RAM behind AXI4, with a second, slow port for the host link.

To the accelerator it is the memory of docs/isa.md, "Memory timing", with `latency = LATENCY` and `interval = 1`,
so the cycle model predicts its runs exactly. A chip with other memory replaces this one component.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from sateen.hw.memory.axi import AXI4, BOUNDARY, Response

LATENCY = 4
"""Cycles from an address to its first beat, and from the last write beat to its response."""


class BytePort(wiring.Signature):
    """Access to one byte, as the requester sees it: `write` or `read` is held until `done`.

    Members
    -------
    address : Out(address_bits)
    write, read : Out(1)
        At most one of them; both are low in the cycle after `done`.
    write_data : Out(8)
    done : In(1)
        Strobe: it is written, or `read_data` is valid in this cycle.
    read_data : In(8)
    """

    def __init__(self, address_bits: int) -> None:
        self.address_bits = address_bits
        super().__init__(
            {
                "address": Out(address_bits),
                "write": Out(1),
                "read": Out(1),
                "write_data": Out(8),
                "done": In(1),
                "read_data": In(8),
            }
        )


def address_bits(size: int) -> int:
    """Of a byte address in a memory of `size` bytes."""
    return max(1, (size - 1).bit_length())


class SocMemory(wiring.Component):
    """Block RAM with one read and one write port, which AXI4 and the byte port share.

    AXI4 takes INCR bursts of full beats that do not cross 4096 bytes; one that lies outside is answered DECERR and
    writes nothing. AXI4 never waits for the byte port, which is served in between: what it reads while the
    accelerator is writing it is not defined.

    Parameters
    ----------
    data_bits : int
        Of a beat.
    size : int
        Bytes, a multiple of 4096.
    outstanding : int
        Read bursts, and write bursts, that may be open at once; more have to wait.
    image : bytes
        Contents at power-up, from address 0 on. The rest is zero, or undefined if there is none.
    single_port : bool
        For RAM with one port for both, which has no contents at power-up: what is read waits for what is written.
        Only while nothing is written are reads as quick as `latency` says.

    Members
    -------
    bus : In(AXI4(data_bits))
    host : In(BytePort(address_bits(size)))
    """

    latency = LATENCY

    def __init__(
        self, *, data_bits: int, size: int, outstanding: int, image: bytes = b"", single_port: bool = False
    ) -> None:
        if single_port and image:
            raise ValueError("image must be empty where the memory has a single port")
        if size < BOUNDARY or size % BOUNDARY:
            raise ValueError(f"size must be a multiple of {BOUNDARY} bytes, not {size!r}")
        if len(image) > size:
            raise ValueError(f"image has {len(image)} bytes, the memory {size}")
        if outstanding < 1:
            raise ValueError(f"outstanding must be at least 1, not {outstanding!r}")
        self.data_bits = data_bits
        self.size = size
        self.outstanding = outstanding
        self.single_port = single_port
        beat_bytes = data_bits // 8
        words = [
            int.from_bytes(image[i : i + beat_bytes], "little") for i in range(0, len(image), beat_bytes)
        ]
        self.contents = memory.MemoryData(shape=data_bits, depth=size // beat_bytes, init=words)
        super().__init__({"bus": In(AXI4(data_bits)), "host": In(BytePort(address_bits(size)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Yosys takes the largest RAM of the part, SPRAM, where it is told to and both ports have one address.
        style = {"ram_style": "huge"} if self.single_port else {}
        m.submodules.ram = ram = memory.Memory(self.contents, attrs={"no_rw_check": 1} | style)
        read, write = ram.read_port(), ram.write_port(granularity=8)
        read_address, write_address = Signal.like(read.addr), Signal.like(write.addr)
        writing = write.en.any() if self.single_port else Const(0)
        m.d.comb += [
            read.addr.eq(Mux(writing, write_address, read_address)),
            write.addr.eq(Mux(self.single_port, read.addr, write_address)),
        ]
        read_done = self._read(m, read, read_address, writing)
        write_done = self._write(m, write, write_address)
        m.d.comb += self.host.done.eq(read_done | write_done)
        return m

    @property
    def _shift(self) -> int:
        """Bits of a byte's place in a beat."""
        return (self.data_bits // 8 - 1).bit_length()

    def _queue(self, channel: str) -> tuple[SyncFIFO, Value, data.View]:
        """For the bursts of AR or AW: the queue, what to put into it, and its oldest, there in the next cycle."""
        bits, shift = self.host.signature.address_bits, self._shift
        layout = data.StructLayout({"address": bits - shift, "length": 8, "outside": 1})
        queue = SyncFIFO(width=layout.size, depth=self.outstanding)
        address, length = getattr(self.bus, f"{channel}addr"), getattr(self.bus, f"{channel}len")
        page = (BOUNDARY - 1).bit_length()
        outside = address[page:] >= self.size // BOUNDARY  # all of the burst, which stays in its page
        return queue, Cat(address[shift:bits], length, outside), data.View(layout, queue.r_data)

    def _read(self, m: Module, port: memory.ReadPort, port_address: Signal, writing: Value) -> Signal:
        """Address, memory, beat on the bus: a chain that closes its gaps. Returns `done` of the byte port."""
        bus, host, shift = self.bus, self.host, self._shift
        queue, accepted, burst = self._queue("ar")
        m.submodules.reads = queue
        active, outside = Signal(), Signal()
        address = Signal(len(burst.address))
        left = Signal(8)  # beats after this one
        loaded, loaded_last, loaded_outside = Signal(), Signal(), Signal()  # what the memory's output holds
        free, advance, issue = Signal(), Signal(), Signal()
        m.d.comb += [
            bus.arready.eq(queue.w_rdy),
            queue.w_en.eq(bus.arvalid),
            queue.w_data.eq(accepted),
            free.eq(~bus.rvalid | bus.rready),
            advance.eq(~loaded | free),
            issue.eq(active & advance & ~writing),
            queue.r_en.eq(~active | (issue & (left == 0))),
        ]
        with m.If(issue):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
        with m.If(queue.r_en):
            m.d.sync += [
                active.eq(queue.r_rdy),
                address.eq(burst.address),
                left.eq(burst.length),
                outside.eq(burst.outside),
            ]
        with m.If(advance):
            m.d.sync += [loaded.eq(issue), loaded_last.eq(left == 0), loaded_outside.eq(outside)]
        with m.If(free):
            m.d.sync += [
                bus.rvalid.eq(loaded),
                bus.rdata.eq(port.data),
                bus.rresp.eq(Mux(loaded_outside, Response.DECERR, Response.OKAY)),
                bus.rlast.eq(loaded_last),
            ]

        # The host's word passes through the register of the bus too, which is free then: the RAM's output comes late.
        grant, granted, there = Signal(), Signal(), Signal()
        idle = ~active & ~loaded & ~bus.rvalid
        m.d.comb += [
            grant.eq(host.read & idle & ~granted & ~there & ~writing),
            port.en.eq(issue | grant),
            port_address.eq(Mux(active, address, host.address >> shift)),
            host.read_data.eq(bus.rdata.word_select(host.address[:shift], 8)),
        ]
        m.d.sync += [granted.eq(grant), there.eq(granted)]
        return there

    def _write(self, m: Module, port: memory.WritePort, port_address: Signal) -> Signal:
        """Beats and bytes to the memory, responses after `LATENCY`. Returns `done` of the byte port."""
        bus, host, shift = self.bus, self.host, self._shift
        queue, accepted, burst = self._queue("aw")
        m.submodules.writes = queue
        m.submodules.responses = responses = SyncFIFO(width=1, depth=self.outstanding)
        opened = Signal(range(self.outstanding + 1))  # bursts accepted and not answered
        first = Signal(init=1)  # beat of its burst
        following, address = Signal(len(burst.address)), Signal(len(burst.address))
        beat = Signal()
        m.d.comb += [
            bus.awready.eq(opened != self.outstanding),
            queue.w_en.eq(bus.awvalid & bus.awready),
            queue.w_data.eq(accepted),
            bus.wready.eq(queue.r_rdy),
            beat.eq(bus.wvalid & bus.wready),
            queue.r_en.eq(beat & bus.wlast),
            address.eq(Mux(first, burst.address, following)),
        ]
        m.d.sync += opened.eq(opened + queue.w_en - (bus.bvalid & bus.bready))
        with m.If(beat):
            m.d.sync += [first.eq(bus.wlast), following.eq(address + 1)]

        # The answer is a chain of LATENCY - 1 cycles, and one in the queue.
        last, outside = queue.r_en, burst.outside
        for i in range(1, LATENCY):
            late, where = Signal(name=f"last_{i}"), Signal(name=f"outside_{i}")
            m.d.sync += [late.eq(last), where.eq(outside)]
            last, outside = late, where
        m.d.comb += [
            responses.w_en.eq(last),
            responses.w_data.eq(outside),
            responses.r_en.eq(bus.bready),
            bus.bvalid.eq(responses.r_rdy),
            bus.bresp.eq(Mux(responses.r_data, Response.DECERR, Response.OKAY)),
        ]

        grant, granted = Signal(), Signal()
        lane = Signal(len(port.en))
        m.d.comb += [
            grant.eq(host.write & ~granted & ~beat),
            lane.eq(1 << host.address[:shift]),
        ]
        m.d.sync += [granted.eq(grant), port.en.eq(Mux(grant, lane, 0))]
        with m.If(beat):
            m.d.sync += [
                port.en.eq(Mux(burst.outside, 0, bus.wstrb)),
                port_address.eq(address),
                port.data.eq(bus.wdata),
            ]
        with m.Elif(grant):
            m.d.sync += [
                port_address.eq(host.address >> shift),
                port.data.eq(host.write_data.replicate(len(port.en))),
            ]
        return granted
