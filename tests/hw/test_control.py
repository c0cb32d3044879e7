"""The dispatcher, queues and tokens against the recurrences of docs/isa.md, with units that only take time."""

import random

import pytest
from amaranth.sim import Simulator

from sateen.hw import isa
from sateen.hw.control.unit import Control, Error
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import CHUNK, LAYOUTS, Opcode, Target, Unit

END = Instruction(Opcode.END)
DATA_OPCODES = [o for o in Opcode if o is not Opcode.END and not LAYOUTS[o].only]


def fetch(source: int, words: int) -> Instruction:
    return Instruction(Opcode.LOAD, {"target": Target.INSTRUCTION, "source": source, "words": words})


def chunked(body: list[Instruction], origin: int) -> list[Instruction]:
    """The program with END and the fetches of its chunks, placed at `origin`."""
    chunks = [body[i : i + CHUNK - 1] for i in range(0, len(body), CHUNK - 1)] or [[]]
    if len(chunks[-1]) < CHUNK - 1 or len(chunks) == 1:
        chunks[-1].append(END)
    else:
        chunks.append([END])
    out: list[Instruction] = []
    for k, chunk in enumerate(chunks[:-1]):
        words = CHUNK if k + 2 < len(chunks) else len(chunks[-1])
        out += [fetch(origin + (k + 1) * CHUNK * 64, words), *chunk]
    out += chunks[-1]
    return out


def random_body(rng: random.Random, n: int) -> list[Instruction]:
    """Instructions whose tokens always come: each waits only for what an earlier one gives."""
    tokens = {(g, t): 0 for g in Unit for t in Unit}
    body = []
    for _ in range(n):
        i = Instruction(rng.choice(DATA_OPCODES))
        i.fields = {
            f.name: rng.randrange(1, 1 << f.bits) for f in LAYOUTS[i.opcode].fields if f.checked and f.count
        }
        for giver in Unit:
            if tokens[giver, i.unit] and rng.random() < 0.6:
                tokens[giver, i.unit] -= 1
                i.wait |= 1 << giver
        for taker in Unit:
            if tokens[i.unit, taker] < 20 and rng.random() < 0.4:
                tokens[i.unit, taker] += 1
                i.signal |= 1 << taker
        body.append(i)
    return body


