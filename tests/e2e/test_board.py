"""The whole chip, its UART pins included, with the driver that a real board has: the digits network on `tiny`."""

import contextlib
import json
import random
from importlib.resources import as_file, files

import numpy as np
import pytest

import sateen
from sateen.board import check_identity, run_on_board
from sateen.cli.main import main
from sateen.errors import LinkError
from sateen.fpga.boards.link import Connection
from sateen.hw.chip.frame import Identity
from sateen.machine.presets import preset
from sateen.machine.registers import ID, Register, config_word
from sateen.models.data import digits_split
from sateen.sim.board import SimulatedBoard
from sateen.sim.engines import Build
from sateen.sim.memory_timing import ON_CHIP

pytestmark = pytest.mark.rtl
IMAGES = 3


@pytest.fixture(scope="module")
def data():
    digits = digits_split()
    return {"calibration": {"input": digits.x_train[:64]}, "inputs": {"input": digits.x_test[:IMAGES]}}


def compiled(folder, data, **options):
    with as_file(files("sateen.models") / "digits_cnn.onnx") as path:
        sateen.compile(path, folder, calibration=data["calibration"], **options)
    return folder


@pytest.fixture(scope="module")
def build(tmp_path_factory, data):
    return compiled(tmp_path_factory.mktemp("board") / "build", data, preset="tiny")


@pytest.fixture(scope="module")
def board(build):
    with SimulatedBoard(build) as board:
        yield board


def open_board(board) -> Connection:
    return Connection.open(board.port, baud=board.baud, timeout=2.0)


def test_four_engines_and_the_board_agree(build, board, data):
    found = run_on_board(Build(build), data["inputs"], board.port, baud=board.baud)
    reference = sateen.run(build, data["inputs"], "reference")
    assert found.outputs["logits"].tobytes() == reference.outputs["logits"].tobytes()
    predicted = sateen.run(build, data["inputs"], "model", latency=ON_CHIP.latency, interval=ON_CHIP.interval)
    assert found.cycles == predicted.cycles
    assert found.batch == IMAGES and found.counters["cycles"] * IMAGES == found.cycles


