"""What the protocol tests share: a host, a memory that stalls and fails on demand, and a watch on the bus rules."""

import random
from collections import deque

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiSlave

from sateen.hw.control.unit import Error
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import CHUNK, INSTRUCTION_BYTES, Opcode, Target, Unit
from sateen.machine.registers import COUNTED, COUNTERS, Register

CONFIG = AcceleratorConfig(
    name="cosim", rows=2, cols=2, lanes=2, group=2, act_banks=4, act_bank_depth=64, weight_depth=64, acc_depth=16,
    parameter_depth=8, vector_lanes=1, bus_bits=64, queue_depth=2, burst_beats=16, outstanding=2,
)  # fmt: skip

BASE = 0x1_2345_6000
SIZE = 1 << 16
END = Instruction(Opcode.END)
TIMEOUT_US = 2000


class Memory:
    """SIZE bytes at BASE; `bad_reads` and `bad_writes` are offsets whose accesses fail."""

    def __init__(self, rng: random.Random):
        self.data = bytearray(rng.randbytes(SIZE))
        self.bad_reads: set[int] = set()
        self.bad_writes: set[int] = set()

    async def read(self, address: int, length: int) -> bytes:
        offset = self._offset(address, length, self.bad_reads)
        return bytes(self.data[offset : offset + length])

    async def write(self, address: int, data: bytes, **kwargs) -> None:
        offset = self._offset(address, len(data), self.bad_writes)
        self.data[offset : offset + len(data)] = data

    def _offset(self, address: int, length: int, bad: set[int]) -> int:
        offset = address - BASE
        if not 0 <= offset <= SIZE - length or any(offset <= b < offset + length for b in bad):
            raise ValueError(f"access to offset {offset:#x} fails")
        return offset


PAYLOADS = {
    "ar": ("addr", "len", "size", "burst"),
    "aw": ("addr", "len", "size", "burst"),
    "w": ("data", "strb", "last"),
}


class BusWatch:
    """Checks on every clock edge that valid and its payload hold until ready, and counts what is open."""

    def __init__(self, dut):
        self.dut = dut
        self.open_reads: deque[int] = deque()  # beats to come
        self.open_writes = 0
        self.beats = {"r": 0, "w": 0}
        cocotb.start_soon(self._run())

    def _value(self, name: str) -> int:
        return int(getattr(self.dut, f"m_axi_{name}").value)

    async def _run(self) -> None:
        held: dict[str, tuple[int, ...]] = {}
        while True:
            await FallingEdge(self.dut.clk)  # everything driven at the rising edge has settled
            await ReadOnly()
            if int(self.dut.rst.value):
                held.clear()
                self.open_reads.clear()
                self.open_writes = 0
                continue
            fires = {}
            for channel, fields in PAYLOADS.items():
                valid, ready = self._value(channel + "valid"), self._value(channel + "ready")
                payload = tuple(self._value(channel + f) for f in fields)
                if channel in held:
                    assert valid and payload == held.pop(channel), f"{channel} changed before it was taken"
                if valid and not ready:
                    held[channel] = payload
                fires[channel] = valid and ready
            self._count(fires)

    def _count(self, fires: dict[str, int]) -> None:
        value = self._value
        if value("rvalid") and value("rready"):
            self.beats["r"] += 1
            self.open_reads[0] -= 1
            assert value("rlast") == (self.open_reads[0] == 0)
            if value("rlast"):
                self.open_reads.popleft()
        if value("bvalid") and value("bready"):
            self.open_writes -= 1
            assert self.open_writes >= 0
        self.beats["w"] += fires["w"]
        if fires["ar"]:
            self._check_burst("ar")
            self.open_reads.append(value("arlen") + 1)
        if fires["aw"]:
            self._check_burst("aw")
            self.open_writes += 1
        assert max(len(self.open_reads), self.open_writes) <= CONFIG.outstanding

    def _check_burst(self, channel: str) -> None:
        address, beats = self._value(channel + "addr"), self._value(channel + "len") + 1
        assert 1 << self._value(channel + "size") == CONFIG.beat_bytes and self._value(channel + "burst") == 1
        assert address % CONFIG.beat_bytes == 0 and beats <= CONFIG.burst_beats
        assert address // 4096 == (address + beats * CONFIG.beat_bytes - 1) // 4096


