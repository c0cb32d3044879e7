"""The system on the chip: the accelerator, block RAM as its memory, and a host on a serial line."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.hw.chip.link import Link, Pace
from sateen.hw.chip.soc_memory import SocMemory
from sateen.hw.chip.top import Accelerator
from sateen.hw.memory.axi import BOUNDARY
from sateen.machine.config import AcceleratorConfig
from sateen.machine.registers import config_word


class Soc(wiring.Component):
    """One clock, one reset, two wires. docs/link.md says what goes over them.

    Parameters
    ----------
    config : AcceleratorConfig
    memory_bytes : int
        At least; the memory has whole pages of 4096 bytes.
    pace : Pace
        Of `sync`, and the line.
    image : bytes
        Contents of the memory at power-up, from address 0 on: program and constants. Without it the host writes them.
    single_port : bool
        The memory is RAM with one port, see `SocMemory`.
    build : bytes
        8 bytes that name the build which the chip is made for, zeros if none.

    Members
    -------
    rx, tx : In(1), Out(1)
        The serial line, 8N1.
    """

    def __init__(
        self,
        *,
        config: AcceleratorConfig,
        memory_bytes: int,
        pace: Pace,
        image: bytes = b"",
        build: bytes = bytes(8),
        single_port: bool = False,
    ) -> None:
        self.config = config
        self.memory = SocMemory(
            data_bits=config.bus_bits,
            size=max(1, -(-memory_bytes // BOUNDARY)) * BOUNDARY,
            outstanding=config.arrays * config.outstanding,
            image=image,
            single_port=single_port,
        )
        self.link = Link(
            pace=pace,
            memory_bytes=self.memory.size,
            config=config_word(config),
            build=build,
            resident=bool(image),
        )
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.accelerator = accelerator = Accelerator(config=self.config)
        m.submodules.memory = self.memory
        m.submodules.link = self.link
        wiring.connect(m, accelerator.bus, self.memory.bus)
        wiring.connect(m, self.link.control, accelerator.control)
        wiring.connect(m, self.link.memory, self.memory.host)
        m.d.comb += [self.link.rx.eq(self.rx), self.tx.eq(self.link.tx)]
        return m
