"""The host link: frames on a serial line to accesses of the memory and the control registers (docs/link.md)."""

from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from sateen.hw.chip.frame import (
    ANSWER,
    CLOCK_BYTE,
    ERROR,
    MAX_DATA,
    SILENCE_S,
    VERSION,
    Command,
    Fault,
    Identity,
)
from sateen.hw.chip.framing import ADDRESS_BYTES, ARGUMENT_BYTES, LENGTH_BITS, FrameReceiver, FrameSender
from sateen.hw.chip.soc_memory import BytePort, address_bits
from sateen.hw.chip.uart import divisor_of
from sateen.hw.memory.axi import AXI4Lite
from sateen.machine.registers import Register

START, SOFT_RESET = 1, 2
"""What is written to CTRL."""
MIN_SILENCE_BITS = 30
"""At low rates a silence is longer than `SILENCE_S`: a byte of ones is high for 9 bits."""
REGISTER_BITS = 8
"""Of a register's address."""


def exceeds(value: Value, limit: int) -> Value:
    """value > limit, where the limit has many zeros at its end."""
    zeros = (limit & -limit).bit_length() - 1
    high, least = value[zeros:], limit >> zeros
    return (high > least) | ((high == least) & value[:zeros].any())


@dataclass(frozen=True, slots=True)
class Pace:
    """What the link knows of its clock: integers, or values that are constant while anything moves.

    Attributes
    ----------
    clock_hz : int or Value
        Which it tells the host.
    divisor : int or Value
        Cycles per bit.
    silence : int or Value
        Cycles without a bit that end a frame.
    """

    clock_hz: int | Value
    divisor: int | Value
    silence: int | Value

    @classmethod
    def at(cls, clock_hz: int, baud: int) -> "Pace":
        """Of a clock and bits per second that are known. Raises ValueError where the rate cannot be made."""
        divisor = divisor_of(clock_hz, baud)
        return cls(clock_hz, divisor, max(round(clock_hz * SILENCE_S), MIN_SILENCE_BITS * divisor))


