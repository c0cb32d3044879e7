"""AXI4 and AXI4-Lite signatures, both as the initiator sees them.

A component that masters the bus has `m_axi: Out(AXI4(...))`, one that answers has `s_axi: In(AXI4Lite(...))`.
Member names are the standard's in lower case, so that a top-level port becomes `m_axi_awaddr`.
"""

# Ref: ARM IHI 0022 (AMBA AXI and ACE Protocol Specification), A2 and B1.

from amaranth.hdl import Module, unsigned
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

ADDRESS_BITS = 64
BOUNDARY = 4096
"""A burst never crosses a multiple of so many bytes (A3.4.1)."""


class Burst(enum.IntEnum, shape=unsigned(2)):  # type: ignore[call-arg]
    FIXED = 0
    INCR = 1
    WRAP = 2


class Response(enum.IntEnum, shape=unsigned(2)):  # type: ignore[call-arg]
    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


def _check_data_bits(data_bits: int, allowed: tuple[int, ...]) -> None:
    if data_bits not in allowed:
        raise ValueError(f"data_bits must be one of {', '.join(map(str, allowed))}, not {data_bits!r}")


def _address_channel(prefix: str, addr_bits: int, id_bits: int) -> dict[str, wiring.Member]:
    return {
        f"{prefix}id": Out(id_bits),
        f"{prefix}addr": Out(addr_bits),
        f"{prefix}len": Out(8),  # beats - 1
        f"{prefix}size": Out(3),  # log2(bytes in a beat)
        f"{prefix}burst": Out(Burst),
        f"{prefix}lock": Out(1),
        f"{prefix}cache": Out(4),
        f"{prefix}prot": Out(3),
        f"{prefix}qos": Out(4),
        f"{prefix}valid": Out(1),
        f"{prefix}ready": In(1),
    }


class AXI4Read(wiring.Signature):
    """The AR and R channels of AXI4.

    Parameters
    ----------
    data_bits : int
        Width of a beat, 32 to 512 bits.
    addr_bits, id_bits : int
        Widths in bits. The units drive the one ID 0, so that responses come in order.
    """

    def __init__(self, data_bits: int, *, addr_bits: int = ADDRESS_BITS, id_bits: int = 1) -> None:
        _check_data_bits(data_bits, (32, 64, 128, 256, 512))
        self.data_bits = data_bits
        super().__init__(
            _address_channel("ar", addr_bits, id_bits)
            | {
                "rid": In(id_bits),
                "rdata": In(data_bits),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class AXI4Write(wiring.Signature):
    """The AW, W and B channels of AXI4; parameters as `AXI4Read`."""

    def __init__(self, data_bits: int, *, addr_bits: int = ADDRESS_BITS, id_bits: int = 1) -> None:
        _check_data_bits(data_bits, (32, 64, 128, 256, 512))
        self.data_bits = data_bits
        super().__init__(
            _address_channel("aw", addr_bits, id_bits)
            | {
                "wdata": Out(data_bits),
                "wstrb": Out(data_bits // 8),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(id_bits),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
            }
        )


class AXI4(wiring.Signature):
    """All five channels; parameters as `AXI4Read`."""

    def __init__(self, data_bits: int, *, addr_bits: int = ADDRESS_BITS, id_bits: int = 1) -> None:
        self.data_bits = data_bits
        read = AXI4Read(data_bits, addr_bits=addr_bits, id_bits=id_bits)
        write = AXI4Write(data_bits, addr_bits=addr_bits, id_bits=id_bits)
        super().__init__(dict(read.members) | dict(write.members))


class AXI4Lite(wiring.Signature):
    """AXI4-Lite as the initiator sees it; the register block has `In(AXI4Lite(...))`.

    Parameters
    ----------
    addr_bits : int
        Width of a byte address in bits.
    data_bits : int
        32 or 64 bits.
    """

    def __init__(self, *, addr_bits: int = 8, data_bits: int = 32) -> None:
        _check_data_bits(data_bits, (32, 64))
        self.data_bits = data_bits
        super().__init__(
            {
                "awaddr": Out(addr_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(data_bits),
                "wstrb": Out(data_bits // 8),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(addr_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(data_bits),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


def attach(m: Module, bus: wiring.PureInterface, part: wiring.PureInterface) -> None:
    """Join an inner component's `part` (AXI4Read or AXI4Write) to the same channels of the outer `bus`."""
    for name, member in part.signature.members.items():
        outer, inner = getattr(bus, name), getattr(part, name)
        m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