class Run:
    """A program on `Control` with stub units.

    Cycle 0 is the one in which `start` is high. `durations[i]` is D of instruction i, the fetch of the first chunk
    being number -1; `gaps[i][b]` is how long after the beat before (or start + 1) beat b of fetch i arrives.
    """

    def __init__(
        self, config: AcceleratorConfig, program: list[Instruction], rng: random.Random, origin=4096
    ):
        self.config, self.program, self.origin = config, program, origin
        self.beats = isa.INSTRUCTION_BITS // config.bus_bits
        self.image = b"".join(i.encode() for i in program).ljust(CHUNK * 64, b"\0")
        self.fetches = [-1] + [
            k for k, i in enumerate(program) if i.fields.get("target") == Target.INSTRUCTION
        ]
        self.words = {k: program[k].words if k >= 0 else CHUNK for k in self.fetches}
        pace = rng.choice([0.0, 0.5, 0.9])
        self.gaps = {
            k: [1 + (rng.randrange(4) if rng.random() < pace else 0) for _ in range(n * self.beats)]
            for k, n in self.words.items()
        }
        self.durations = {k: rng.choice([1, 1, 2, 5, 40]) for k in range(len(program))}
        self.durations |= {k: sum(gaps) for k, gaps in self.gaps.items()}  # done with the last beat
        self.inject: dict[int, dict[str, int]] = {}
        self.log: dict[str, dict] = {"start": {}, "done": {}}
        self.finish = None

    def expected(self) -> tuple[dict[int, int], dict[int, int], int]:
        """start and done of each instruction and the cycle of finish, from docs/isa.md."""
        n, depth = self.beats, self.config.queue_depth
        start, done = {-1: 1}, {}
        arrival: list[int] = []
        gives = {(g, t): [] for g in Unit for t in Unit}
        taken = dict.fromkeys(gives, 0)
        on_unit: dict[Unit, list[int]] = {u: [] for u in Unit}
        last_on: dict[Unit, int] = {}

        def complete(k: int) -> None:
            done[k] = start[k] + self.durations[k]
            if k in self.gaps:
                t = start[k]
                for gap in self.gaps[k]:
                    arrival.append(t := t + gap)

        complete(-1)
        last_on[Unit.LOAD] = done[-1]
        take = 0
        for k, i in enumerate(self.program):
            head = max(take + 1, arrival[k * n] + 2)
            if i.opcode is Opcode.END:
                return start, done, max(head, *(d + 1 for d in done.values()))
            u = i.unit
            for b in range(n):
                take = max(take + 1, arrival[k * n + b] + 2)
                if b == 0 and len(on_unit[u]) >= depth:
                    take = max(take, start[on_unit[u][-depth]] + 1)
            t = max(take + 1, last_on.get(u, 0) + 1)
            for giver in Unit:
                if i.wait >> giver & 1:
                    t = max(t, gives[giver, u][taken[giver, u]] + 1)
                    taken[giver, u] += 1
            start[k] = t
            complete(k)
            last_on[u] = done[k]
            on_unit[u].append(k)
            for taker in Unit:
                if i.signal >> taker & 1:
                    gives[u, taker].append(done[k])
        raise AssertionError("no END")

    def simulate(self, limit: int = 5000, repeat: int = 1) -> None:
        """Fills in `log`, `finish` and `error`, all cycles counted from the last start."""
        dut = Control(config=self.config)
        ports = {u: getattr(dut, u.label) for u in Unit}
        queues = {
            u: [k for k, i in enumerate(self.program) if i.opcode is not Opcode.END and i.unit is u]
            for u in Unit
        }
        queues[Unit.LOAD].insert(0, -1)

        async def bench(ctx):
            for _ in range(repeat):
                await one(ctx)

        async def one(ctx):
            self.log = {"start": {}, "done": {}}
            at: dict[int, list] = {}
            order = {u: list(q) for u, q in queues.items()}
            base = 0
            ctx.set(dut.program, self.origin)
            for t in range(limit):
                ctx.set(dut.start, t == 0)
                events = at.pop(t, [])
                for u in Unit:
                    ctx.set(ports[u].done, any(x == ("done", u) for x in events))
                beat = next((x for x in events if x[0] == "beat"), None)
                ctx.set(dut.i_valid, beat is not None)
                if beat:
                    ctx.set(dut.i_data, beat[1])
                for name, value in self.inject.get(t, {}).items():
                    ctx.set(getattr(dut, name), value)
                for u in Unit:
                    if t and ctx.get(ports[u].start):
                        k = order[u].pop(0)
                        self.log["start"][k] = t
                        word = ctx.get(ports[u].instruction)
                        want = self.program[k] if k >= 0 else fetch(self.origin, CHUNK)
                        assert word == int.from_bytes(want.encode(), "little"), f"instruction {k}"
                        if self.durations[k] is not None:
                            end = t + self.durations[k]
                            self.log["done"][k] = end
                            at.setdefault(end, []).append(("done", u))
                        if k in self.gaps:
                            arrival = t
                            for b, gap in enumerate(self.gaps[k]):
                                arrival += gap
                                i = (base + b) * self.config.beat_bytes
                                data = int.from_bytes(self.image[i : i + self.config.beat_bytes], "little")
                                at.setdefault(arrival, []).append(("beat", data))
                            base += len(self.gaps[k])
                if ctx.get(dut.finish):
                    self.finish = t
                    await ctx.tick()
                    for name in {name for values in self.inject.values() for name in values}:
                        ctx.set(getattr(dut, name), 0)
                    assert ctx.get(dut.done) and not ctx.get(dut.busy)
                    self.error = Error(ctx.get(dut.error))
                    self.ready = ctx.get(dut.ready)
                    return
                await ctx.tick()
            raise AssertionError(f"not finished after {limit} cycles")

        sim = Simulator(dut)
        sim.add_clock(1e-6)
        sim.add_testbench(bench)
        sim.run()


def config(bus_bits=64, queue_depth=4) -> AcceleratorConfig:
    return AcceleratorConfig(bus_bits=bus_bits, queue_depth=queue_depth, burst_beats=8)


