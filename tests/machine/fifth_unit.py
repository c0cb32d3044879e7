# amaranth: UnusedElaboratable=no
"""Everything that knows units, with a fifth one in the table: `python fifth_unit.py` ends with 0 if it is consistent.

A process of its own, as the table is patched before anything else reads it.
"""

import importlib.util
import random
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "hw"))

ADDED = (
    ("    STORE = 3\n", "    STORE = 3\n    TOY = 4\n"),
    ("    POOL = 9\n", "    TOY = 2\n    PLAY = 3\n    POOL = 9\n"),
    ("BUS = (Unit.LOAD, Unit.STORE)", "BUS = (Unit.LOAD, Unit.STORE, Unit.TOY)"),
    (
        "END = Layout(Opcode.END, None)\n",
        "END = Layout(Opcode.END, None)\n"
        "TOY = Layout(Opcode.TOY, Unit.TOY, (Field('toys', 9, count=True, checked=True, counted='kernel_bits'),\n"
        "    Field('level', 4, below='rows', where=('toys', 7))))\n"
        "PLAY = Layout(Opcode.PLAY, Unit.TOY, (Field('games', 20),))\n",
    ),
    (", END)\n", ", TOY, PLAY, END)\n"),
)


def patch() -> None:
    """Puts a `sateen.machine.isa` with a unit and two instructions more into sys.modules."""
    spec = importlib.util.find_spec("sateen.machine.isa")
    text = Path(spec.origin).read_text(encoding="utf-8")
    for old, new in ADDED:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    module = importlib.util.module_from_spec(spec)
    sys.modules["sateen.machine.isa"] = module
    exec(compile(text, "isa with five units", "exec"), module.__dict__)


patch()

from amaranth.hdl import Module, Signal  # noqa: E402
from amaranth.sim import Simulator  # noqa: E402
from test_control import END, Run, chunked, random_body  # noqa: E402

from sateen.hw import isa as hw_isa  # noqa: E402
from sateen.hw.control.legality import counted  # noqa: E402
from sateen.hw.control.registers import Registers  # noqa: E402
from sateen.hw.control.unit import Control, Error, Tokens  # noqa: E402
from sateen.machine.assembler import Instruction, decode  # noqa: E402
from sateen.machine.config import AcceleratorConfig  # noqa: E402
from sateen.machine.isa import HEADER, LAYOUTS, TOKEN_PAIRS, UNITS, Opcode, Unit  # noqa: E402
from sateen.machine.registers import ADDRESS_BITS, COUNTED, COUNTERS, Register  # noqa: E402
from sateen.reporting.timeline import draw  # noqa: E402
from sateen.sim.harness import register_header  # noqa: E402
from sateen.sim.proof import token_bounds, token_pairs  # noqa: E402

CONFIG = AcceleratorConfig(rows=2)


def widths() -> None:
    assert {f.name: f.bits for f in HEADER} == {"opcode": 4, "wait": 5, "signal": 5} and TOKEN_PAIRS == 25
    assert CONFIG.token_pairs == (1 << 25) - 1
    assert all(hw_isa.LAYOUT[o].size == layout.bits for o, layout in LAYOUTS.items())
    tokens, control, registers = Tokens(bits=2, pairs=1), Control(config=CONFIG), Registers(config=CONFIG)
    assert len(tokens.give) == len(tokens.take) == len(tokens.available) == 25
    assert len(control.executing) == len(control.pending) == len(registers.stall) == 5 and control.toy
    last = Instruction(Opcode.TOY, {"toys": 3}, wait=1 << Unit.TOY, signal=1 << Unit.TOY)
    assert decode(last.encode()).encode() == last.encode() and decode(last.encode()).unit is Unit.TOY


def addresses() -> None:
    found = [*Register, *COUNTERS.values()]
    assert len(COUNTERS) == 20 and len(set(found)) == len(found) and max(found) < 1 << ADDRESS_BITS
    assert [COUNTERS[name, Unit.STORE] for name in COUNTED] == [0x80, 0x84, 0x88, 0x8C]
    assert "{0x50, 0x60, 0x70, 0x80, 0x98}" in register_header()


