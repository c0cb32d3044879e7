"""cocotb tests of the generated Verilog at its pins. Run by test_protocol.py; `SEED` in the environment."""

import os

import cocotb
from cocotb.triggers import ClockCycles, Timer, with_timeout
from machine import CONFIG, Machine, copies

from sateen.hw.control.unit import Error
from sateen.machine.assembler import Instruction
from sateen.machine.isa import Opcode, Target, Unit
from sateen.machine.registers import ID, VERSION, Register, config_word

SEED = int(os.environ["SEED"])
OKAY, SLVERR = 0, 2
PROGRAM = 0xE000  # above everything that the copies touch


async def copied(machine: Machine, moves) -> None:
    """Every move has been made, from what is in memory now."""
    data = machine.memory.data
    for source, destination, size in moves:
        assert data[destination : destination + size] == data[source : source + size]


@cocotb.test()
async def copies_over_a_bus_that_stalls(dut):
    machine = Machine(dut, SEED)
    await machine.begin(stalls=machine.rng.choice([0, 0.3, 0.7]))
    body, moves = copies(machine.rng, 12, PROGRAM)
    machine.load_program(body, PROGRAM)
    before = bytes(machine.memory.data)
    assert await machine.run(PROGRAM) is Error.NONE
    await machine.check_counters()
    await copied(machine, moves)
    expected = bytearray(before)
    for source, destination, size in moves:
        expected[destination : destination + size] = before[source : source + size]
    assert machine.memory.data == expected, "nothing else is written"
    await machine.end()


@cocotb.test()
async def read_errors(dut):
    """In the data, and in the program's own chunks; then the same run without the error."""
    machine = Machine(dut, SEED)
    await machine.begin()
    body, moves = copies(machine.rng, 9, PROGRAM)
    machine.load_program(body, PROGRAM)
    source, _, size = machine.rng.choice(moves)
    for bad in (
        source + machine.rng.randrange(size),
        PROGRAM + machine.rng.randrange(1024),
        PROGRAM + 1024 + 3,
    ):
        machine.memory.bad_reads = {bad}
        assert await machine.run(PROGRAM) is Error.READ_ERROR, f"at {bad:#x}"
        machine.memory.bad_reads = set()
    assert await machine.run(PROGRAM) is Error.NONE
    await copied(machine, moves)
    await machine.end()


@cocotb.test()
async def write_errors(dut):
    machine = Machine(dut, SEED)
    await machine.begin()
    body, moves = copies(machine.rng, 5, PROGRAM)
    machine.load_program(body, PROGRAM)
    for _, destination, size in machine.rng.sample(moves, 2):
        machine.memory.bad_writes = {destination + machine.rng.randrange(size)}
        assert await machine.run(PROGRAM) is Error.WRITE_ERROR
    machine.memory.bad_writes = set()
    assert await machine.run(PROGRAM) is Error.NONE
    await copied(machine, moves)
    await machine.end()


@cocotb.test()
async def no_start_after_an_error(dut):
    """The instructions behind the one that failed do not run."""
    machine = Machine(dut, SEED)
    await machine.begin()
    load = {"target": Target.ACTIVATION, "source": 0, "words": 16}
    store = {"source": 0, "destination": 0x8000, "words": 16}
    body = [
        Instruction(Opcode.LOAD, load, signal=1 << Unit.STORE),
        Instruction(Opcode.STORE, store, wait=1 << Unit.LOAD),
    ]
    machine.load_program(body, PROGRAM)
    machine.memory.bad_reads = {8}
    before = bytes(machine.memory.data)
    assert await machine.run(PROGRAM) is Error.READ_ERROR
    assert machine.memory.data == before and machine.watch.beats["w"] == 0
    await machine.end()