@pytest.mark.parametrize("bus_bits, queue_depth", [(32, 2), (64, 8), (128, 1), (256, 2), (512, 1), (512, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_times_are_those_of_the_isa(bus_bits, queue_depth, seed):
    print(f"{seed=}")
    rng = random.Random(f"{bus_bits} {queue_depth} {seed}")
    program = chunked(random_body(rng, rng.choice([3, 15, 40])), 4096)
    run = Run(config(bus_bits, queue_depth), program, rng)
    run.simulate(repeat=2)  # nothing is left over from the first run
    start, done, finish = run.expected()
    assert run.log == {"start": start, "done": done}
    assert run.finish == finish
    assert run.error is Error.NONE


def test_empty_program():
    run = Run(config(), [END], random.Random(0))
    run.simulate()
    assert run.finish == run.expected()[2] and list(run.log["start"]) == [-1]


def failing(program, inject=None, **changes) -> Run:
    run = Run(config(), program, random.Random(1))
    run.inject = inject or {}
    for name, value in changes.items():
        setattr(run, name, value)
    run.simulate()
    return run


def test_unknown_opcode():
    run = Run(config(), [Instruction(Opcode.MATRIX), END], random.Random(1))
    run.image = run.image[:64] + bytes([0x07]) + run.image[65:]
    run.simulate()
    assert run.error is Error.ILLEGAL_INSTRUCTION


@pytest.mark.parametrize(
    "bad",
    [
        Instruction(Opcode.LOAD, {"words": 0}),
        Instruction(Opcode.STORE, {"words": 0}),
        Instruction(Opcode.LOAD, {"words": 1, "target": 7}),
    ],
)
def test_transfer_that_could_not_end_is_illegal(bad):
    run = failing([bad, END])
    assert run.error is Error.ILLEGAL_INSTRUCTION and 0 not in run.log["start"]


def test_plane_that_the_machine_lacks_is_illegal():
    machine = config().replace(group=8, patterns=("dense", "2:4"))
    load = {"words": 4, "target": Target.INDEX}
    for last_plane, error in ((1, Error.NONE), (2, Error.ILLEGAL_INSTRUCTION)):
        run = Run(
            machine, [Instruction(Opcode.LOAD, load | {"last_plane": last_plane}), END], random.Random(1)
        )
        run.simulate()
        assert run.error is error


def test_program_that_overruns_its_buffer():
    bad = [fetch(0, 2 * CHUNK)]
    program = bad + [Instruction(Opcode.MATRIX, wait=1)] * 14 + [END]
    run = Run(config(), program + program + program, random.Random(1))
    run.program[17:] = []
    run.simulate()
    assert run.error is Error.ILLEGAL_INSTRUCTION


def test_token_overflow():
    give = Instruction(Opcode.MATRIX, signal=1 << Unit.STORE)
    assert failing([give] * 14 + [END]).error is Error.NONE
    run = Run(config(), chunked([give] * 64, 4096), random.Random(1))
    run.simulate()
    assert run.error is Error.TOKEN_OVERFLOW
    run = Run(config(), chunked([give] * 63, 4096), random.Random(1))
    run.simulate()
    assert run.error is Error.NONE


ERRORS = {
    "read_error": Error.READ_ERROR,
    "write_error": Error.WRITE_ERROR,
    "bank_conflict": Error.BANK_CONFLICT,
    "timeout": Error.TIMEOUT,
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_ends_the_run_when_the_bus_is_idle(name):
    load = Instruction(Opcode.LOAD, {"words": 3})
    program = [load, Instruction(Opcode.MATRIX), load, END]
    run = Run(config(), program, random.Random(1))
    run.durations[0] = 100
    start, done, _ = run.expected()
    when = start[0] + 10
    run.inject = {when: {name: 1}, when + 1: {name: 0}, when + 3: {"write_error": 1}}
    run.simulate()
    assert run.error is ERRORS[name], "the first error is kept"
    assert run.finish == done[0] + 1, "it waits for the load under way"
    assert 2 not in run.log["start"], "nothing starts after the error"
    assert run.ready


def test_earlier_names_win_in_one_cycle():
    both = {name: 1 for name in ERRORS}
    assert failing([Instruction(Opcode.MATRIX), END], {3: both}).error is Error.READ_ERROR


def test_memory_that_never_answers():
    load = Instruction(Opcode.LOAD, {"words": 3})
    run = Run(config(), [load, END], random.Random(1))
    when = run.expected()[0][0] + 5
    run.durations[0] = None
    run.inject = {when: {"timeout": 1}, when + 7: {"expired": 1}}
    run.simulate()
    assert run.error is Error.TIMEOUT and run.finish == when + 7 and not run.ready


def test_soft_reset():
    dut = Control(config=config())

    async def bench(ctx):
        async def pulse(signal):
            ctx.set(signal, 1)
            await ctx.tick()
            ctx.set(signal, 0)

        async def begin():
            await pulse(dut.start)
            assert ctx.get(dut.busy) and ctx.get(dut.load.start) and not ctx.get(dut.ready)
            await ctx.tick().repeat(3)

        await begin()
        await pulse(dut.soft_reset)
        for _ in range(5):  # the fetch is under way
            assert ctx.get(dut.busy) and not ctx.get(dut.clear)
            await ctx.tick()
        await pulse(dut.load.done)
        assert ctx.get(dut.clear)
        await ctx.tick()
        assert ctx.get(dut.ready) and not ctx.get(dut.busy) and not ctx.get(dut.done)

        await begin()
        await pulse(dut.soft_reset)
        ctx.set(dut.soft_reset, 1)
        assert ctx.get(dut.clear), "a second one does not wait"
        await ctx.tick()
        ctx.set(dut.soft_reset, 0)
        assert ctx.get(dut.ready)

        await begin()
        await pulse(dut.timeout)
        await ctx.tick()
        await pulse(dut.expired)
        assert ctx.get(dut.done) and not ctx.get(dut.ready) and not ctx.get(dut.busy)
        await pulse(dut.start)
        assert not ctx.get(dut.busy), "refused while memory owes beats"
        await pulse(dut.load.done)
        await ctx.tick()
        assert ctx.get(dut.ready) and ctx.get(dut.error) == Error.TIMEOUT
        await pulse(dut.soft_reset)
        assert ctx.get(dut.error) == Error.NONE and not ctx.get(dut.done)
        await begin()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
