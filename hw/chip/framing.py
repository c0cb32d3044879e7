"""Frames from and to a serial line, with their CRC (docs/link.md). What they mean is in hw/chip/link.py."""

from contextlib import AbstractContextManager

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from sateen.hw.chip.frame import CRC_BYTES, HEADER_BYTES, MAX_DATA, MAX_PAYLOAD, SYNC, Command, Fault
from sateen.hw.chip.uart import Receiver, Transmitter, below
from sateen.hw.memory.buffers import memory_of
from sateen.hw.ports import ReadPort

LENGTH_BITS = MAX_PAYLOAD.bit_length()
ADDRESS_BYTES = 4
"""Of the payload of a WRITE; the rest is data."""
ARGUMENT_BYTES = 8
"""Of the payload of every other command that has one."""


class SerialCrc(wiring.Component):
    """CRC-32 of bytes, one bit a cycle.

    Members
    -------
    start : In(1)
        Begin anew; not with `valid`.
    valid, data : In(1), In(8)
        Another byte, not while `busy`.
    busy : Out(1)
    crc : Out(32)
        Of the bytes so far.
    match : Out(1)
        The last four bytes were the CRC, lowest first, of those before.
    """

    latency = 9
    initiation_interval = 9

    start: In(1)
    valid: In(1)
    data: In(8)
    busy: Out(1)
    crc: Out(32)
    match: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Ref: the catalogue's CRC-32/ISO-HDLC, which is that of Ethernet and zlib; reflected: lowest bit first
        crc = CRC32_ISO_HDLC(data_width=1).create()
        m.submodules.crc = ResetInserter(self.start)(crc)  # its own `start` is a multiplexer at every bit
        bits, left = Signal(8), Signal(range(9))
        m.d.comb += [
            self.busy.eq(left != 0),
            crc.valid.eq(self.busy),
            crc.data.eq(bits[0]),
            self.crc.eq(crc.crc),
            self.match.eq(crc.match_detected),
        ]
        with m.If(self.valid):
            m.d.sync += [bits.eq(self.data), left.eq(8)]
        with m.Elif(self.busy):
            m.d.sync += [bits.eq(bits >> 1), left.eq(left - 1)]
        return m


