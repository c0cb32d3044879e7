"""Asynchronous serial transmitter and receiver: 8 data bits, lowest first, no parity, one stop bit (8N1)."""

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

MIN_DIVISOR = 4
"""Below it, a start bit that is seen a cycle late is sampled too near its neighbours."""
MAX_RATE_ERROR = 0.02
"""A frame is 10 bits, sampled in the middle: both sides together may be off by half a bit in 9.5."""


def divisor_of(clock_hz: int, baud: int) -> int:
    """Clock cycles per bit. Raises ValueError where no integer comes near enough."""
    divisor = round(clock_hz / baud) if baud > 0 else 0
    if divisor < MIN_DIVISOR:
        raise ValueError(
            f"baud must be from 1 to clock_hz / {MIN_DIVISOR} = {clock_hz // MIN_DIVISOR}, not {baud!r}"
        )
    error = abs(clock_hz / divisor / baud - 1)
    if error > MAX_RATE_ERROR:
        raise ValueError(
            f"baud = {baud}: the nearest rate at {clock_hz} Hz is {clock_hz / divisor:.0f}, off by {error:.1%}; "
            f"at most {MAX_RATE_ERROR:.0%} is allowed"
        )
    return divisor


def _check(divisor: int | Value) -> None:
    if not isinstance(divisor, Value) and (not isinstance(divisor, int) or divisor < MIN_DIVISOR):
        raise ValueError(f"divisor must be an integer of at least {MIN_DIVISOR}, not {divisor!r}")


def below(limit: int | Value, name: str) -> Signal:
    """A register for what is below a limit, of which a value must not use its highest."""
    return Signal(len(limit) if isinstance(limit, Value) else range(limit), name=name)


class Transmitter(wiring.Component):
    """Sends bytes; the next is taken when the stop bit of the one before is over.

    Parameters
    ----------
    divisor : int or Value
        Clock cycles per bit, at least `MIN_DIVISOR`; a value is constant while anything moves.

    Members
    -------
    i : In(stream.Signature(8))
    tx : Out(1)
        The line, high when idle.
    """

    def __init__(self, *, divisor: int | Value):
        _check(divisor)
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer = below(self.divisor, "timer")
        bits = Signal(9)  # those after the one on the line; the highest 1 is the stop bit
        sending = Signal()
        m.d.comb += self.i.ready.eq(~sending)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                self.tx.eq(0),
                bits.eq(Cat(self.i.payload, Const(1, 1))),
                timer.eq(self.divisor - 1),
                sending.eq(1),
            ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(sending):
            m.d.sync += [self.tx.eq(bits[0]), bits.eq(bits >> 1), timer.eq(self.divisor - 1)]
            with m.If(~bits.any()):  # the stop bit is over
                m.d.sync += [sending.eq(0), self.tx.eq(1)]
        return m


class Receiver(wiring.Component):
    """Receives bytes. There is no back-pressure: a byte is there for one cycle.

    A start bit counts if the line is still low in its middle; each bit is sampled in its middle. The receiver
    looks for the next start bit from the middle of the stop bit on.

    Parameters
    ----------
    divisor : int or Value
        Clock cycles per bit, at least `MIN_DIVISOR`; a value is constant while anything moves.

    Members
    -------
    rx : In(1)
        The line; it may change at any time.
    valid, data : Out(1), Out(8)
        Strobe: a byte with a stop bit has come.
    error : Out(1)
        Strobe: a stop bit was low. Such a byte is lost.
    line : Out(1)
        The line, in step with the clock.
    """

    def __init__(self, *, divisor: int | Value):
        _check(divisor)
        self.divisor = divisor
        super().__init__(
            {
                "rx": In(1, init=1),
                "valid": Out(1),
                "data": Out(8),
                "error": Out(1),
                "line": Out(1, init=1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first = Signal(init=1)  # may be metastable
        m.d.sync += [first.eq(self.rx), self.line.eq(first), self.valid.eq(0), self.error.eq(0)]
        timer = below(self.divisor, "timer")
        bit = Signal(range(10))  # 0: start bit, 9: stop bit
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [timer.eq((self.divisor >> 1) - 1), bit.eq(0)]
                with m.If(~self.line):
                    m.next = "BITS"
            with m.State("BREAK"), m.If(self.line):  # before the line was high again there is no start bit
                m.next = "IDLE"
            with m.State("BITS"):
                m.d.sync += timer.eq(timer - 1)
                with m.If(timer == 0):
                    m.d.sync += [timer.eq(self.divisor - 1), bit.eq(bit + 1)]
                    with m.If((bit == 0) & self.line):
                        m.next = "IDLE"
                    with m.Elif(bit == 9):
                        m.d.sync += [self.valid.eq(self.line), self.error.eq(~self.line)]
                        m.next = "IDLE"
                        with m.If(~self.line):
                            m.next = "BREAK"
                    with m.Else():
                        m.d.sync += self.data.eq(Cat(self.data, self.line)[1:])
        return m