class Link(wiring.Component):
    """Takes a frame, executes it, answers it; one at a time, and nothing before its CRC was right.

    SET, RUN and RESET are executed once, even if the host repeats them because it got no answer: with the sequence
    number of the frame that was executed last, they are answered without being executed. The other commands have
    the same effect twice.

    Parameters
    ----------
    pace : Pace
        Of `sync`, and the line.
    memory_bytes : int
        What the byte port reaches.
    config : int
        The configuration's word, `sateen.hw.control.registers.config_word`.
    build : bytes
        8 bytes that name the build.
    resident : bool
        Whether the memory has the build's image from power-up on.

    Members
    -------
    rx, tx : In(1), Out(1)
    memory : Out(BytePort(address_bits(memory_bytes)))
    control : Out(AXI4Lite(addr_bits=8))
    """

    def __init__(self, *, pace: Pace, memory_bytes: int, config: int, build: bytes, resident: bool) -> None:
        if len(build) != 8:
            raise ValueError(f"build must be 8 bytes, not {build!r}")
        self.pace = pace
        self.memory_bytes = memory_bytes
        clock_hz = pace.clock_hz if isinstance(pace.clock_hz, int) else 0
        self.identity = Identity(VERSION, resident, MAX_DATA, memory_bytes, clock_hz, config, build)
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "memory": Out(BytePort(address_bits(memory_bytes))),
                "control": Out(AXI4Lite(addr_bits=REGISTER_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory, control, identity, pace = self.memory, self.control, self._identity(), self.pace
        m.submodules.receiver = frame = FrameReceiver(divisor=pace.divisor, silence=pace.silence)
        m.submodules.sender = sender = FrameSender(divisor=pace.divisor)
        value, argument = Signal(32), Signal(32)  # the two words of a payload, the second alone of a WRITE
        address = Signal(len(memory.address))  # counts on from `argument`
        length = Signal(LENGTH_BITS)  # bytes to be written, then bytes of the answer
        position = Signal(LENGTH_BITS)  # in the payload of a WRITE, bytes of the answer that were fetched
        fault = Signal(Fault)
        byte = Signal(8)  # of the answer
        last, repeatable = Signal(8), Signal()  # sequence number of the frame executed last, if there is one
        repeated = Signal()  # this one is the same
        step = Signal(range(3))  # of RUN
        sent, sent_data = Signal(), Signal()  # address and data of the access to a register under way
        m.d.comb += [
            Cat(value, argument).eq(frame.arguments),
            frame.rx.eq(self.rx),
            frame.data.en.eq(1),
            frame.data.addr.eq(position),
            self.tx.eq(sender.tx),
            sender.sequence.eq(frame.sequence),
            sender.command.eq(Mux(fault.any(), ERROR, frame.command | ANSWER)),
            sender.length.eq(length),
            sender.i.payload.eq(byte),
            sender.last.eq(position == length),
            memory.address.eq(address),
            memory.write_data.eq(frame.data.data),
            control.araddr.eq(address & ~3),
            control.wstrb.eq(0b1111),
        ]
        self._register_write(m, frame.command, step, value, argument)

        def refuse(why: Fault) -> None:
            m.d.sync += [fault.eq(why), length.eq(1), position.eq(0)]
            m.next = "FETCH"

        def write_register() -> None:
            m.d.sync += length.eq(0)
            m.next = "REGISTER"
            with m.If(repeated):
                m.next = "FETCH"

        def answer(byte_of: Value) -> None:
            m.d.sync += [byte.eq(byte_of), address.eq(address + 1), position.eq(position + 1)]
            m.next = "SEND"

        with m.FSM() as fsm:
            m.d.comb += sender.start.eq(fsm.ongoing("FETCH") | fsm.ongoing("SEND"))
            with m.State("IDLE"):
                m.d.sync += [
                    address.eq(argument), position.eq(0), step.eq(0), sent.eq(0), sent_data.eq(0),
                    fault.eq(frame.fault), length.eq(1), repeated.eq(repeatable & (last == frame.sequence)),
                ]  # fmt: skip
                with m.If(frame.valid):
                    m.next = "DECODE"
                    with m.If(frame.fault.any()):
                        m.next = "FETCH"
            with m.State("DECODE"):
                m.d.sync += length.eq(0)
                with m.Switch(frame.command):
                    with m.Case(Command.IDENTIFY):
                        m.d.sync += length.eq(len(identity))
                        m.next = "FETCH"
                    with m.Case(Command.READ):
                        m.d.sync += length.eq(value)
                        m.next = "RANGE"
                        with m.If(value[len(length) :].any() | (value[: len(length)] > MAX_DATA)):
                            refuse(Fault.OUT_OF_RANGE)
                    with m.Case(Command.WRITE):
                        m.d.sync += length.eq(frame.length - ADDRESS_BYTES)
                        m.next = "RANGE"
                    with m.Case(Command.GET):
                        m.d.sync += length.eq(value << 2)
                        m.next = "RANGE"
                        with m.If(value[8:].any()):
                            refuse(Fault.OUT_OF_RANGE)
                    with m.Case(Command.SET):
                        m.d.sync += length.eq(4)
                        m.next = "RANGE"
                    with m.Case(Command.RUN, Command.RESET):
                        write_register()
                    with m.Default():
                        refuse(Fault.UNKNOWN_COMMAND)
                for codes, fits in (
                    ((Command.IDENTIFY, Command.RESET), frame.length == 0),
                    ((Command.WRITE,), frame.length > ADDRESS_BYTES),
                    ((Command.READ, Command.GET, Command.SET, Command.RUN), frame.length == ARGUMENT_BYTES),
                ):
                    with m.If(frame.command.matches(*codes) & ~fits):
                        refuse(Fault.BAD_LENGTH)
            with m.State("RANGE"):
                registers = frame.command.matches(Command.GET, Command.SET)
                end = address + length
                outside = Mux(registers, exceeds(end, 1 << REGISTER_BITS), exceeds(end, self.memory_bytes))
                m.next = "FETCH"
                with m.If(frame.command == Command.WRITE):
                    m.d.sync += position.eq(ADDRESS_BYTES)
                    m.next = "BUFFER"
                with m.If(frame.command == Command.SET):
                    write_register()
                with m.If(
                    argument[len(address) :].any()
                    | outside
                    | (length == 0)
                    | (registers & argument[:2].any())
                ):
                    refuse(Fault.OUT_OF_RANGE)
            with m.State("BUFFER"):  # reads the byte at `position`
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += memory.write.eq(1)
                with m.If(memory.done):
                    m.d.sync += [
                        address.eq(address + 1), position.eq(position + 1), length.eq(length - 1)
                    ]  # fmt: skip
                    m.next = "BUFFER"
                    with m.If(length == 1):
                        m.next = "FETCH"
            with m.State("REGISTER"):
                m.d.comb += [control.awvalid.eq(~sent), control.wvalid.eq(~sent_data), control.bready.eq(1)]
                with m.If(control.awready):
                    m.d.sync += sent.eq(1)
                with m.If(control.wready):
                    m.d.sync += sent_data.eq(1)
                with m.If(control.bvalid):
                    m.d.sync += [sent.eq(0), sent_data.eq(0), step.eq(step + 1)]
                    with m.If((frame.command != Command.RUN) | (step == 2)):
                        m.next = "FETCH"
                    with m.If(control.bresp.any()):
                        refuse(Fault.REFUSED)
            with m.State("FETCH"):
                with m.If(sender.done):
                    m.d.comb += frame.release.eq(1)
                    with m.If(~fault.any()):
                        m.d.sync += [last.eq(frame.sequence), repeatable.eq(1)]
                    m.next = "IDLE"
                with m.Elif(~sender.i.ready):
                    pass
                with m.Elif(fault.any()):
                    answer(fault)
                with m.Elif(frame.command == Command.IDENTIFY):
                    answer(Array(identity)[position[: bits_for(len(identity) - 1)]])
                with m.Elif(frame.command == Command.READ):
                    m.d.comb += memory.read.eq(1)
                    with m.If(memory.done):
                        answer(memory.read_data)
                with m.Else():  # GET: a word stays on the bus until its last byte
                    m.d.comb += control.arvalid.eq(~sent)
                    with m.If(control.arready):
                        m.d.sync += sent.eq(1)
                    with m.If(control.rvalid):
                        answer(control.rdata.word_select(address[:2], 8))
                        with m.If(address[:2] == 3):
                            m.d.comb += control.rready.eq(1)
                            m.d.sync += sent.eq(0)
            with m.State("SEND"):
                m.d.comb += sender.i.valid.eq(1)
                with m.If(sender.i.ready):
                    m.next = "FETCH"
        return m

    def _identity(self) -> list[Value]:
        """The bytes of IDENTIFY's answer."""
        found: list[Value] = [Const(b, 8) for b in self.identity.encode()]
        if isinstance(self.pace.clock_hz, Value):
            clock = Cat(self.pace.clock_hz, Const(0, 32))
            found[CLOCK_BYTE : CLOCK_BYTE + 4] = [clock.word_select(n, 8) for n in range(4)]
        return found

    def _register_write(self, m: Module, command: Value, step: Value, value: Value, argument: Value) -> None:
        """What SET, RUN and RESET write."""
        control = self.control
        with m.Switch(Cat(command == Command.SET, command == Command.RUN, step)):
            for pattern, register, data in (
                ("---1", argument, value),
                ("001-", Register.BASE_LOW, value),
                ("011-", Register.PROGRAM, argument),
                ("1-1-", Register.CTRL, START),
                ("--0-", Register.CTRL, SOFT_RESET),
            ):
                with m.Case(pattern):
                    m.d.comb += [control.awaddr.eq(register), control.wdata.eq(data)]