class FrameReceiver(wiring.Component):
    """Receives one frame, and holds it until it is released.

    A frame begins after a silence of the line, or right behind a good one. What follows a bad one, or a byte
    that begins none, is ignored up to the next silence: so no part of a damaged frame can pass for a frame.

    Parameters
    ----------
    divisor : int or Value
        Clock cycles per bit.
    silence : int or Value
        Clock cycles that the line must be high to be silent; more than a byte.

    Members
    -------
    rx : In(1)
        The line.
    valid : Out(1)
        A frame is there: a good one, or a bad one and the line has fallen silent.
    fault : Out(Fault)
        0 if it is good. Else only `sequence` means something, and that is 0 if the frame ended before it.
    sequence, command, length : Out(8), Out(8), Out
    arguments : Out(64)
        The payload's last 8 bytes but those in the buffer, the last one highest.
    data : In(ReadPort(9, 8))
        The payload of a WRITE from its fifth byte on, byte k at k modulo `MAX_DATA`; latency 1.
    release : In(1)
        Wait for the next. If anything has come in the meantime, that is for the next silence.
    """

    def __init__(self, *, divisor: int | Value, silence: int | Value):
        if isinstance(silence, int) and isinstance(divisor, int) and silence <= 10 * divisor:
            raise ValueError(f"silence must be above 10 bits = {10 * divisor} cycles, not {silence!r}")
        self.divisor = divisor
        self.silence = silence
        super().__init__(
            {
                "rx": In(1, init=1),
                "valid": Out(1),
                "fault": Out(Fault),
                "sequence": Out(8),
                "command": Out(8),
                "length": Out(LENGTH_BITS),
                "arguments": Out(8 * ARGUMENT_BYTES),
                "data": In(ReadPort((MAX_DATA - 1).bit_length(), 8)),
                "release": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.uart = uart = Receiver(divisor=self.divisor)
        m.submodules.crc = crc = SerialCrc()
        m.submodules.buffer = buffer = memory_of(shape=8, depth=MAX_DATA)
        write, read = buffer.write_port(), buffer.read_port()
        longest = self.silence + 1 if isinstance(self.silence, int) else self.silence
        quiet = below(longest, "quiet")  # cycles that the line has been high
        silent = Signal()
        index = Signal(range(HEADER_BYTES - 1))  # of the byte in the header, in the CRC
        position = Signal(LENGTH_BITS)  # in the payload
        missed = Signal()  # something came while a frame was held
        m.d.comb += [
            uart.rx.eq(self.rx),
            silent.eq(quiet == self.silence),
            crc.data.eq(uart.data),
            write.data.eq(uart.data),
            write.addr.eq(position),  # modulo MAX_DATA
            read.en.eq(self.data.en),
            read.addr.eq(self.data.addr),
            self.data.data.eq(read.data),
        ]
        with m.If(~uart.line):
            m.d.sync += quiet.eq(0)
        with m.Elif(~silent):
            m.d.sync += quiet.eq(quiet + 1)

        def drop(fault: Fault) -> None:
            m.d.sync += self.fault.eq(fault)
            m.next = "QUIET"

        def received() -> AbstractContextManager[None]:
            """The next byte of the frame; a frame that ends before it is dropped."""
            m.d.comb += crc.valid.eq(uart.valid)
            with m.If(uart.error):
                drop(Fault.FRAMING)
            with m.If(silent):
                drop(Fault.TRUNCATED)
            return m.If(uart.valid)

        with m.FSM(init="QUIET"):
            with m.State("QUIET"), m.If(silent):
                m.next = "IDLE"
                with m.If(self.fault.any()):
                    m.next = "HOLD"
            with m.State("IDLE"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [
                    index.eq(0), position.eq(0), self.sequence.eq(0), self.fault.eq(0), missed.eq(0),
                ]  # fmt: skip
                with m.If(uart.valid | uart.error):
                    m.next = "QUIET"
                    with m.If(uart.valid & (uart.data == SYNC)):
                        m.next = "HEADER"
            with m.State("HEADER"), received():
                m.d.sync += index.eq(index + 1)
                with m.Switch(index):
                    with m.Case(0):
                        m.d.sync += self.length.eq(uart.data)
                    with m.Case(1):
                        m.d.sync += self.length[8:].eq(uart.data)
                        with m.If(Cat(self.length[:8], uart.data) > MAX_PAYLOAD):
                            drop(Fault.BAD_LENGTH)
                    with m.Case(2):
                        m.d.sync += self.sequence.eq(uart.data)
                    with m.Case(3):
                        m.d.sync += self.command.eq(uart.data)
                        m.next = "PAYLOAD"
                        with m.If(self.length == 0):
                            m.next = "CRC"
            with m.State("PAYLOAD"), received():
                following = (position + 1)[:LENGTH_BITS]
                m.d.sync += position.eq(following)
                with m.If((self.command == Command.WRITE) & (position >= ADDRESS_BYTES)):
                    m.d.comb += write.en.eq(1)
                with m.Else():
                    m.d.sync += self.arguments.eq(Cat(self.arguments, uart.data)[8:])
                with m.If(following == self.length):
                    m.next = "CRC"
            with m.State("CRC"), received():
                m.d.sync += index.eq(index + 1)
                with m.If(index == CRC_BYTES - 1):
                    m.next = "CHECK"
            with m.State("CHECK"), m.If(~crc.busy):
                m.next = "HOLD"
                with m.If(~crc.match):
                    drop(Fault.BAD_CRC)
            with m.State("HOLD"):
                m.d.comb += self.valid.eq(1)
                with m.If(uart.valid | uart.error):
                    m.d.sync += missed.eq(1)
                with m.If(self.release):
                    m.d.sync += self.fault.eq(0)
                    m.next = "IDLE"
                    with m.If(missed | uart.valid | uart.error):
                        m.next = "QUIET"
        return m


class FrameSender(wiring.Component):
    """Sends one frame at a time.

    Parameters
    ----------
    divisor : int or Value
        Clock cycles per bit.

    Members
    -------
    tx : Out(1)
        The line.
    start : In(1)
        Held until `done`, and so are `sequence`, `command` and `length`.
    i, last : In(stream.Signature(8)), In(1)
        The payload, and with its last byte `last`. Nothing is taken where `length` is 0.
    done : Out(1)
        Strobe: the line is free for the next frame.
    """

    def __init__(self, *, divisor: int | Value):
        self.divisor = divisor
        super().__init__(
            {
                "tx": Out(1, init=1),
                "start": In(1),
                "sequence": In(8),
                "command": In(8),
                "length": In(LENGTH_BITS),
                "i": In(stream.Signature(8)),
                "last": In(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.uart = uart = Transmitter(divisor=self.divisor)
        m.submodules.crc = crc = SerialCrc()
        index = Signal(range(HEADER_BYTES))
        taken = Signal()
        m.d.comb += [self.tx.eq(uart.tx), crc.data.eq(uart.i.payload), taken.eq(uart.i.valid & uart.i.ready)]

        # A byte takes longer on the line than in `crc`.
        with m.FSM():
            with m.State("HEADER"):
                length = Mux(index[0], self.length[:8], self.length[8:])
                rest = Mux(index[0], self.sequence, self.command)
                m.d.comb += [
                    uart.i.valid.eq(self.start),
                    uart.i.payload.eq(Mux(index == 0, SYNC, Mux(index > 2, rest, length))),
                    crc.start.eq(index == 0),
                    crc.valid.eq(taken & (index != 0)),
                ]
                with m.If(taken):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == HEADER_BYTES - 1):
                        m.d.sync += index.eq(0)
                        m.next = "PAYLOAD"
                        with m.If(self.length == 0):
                            m.next = "CRC"
            with m.State("PAYLOAD"):
                m.d.comb += [
                    uart.i.valid.eq(self.i.valid),
                    uart.i.payload.eq(self.i.payload),
                    self.i.ready.eq(uart.i.ready),
                    crc.valid.eq(taken),
                ]
                with m.If(taken & self.last):
                    m.next = "CRC"
            with m.State("CRC"):
                m.d.comb += [
                    uart.i.valid.eq(1),
                    uart.i.payload.eq(crc.crc.word_select(index[:2], 8)),
                ]
                with m.If(taken):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == CRC_BYTES - 1):
                        m.next = "END"
            with m.State("END"), m.If(uart.i.ready):
                m.d.comb += self.done.eq(1)
                m.d.sync += index.eq(0)
                m.next = "HEADER"
        return m
