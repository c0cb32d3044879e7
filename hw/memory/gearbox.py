"""Words to beats and back where neither is a multiple of the other, in units of which both are whole numbers."""

from amaranth.hdl import Cat, Const, Mux, Value


def below(stream: Value, above: Value, unit: int, width: int) -> Value:
    """The `width` bits of `stream` that have `above` units of `unit` bits over them.

    The stream's newest bits are its highest, so that it grows by a plain shift, and what is still to be taken of it
    tells where the oldest of that lies. One stage of multiplexers for each bit of `above`, as narrow as what
    follows needs it; none where the widths divide one another and there is but one place.
    """
    for i in reversed(range(len(above))):
        keep = width + ((1 << i) - 1) * unit
        low = stream[: max(0, len(stream) - (unit << i))]
        stream = Mux(above[i], _top(low, keep), _top(stream, keep))
    return _top(stream, width)


def _top(value: Value, bits: int) -> Value:
    """The highest bits, with zeros below where there are too few."""
    missing = max(0, bits - len(value))
    return Cat(Const(0, missing), value)[len(value) + missing - bits :]


def times(n: Value, factor: int) -> Value:
    """n times a small constant, by shifts and at most one addition for each bit but the first of its odd part."""
    shift = (factor & -factor).bit_length() - 1
    odd = factor >> shift
    total = n
    if odd & (odd + 1) == 0 and odd > 1:  # 3, 7, …: one subtraction
        total = (n << odd.bit_length()) - n
    else:
        for i in range(1, odd.bit_length()):
            if odd >> i & 1:
                total = total + (n << i)
    return total << shift


def taken(wanted: int, stream: int, places: int, unit: int) -> tuple[int, int]:
    """The bits of a stream of `stream` bits that `below` takes for the bits `wanted` of its result, and how many
    multiplexers it selects them with, for an `above` of `places` bits.

    Masks begin with the newest bit.
    """
    inside = (1 << stream) - 1
    selected = 0
    for i in range(places):
        selected += (wanted & inside).bit_count()
        wanted |= wanted << (unit << i)
        wanted &= inside
    return wanted, selected


def adders(factor: int) -> int:
    """Of `times`."""
    odd = factor // (factor & -factor)
    return 1 if odd > 1 and odd & (odd + 1) == 0 else max(0, odd.bit_count() - 1)