def test_command_line(build, board, data, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", **data["inputs"])
    command = ["run", build, "--inputs", tmp_path / "x.npz", "--engine", "board", "--port", board.port]
    command += ["--baud", board.baud, "--json", "--compare"]
    assert main([str(c) for c in command]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"] == "board" and found["equal"] and found["batch"] == IMAGES
    at, end = command.index("--port") + 1, command.index("--baud")
    simulated = [*command[:at], "sim", *command[end + 2 :]]
    assert main([str(c) for c in simulated]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["equal"] and again["cycles"] == found["cycles"] and again["outputs"] == found["outputs"]
    assert main([str(c) for c in [*simulated, "--baud", "115200"]]) == 2
    assert "the simulated board has its own" in capsys.readouterr().err
    assert (found["latency"], found["interval"]) == (ON_CHIP.latency, ON_CHIP.interval)
    command[command.index("board")] = "rtl"
    for option in ("--port", board.port, "--baud", board.baud):
        command.remove(option)
    command += ["--latency", ON_CHIP.latency]
    assert main([str(c) for c in command]) == 0
    rtl = json.loads(capsys.readouterr().out)
    for name in ("cycles", "macs", "dense_macs", "utilization", "counters", "outputs"):
        assert found[name] == rtl[name], name


def test_identify_and_memory(build, board):
    b = Build(build)
    with open_board(board) as link:
        identity = link.identify()
        assert identity.resident and identity.build == b.identity and identity.config == config_word(b.config)
        assert identity.clock_hz == 1_000_000 and identity.memory_bytes >= b.memory_bytes
        fractions = []
        assert link.read(0, len(b.image.held), fractions.append) == b.image.held
        assert fractions == sorted(fractions) and fractions[-1] == 1
        assert link.registers(Register.ID, 1) == (ID,)
        scratch = random.Random(1).randbytes(1500)
        link.write(b.memory["data_offset"], scratch)
        assert link.read(b.memory["data_offset"], 1500) == scratch
        with pytest.raises(LinkError, match=r"refuses READ: the address lies outside the memory .*fault 6"):
            link.read(identity.memory_bytes - 1, 2)
        with pytest.raises(LinkError, match="refuses SET: the accelerator refused"):
            link.set(Register.BASE_LOW, 1)
        link.reset()


class BadLine:
    """A port that damages what goes through it, in both directions."""

    def __init__(self, port, seed: int, rate: float):
        self.port, self.rng, self.rate = port, random.Random(seed), rate
        self.damaged = 0

    def __getattr__(self, name):
        return getattr(self.port, name)

    def spoil(self, data: bytes, rate: float) -> bytes:
        if not data or self.rng.random() > rate:
            return data
        self.damaged += 1
        k = self.rng.randrange(len(data))
        flipped = data[:k] + bytes([data[k] ^ 1 << self.rng.randrange(8)]) + data[k + 1 :]
        return self.rng.choice(
            (flipped, data[:k] + data[k + 1 :], data[: k + 1] + data[k:], data[:k], b"\xa5\x10" + data)
        )

    def write(self, data: bytes) -> int:
        return self.port.write(self.spoil(data, self.rate))

    def read(self, size: int) -> bytes:
        return self.spoil(self.port.read(size), self.rate / 4)  # an answer comes in several parts


@pytest.mark.parametrize("seed", [1, 2])
def test_on_a_bad_line_the_answer_is_right(build, board, data, seed):
    print("seed", seed)
    b = Build(build)
    region, output = b.inputs[0], b.outputs[0]
    rng = random.Random(seed)
    place = b.memory["data_offset"]
    with open_board(board) as link:
        link.port = bad = BadLine(link.port, seed, rate=0.2)
        link.timeout, link.retries = 1.0, 20
        link.identify()
        for size in (1, 100, 700):
            data_there = rng.randbytes(size)
            link.write(place, data_there)
            assert link.read(place, size) == data_there
        link.write(region.offset, bytes(region.size))
        wanted = None
        for _ in range(2):
            link.run(0, b.memory["program_offset"])
            assert link.wait(30.0) >> 8 == 0, "no error"
            found = link.read(output.offset, output.size)
            assert wanted in (None, found)
            wanted = found
        assert bad.damaged and link.repeated


def test_another_build_is_refused(build, board, data, tmp_path):
    """The same machine with other weights, and another machine."""
    other = tmp_path / "other"
    compiled(other, data, config=Build(build).config.replace(specialize=False), power_of_two=True)
    with pytest.raises(
        LinkError, match=r"is another machine, configuration \w{8}, and build .* needs \w{8}; "
    ):
        run_on_board(Build(other), data["inputs"], board.port, baud=board.baud)
    b = Build(build)
    good = Identity(1, True, 512, b.memory_bytes, 1, config_word(b.config), b.identity)
    check_identity(good, b, "x")
    check_identity(Identity(1, False, 512, b.memory_bytes, 1, config_word(b.config), bytes(8)), b, "x")
    with pytest.raises(
        LinkError, match=f"holds another build, 00ff000000000000, and .* is {b.identity.hex()}"
    ):
        check_identity(Identity(1, True, 512, b.memory_bytes, 1, good.config, b"\0\xff" + bytes(6)), b, "x")
    with pytest.raises(LinkError, match=r"has 4096 bytes of memory, and build .* needs \d+"):
        check_identity(Identity(1, True, 512, 4096, 1, good.config, b.identity), b, "x")


def test_a_board_without_a_build_is_loaded(tmp_path, data):
    """A chip for every build of its configuration, which the host loads."""
    config = preset("tiny").replace(name="small", acc_depth=64, weight_depth=1024, specialize=False)
    first = compiled(tmp_path / "first", data, config=config)
    second = compiled(tmp_path / "second", data, config=config, power_of_two=True)
    assert Build(first).identity != Build(second).identity
    with SimulatedBoard(first, resident=False, memory_bytes=1 << 16) as board:
        for build in (first, second, first):
            found = run_on_board(Build(build), data["inputs"], board.port, baud=board.baud)
            reference = sateen.run(build, data["inputs"], "reference")
            assert found.outputs["logits"].tobytes() == reference.outputs["logits"].tobytes()


def test_a_machine_as_narrow_as_its_model(tmp_path, data):
    """On a memory with one port, as an iCE40 UP5K has it."""
    folder = compiled(tmp_path / "build", data, board="icebreaker")
    assert preset("icebreaker").narrow and Build(folder).config.plane_bits == 4
    with SimulatedBoard(folder, resident=False, single_port=True) as board:
        found = run_on_board(Build(folder), data["inputs"], board.port, baud=board.baud)
    reference = sateen.run(folder, data["inputs"], "reference")
    assert found.outputs["logits"].tobytes() == reference.outputs["logits"].tobytes()
    predicted = sateen.run(
        folder, data["inputs"], "model", latency=ON_CHIP.latency, interval=ON_CHIP.interval
    )
    assert found.cycles == predicted.cycles
    assert not any(found.counters["busy"].values()), "it has no counters"


def test_no_board(tmp_path):
    with pytest.raises(
        LinkError, match=r"port /dev/nothing: cannot be opened at 115200 baud \(.*No such file"
    ):
        Connection.open("/dev/nothing")


def test_nobody_answers():
    import os
    import pty
    import tty

    ours, terminal = pty.openpty()
    tty.setraw(terminal)
    with (
        contextlib.closing(os.fdopen(ours, "rb")),
        contextlib.closing(os.fdopen(terminal, "rb")),
        Connection.open(os.ttyname(terminal), timeout=0.1, retries=1) as link,
        pytest.raises(
            LinkError, match="IDENTIFY failed 2 times, at last with no answer, or a damaged one; check"
        ),
    ):
        link.identify()