@cocotb.test()
async def interrupt(dut):
    machine = Machine(dut, SEED)
    await machine.begin()
    machine.load_program([], PROGRAM)
    await machine.set(Register.INTERRUPT, 0)
    await machine.start(PROGRAM)
    while await machine.get(Register.STATUS) & 1:
        assert not int(dut.interrupt.value)
    assert await machine.get(Register.INTERRUPT) == 2, "pending, not enabled"
    assert not int(dut.interrupt.value)
    await machine.set(Register.INTERRUPT, 1)
    assert int(dut.interrupt.value), "a level"
    await ClockCycles(dut.clk, 20)
    assert int(dut.interrupt.value)
    await machine.set(Register.INTERRUPT, 2)
    assert await machine.get(Register.INTERRUPT) == 0 and not int(dut.interrupt.value)
    await machine.end()


@cocotb.test()
async def watchdog_ends_a_deadlock(dut):
    """A token that never comes: nothing is open, so the machine is ready at once."""
    machine = Machine(dut, SEED)
    await machine.begin()
    body, moves = copies(machine.rng, 3, PROGRAM)
    machine.load_program([Instruction(Opcode.MATRIX, wait=1 << Unit.VECTOR), *body], PROGRAM)
    await machine.set(Register.WATCHDOG, 4000)
    assert await machine.run(PROGRAM) is Error.TIMEOUT
    assert await machine.get(Register.CYCLES_LOW) == 4000 + 2, "the error is seen, then the run ends"
    assert await machine.get(Register.STATUS) & 4
    machine.load_program(body, PROGRAM)
    await machine.set(Register.WATCHDOG, 0)
    assert await machine.run(PROGRAM) is Error.NONE
    await copied(machine, moves)
    await machine.end()


@cocotb.test()
async def watchdog_ends_a_wait_for_memory(dut):
    """Memory stops answering; the run ends all the same, and a new one is refused until memory has answered."""
    machine = Machine(dut, SEED)
    await machine.begin()
    body, moves = copies(machine.rng, 3, PROGRAM)
    machine.load_program(body, PROGRAM)
    for channel in (machine.channels["r"], machine.channels["b"]):
        channel.clear_pause_generator()
        channel.pause = True
        await machine.set(Register.WATCHDOG, 500)
        assert await machine.run(PROGRAM) is Error.TIMEOUT
        assert not await machine.get(Register.STATUS) & 4
        assert await machine.write(Register.CTRL, b"\1\0\0\0") == SLVERR
        channel.pause = False
        for _ in range(300):
            if await machine.get(Register.STATUS) & 4:
                break
        await machine.set(Register.WATCHDOG, 0)
        assert await machine.run(PROGRAM) is Error.NONE
        await copied(machine, moves)
    await machine.end()


@cocotb.test()
async def soft_reset_in_a_run(dut):
    machine = Machine(dut, SEED)
    await machine.begin()
    body, moves = copies(machine.rng, 5, PROGRAM)
    machine.load_program(body, PROGRAM)
    for _ in range(4):
        await machine.start(PROGRAM)
        await ClockCycles(dut.clk, machine.rng.randrange(1500))
        await machine.set(Register.CTRL, 2)
        for _ in range(300):
            status = await machine.get(Register.STATUS)
            if not status & 1:
                break
        assert status == 4, "idle and ready, neither done nor an error"
        assert not machine.watch.open_reads and not machine.watch.open_writes, "open bursts were completed"
        await machine.set(Register.INTERRUPT, 3)  # it may have been done before the reset
    assert await machine.run(PROGRAM) is Error.NONE
    await copied(machine, moves)
    await machine.end()


@cocotb.test()
async def bad_programs(dut):
    machine = Machine(dut, SEED)
    await machine.begin()
    give = Instruction(Opcode.STORE, {"words": 1, "destination": 0x8000}, signal=1 << Unit.VECTOR)
    body, moves = copies(machine.rng, 2, PROGRAM)
    for bad, error in (
        ([Instruction(Opcode.LOAD, {"words": 0})], Error.ILLEGAL_INSTRUCTION),
        ([Instruction(Opcode.LOAD, {"words": 1, "target": 6})], Error.ILLEGAL_INSTRUCTION),
        ([give] * 64, Error.TOKEN_OVERFLOW),
        (body, Error.NONE),
    ):
        machine.load_program(bad, PROGRAM)
        assert await machine.run(PROGRAM) is error
    machine.memory.data[PROGRAM + 64 : PROGRAM + 65] = b"\7"
    assert await machine.run(PROGRAM) is Error.ILLEGAL_INSTRUCTION
    machine.load_program(body, PROGRAM)
    assert await machine.run(PROGRAM) is Error.NONE
    await copied(machine, moves)
    await machine.end()