class Machine:
    """The accelerator with its host and memory. `seed` decides all data and stalls."""

    def __init__(self, dut, seed: int):
        dut._log.info("seed %d", seed)
        self.dut = dut
        self.rng = random.Random(seed)
        self.memory = Memory(self.rng)

    async def begin(self, stalls: float = 0.4) -> None:
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 10, unit="ns").start())
        self.slave = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, target=self.memory)
        self.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)
        write, read = self.slave.write_if, self.slave.read_if
        self.channels = {
            "aw": write.aw_channel,
            "w": write.w_channel,
            "b": write.b_channel,
            "ar": read.ar_channel,
            "r": read.r_channel,
        }
        host_channels = (
            self.host.write_if.aw_channel,
            self.host.write_if.w_channel,
            self.host.write_if.b_channel,
            self.host.read_if.ar_channel,
            self.host.read_if.r_channel,
        )
        for channel in (*self.channels.values(), *host_channels):
            if stalls:
                channel.set_pause_generator(self._pauses(stalls))
        self.watch = BusWatch(dut)
        await self.reset()
        await self.configure()

    async def reset(self) -> None:
        self.dut.rst.value = 1
        for _ in range(4):
            await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0
        await RisingEdge(self.dut.clk)

    async def configure(self) -> None:
        await self.set(Register.BASE_LOW, BASE & 0xFFFFFFFF)
        await self.set(Register.BASE_HIGH, BASE >> 32)
        await self.set(Register.INTERRUPT, 1)

    def _pauses(self, share: float):
        rng = random.Random(self.rng.random())
        while True:
            pause = rng.random() < share
            yield from [pause] * rng.randrange(1, 6)

    # -- the host -----------------------------------------------------------------------------------------

    async def write(self, address: int, data: bytes) -> int:
        """The response."""
        return int((await self.host.write(address, data)).resp)

    async def read(self, address: int) -> tuple[int, int]:
        """Value and response."""
        answer = await self.host.read(address, 4)
        return int.from_bytes(answer.data, "little"), int(answer.resp)

    async def set(self, register: int, value: int) -> None:
        assert await self.write(register, value.to_bytes(4, "little")) == 0, (
            f"{register!r} = {value:#x} is refused"
        )

    async def get(self, register: int) -> int:
        value, response = await self.read(register)
        assert response == 0, f"{register!r} cannot be read"
        return value

    def load_program(self, body: list[Instruction], offset: int) -> None:
        """Write `body` with END and the fetches of its chunks to memory, at `offset`."""
        chunks = [body[i : i + CHUNK - 1] for i in range(0, len(body), CHUNK - 1)] or [[]]
        chunks.append([END])
        program: list[Instruction] = []
        for k, chunk in enumerate(chunks[:-1]):
            words = CHUNK if k + 2 < len(chunks) else 1
            fields = {
                "target": Target.INSTRUCTION,
                "source": offset + (k + 1) * CHUNK * INSTRUCTION_BYTES,
                "words": words,
            }
            chunk = [Instruction(Opcode.LOAD, fields), *chunk]
            program += chunk + [END] * (CHUNK - len(chunk)) if words == CHUNK else chunk
            if words == 1:
                program += chunks[-1]
                break
        image = b"".join(i.encode() for i in program)
        self.memory.data[offset : offset + len(image)] = image

    async def start(self, program: int) -> None:
        await self.set(Register.PROGRAM, program)
        await self.set(Register.CTRL, 1)

    async def finish(self) -> Error:
        """Wait for the interrupt and clear it; the status must say done."""
        if not int(self.dut.interrupt.value):
            await with_timeout(RisingEdge(self.dut.interrupt), TIMEOUT_US, "us")
        status = await self.get(Register.STATUS)
        assert status & 0b11 == 0b10, f"status {status:#x} with the interrupt"
        await self.set(Register.INTERRUPT, 3)
        assert not int(self.dut.interrupt.value)
        return Error(status >> 8)

    async def run(self, program: int) -> Error:
        await self.start(program)
        return await self.finish()

    async def check_counters(self) -> None:
        cycles = await self.get(Register.CYCLES_LOW)
        assert cycles and await self.get(Register.CYCLES_HIGH) == 0
        for u in Unit:
            busy, wait, idle, stall = [await self.get(COUNTERS[name, u]) for name in COUNTED]
            assert busy + wait + idle == cycles and stall <= busy
        assert await self.get(Register.BEATS_READ) == self.watch.beats["r"]
        assert await self.get(Register.BEATS_WRITTEN) == self.watch.beats["w"]

    async def end(self) -> None:
        """Nothing may be left anywhere."""
        for _ in range(50):
            await RisingEdge(self.dut.clk)
        assert not self.watch.open_reads and not self.watch.open_writes
        assert self.host.idle()
        for name, channel in self.channels.items():
            assert channel.empty(), f"the memory's {name} channel holds {channel.count()} items"
        for name in ("arvalid", "awvalid", "wvalid"):
            assert not int(getattr(self.dut, f"m_axi_{name}").value)


def copies(
    rng: random.Random, count: int, data_end: int
) -> tuple[list[Instruction], list[tuple[int, int, int]]]:
    """LOAD and STORE pairs by way of the activation buffer, as instructions and as (source, destination, bytes).

    Sources lie in the first half of [0, data_end), destinations in disjoint parts of the second.
    """
    word = CONFIG.act_word_bytes
    body, moves = [], []
    part = data_end // 2 // count // 4096 * 4096 or 1024
    for k in range(count):
        words = rng.randrange(1, min(200, part // word // 2))
        source = rng.randrange(0, (data_end // 2 - words * word) // CONFIG.beat_bytes) * CONFIG.beat_bytes
        room = part - words * word - CONFIG.beat_bytes
        destination = data_end // 2 + k * part + rng.randrange(room // CONFIG.beat_bytes) * CONFIG.beat_bytes
        place = rng.randrange(CONFIG.act_depth)
        load = {"target": Target.ACTIVATION, "destination": place, "source": source, "words": words}
        store = {"source": place, "destination": destination, "words": words}
        # The next load waits for this store: they may use the same words.
        wait = 1 << Unit.STORE if k else 0
        body.append(Instruction(Opcode.LOAD, load, wait=wait, signal=1 << Unit.STORE))
        body.append(
            Instruction(
                Opcode.STORE, store, wait=1 << Unit.LOAD, signal=1 << Unit.LOAD if k < count - 1 else 0
            )
        )
        moves.append((source, destination, words * word))
    return body, moves