def counters() -> None:
    """A cycle in which only the fifth unit executes is counted at its addresses."""
    dut = Registers(config=CONFIG)

    async def read(ctx, address: int) -> int:
        ctx.set(dut.bus.araddr, address)
        ctx.set(dut.bus.arvalid, 1)
        await ctx.tick().until(dut.bus.arready)
        ctx.set(dut.bus.arvalid, 0)
        ctx.set(dut.bus.rready, 1)
        value, response = await ctx.tick().sample(dut.bus.rdata, dut.bus.rresp).until(dut.bus.rvalid)
        assert response == 0
        return value

    async def bench(ctx) -> None:
        ctx.set(dut.busy, 1)
        ctx.set(dut.executing, 1 << Unit.TOY)
        ctx.set(dut.stall, 1 << Unit.TOY)
        await ctx.tick().repeat(7)
        ctx.set(dut.busy, 0)
        for u in Unit:
            found = [await read(ctx, COUNTERS[name, u]) for name in COUNTED]
            assert found == ([7, 0, 0, 7] if u is Unit.TOY else [0, 0, 7, 0]), (u, found)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def times() -> None:
    """Programs with the new instructions on the control's RTL, at the times of docs/isa.md."""
    used = set()
    for seed in range(3):
        rng = random.Random(seed)
        program = chunked(random_body(rng, 40), 4096)
        used |= {i.opcode for i in program}
        run = Run(CONFIG, program, rng)
        run.simulate()
        start, done, finish = run.expected()
        assert run.log == {"start": start, "done": done} and run.finish == finish and run.error is Error.NONE
    assert {Opcode.TOY, Opcode.PLAY} <= used


def legality() -> None:
    """As the table says of each field, and of no field of the unit's other instruction."""
    for fields, wrong in (
        ({"toys": 0}, True),
        ({"toys": 7, "level": 1}, False),
        ({"toys": 7, "level": 2}, True),
        ({"toys": 8, "level": 2}, False),
    ):
        run = Run(CONFIG, [Instruction(Opcode.TOY, fields), Instruction(Opcode.PLAY), END], random.Random(1))
        run.simulate()
        assert (run.error is Error.ILLEGAL_INSTRUCTION) == wrong, (fields, run.error)


def cut() -> None:
    """A narrow machine takes the low bits of a checked count, and all of the other instruction's."""
    narrow, word = CONFIG.replace(kernel_bits=5), Signal(hw_isa.INSTRUCTION_BITS)
    for instruction, kept in (
        (Instruction(Opcode.TOY, {"toys": 0x1F5}), Instruction(Opcode.TOY, {"toys": 0x15})),
        (Instruction(Opcode.PLAY, {"games": 0xFFFFF}), Instruction(Opcode.PLAY, {"games": 0xFFFFF})),
    ):
        given, wanted = (int.from_bytes(i.encode(), "little") for i in (instruction, kept))
        found = Signal(hw_isa.INSTRUCTION_BITS)
        m = Module()
        m.d.comb += [word.eq(given), found.eq(counted(Unit.TOY, word, narrow))]

        async def bench(ctx, found=found, wanted=wanted) -> None:
            assert ctx.get(found) == wanted

        simulator = Simulator(m)
        simulator.add_testbench(bench)
        simulator.run()


def proofs() -> None:
    give = Instruction(Opcode.LOAD, {"words": 1}, signal=1 << Unit.TOY)
    take = Instruction(Opcode.PLAY, wait=1 << Unit.LOAD)
    assert token_bounds([give, give, take, take], 1) == {(Unit.LOAD, Unit.TOY): 2}
    assert token_pairs([give, take]) == 1 << 5 * Unit.LOAD + Unit.TOY


def rows() -> None:
    assert UNITS[4] == "toy"
    event = {"engine": "toy", "layer": 0, "start": 1, "done": 8}
    page = draw({"cycles": 10, "layers": [{"index": 0, "name": "first"}], "timeline": [event]})
    assert ">toy</text>" in page and "toy, first: cycles" in page


if __name__ == "__main__":
    for check in (widths, addresses, counters, times, legality, cut, proofs, rows):
        check()