@cocotb.test()
async def register_access(dut):
    machine = Machine(dut, SEED)
    await machine.begin()
    assert await machine.get(Register.ID) == ID
    assert await machine.get(Register.VERSION) == VERSION
    assert await machine.get(Register.CONFIG) == config_word(CONFIG)

    counters = {0x50 + 4 * i for i in range(16)} | {0x90, 0x94, 0x40, 0x44}
    readable = counters | {int(r) for r in Register} - {Register.CTRL, Register.DATA, Register.STRIDE}
    writable = {Register.CTRL, Register.INTERRUPT, *range(0x18, 0x28, 4)}
    for address in range(0, 256, 4):
        _, response = await machine.read(address)
        assert response == (OKAY if address in readable else SLVERR), f"read of {address:#x}"
        if address not in writable:
            assert await machine.write(address, bytes(4)) == SLVERR, f"write to {address:#x}"

    await machine.set(Register.WATCHDOG, 0x11223344)
    assert await machine.write(Register.WATCHDOG + 1, b"\xaa\xbb") == OKAY
    assert await machine.get(Register.WATCHDOG) == 0x11BBAA44
    await machine.set(Register.WATCHDOG, 0)
    assert await machine.write(Register.BASE_LOW, (8).to_bytes(4, "little")) == SLVERR
    assert await machine.write(Register.PROGRAM, (4).to_bytes(4, "little")) == SLVERR

    # while busy: reading works, what the run depends on cannot change
    machine.load_program(copies(machine.rng, 3, PROGRAM)[0], PROGRAM)
    await machine.start(PROGRAM)
    machine.channels["r"].pause = True
    machine.channels["r"].clear_pause_generator()
    assert await machine.get(Register.STATUS) == 1
    for register in (Register.BASE_LOW, Register.BASE_HIGH, Register.PROGRAM, Register.WATCHDOG):
        value = await machine.get(register)
        assert await machine.write(register, bytes(4)) == SLVERR
        assert await machine.get(register) == value
    assert await machine.write(Register.CTRL, b"\1\0\0\0") == SLVERR
    first = await machine.get(Register.CYCLES_LOW)
    assert await machine.get(Register.CYCLES_LOW) > first
    machine.channels["r"].pause = False
    assert await machine.finish() is Error.NONE
    await machine.end()


@cocotb.test()
async def accesses_in_parallel(dut):
    """Reads and writes of the registers at the same time, with the run under way."""
    machine = Machine(dut, SEED)
    await machine.begin()
    body, moves = copies(machine.rng, 6, PROGRAM)
    machine.load_program(body, PROGRAM)
    await machine.start(PROGRAM)

    async def poll():
        last = 0
        for _ in range(30):
            cycles = await machine.get(Register.CYCLES_LOW)
            assert cycles >= last
            last = cycles

    async def toggle():
        for _ in range(30):
            await machine.set(Register.INTERRUPT, 1)

    tasks = [cocotb.start_soon(poll()), cocotb.start_soon(toggle())]
    for task in tasks:
        await with_timeout(task, 1000, "us")
    assert await machine.finish() is Error.NONE
    await copied(machine, moves)
    await machine.end()


@cocotb.test()
async def reset_at_any_time(dut):
    """After `rst` the machine is as new, also in the middle of a run."""
    machine = Machine(dut, SEED)
    await machine.begin()
    body, moves = copies(machine.rng, 3, PROGRAM)
    machine.load_program(body, PROGRAM)
    await machine.start(PROGRAM)
    await Timer(machine.rng.randrange(100, 4000), "ns")
    await machine.reset()
    assert await machine.get(Register.STATUS) == 4
    assert await machine.get(Register.WATCHDOG) == 0 and await machine.get(Register.INTERRUPT) == 0
    await machine.configure()
    assert await machine.run(PROGRAM) is Error.NONE
    await copied(machine, moves)
    await machine.end()
