"""The register map: byte addresses of the control registers and counters (docs/isa.md, "Control registers").

The RTL, the host (sateen/board.py) and the simulation's harness take their addresses from here.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence

from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Unit

ID = 0x53415445  # "SATE"
VERSION = 1
ADDRESS_BITS = 8
BASE_ALIGN = 4096


class Register(enum.IntEnum):
    """Those that are there once; a unit's counters are in COUNTERS."""

    ID = 0x00
    VERSION = 0x04
    CONFIG = 0x08
    CTRL = 0x0C
    STATUS = 0x10
    INTERRUPT = 0x14
    BASE_LOW = 0x18
    BASE_HIGH = 0x1C
    PROGRAM = 0x20
    WATCHDOG = 0x24
    DATA = 0x28  # with several arrays
    STRIDE = 0x2C
    CYCLES_LOW = 0x40
    CYCLES_HIGH = 0x44
    BEATS_READ = 0x90
    BEATS_WRITTEN = 0x94


COUNTED = ("busy", "wait", "idle", "stall")
"""What is counted for each unit: cycles from start to done, both included; with an instruction that does not start;
with none; executing but waiting for memory."""

_FIRST, _BLOCK, _BEFORE_BEATS = 0x50, 16, 4
_FURTHER = 0x98


def counter_addresses(units: Iterable[Unit], counted: Sequence[str]) -> dict[tuple[str, Unit], int]:
    """A block of four counters for each of four units; further units and counters follow behind the other registers."""
    further = itertools.count(_FURTHER, 4)
    return {
        (name, u): _FIRST + _BLOCK * u + 4 * n if u < _BEFORE_BEATS and 4 * n < _BLOCK else next(further)
        for u in units
        for n, name in enumerate(counted)
    }


COUNTERS = counter_addresses(Unit, COUNTED)
"""What is counted, and for which unit, to its address."""


def config_word(config: AcceleratorConfig) -> int:
    """The CONFIG register: the first 32 bits of the SHA-256 of the configuration as canonical JSON, without the
    options that the machine is built without."""
    text = json.dumps(config.stated(), sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
