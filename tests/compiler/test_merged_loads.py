"""LOADs of neighbouring tiles in one, weights that are alike loaded once: fewer cycles, the same bits."""

import numpy as np
import pytest
from onnx_nets import Net

import sateen
from sateen.compiler.schedule import backend
from sateen.compiler.schedule.emitter import Step
from sateen.compiler.schedule.order import merged
from sateen.machine.assembler import Instruction
from sateen.machine.isa import Opcode, Target
from sateen.machine.presets import preset
from sateen.sim.memory_timing import word_bytes

CONFIG = preset("mac256")
SIZE = 16
STRIDE = SIZE * word_bytes(Target.WEIGHT, CONFIG)


def load(destination: int, source: int, words: int = SIZE, layer: int = 0) -> Step:
    fields = {"target": Target.WEIGHT, "destination": destination, "source": source, "words": words}
    writes = [("weight", destination, destination + words)]
    return Step(Instruction(Opcode.LOAD, fields, layer), [], writes)


def matrix(base: int, pixels: int = 1) -> Step:
    fields = {"weight_base": base, "out_h": 1, "out_w": pixels, "passes": 1, "channel_words": 1}
    fields |= {"kernel_h": 1, "kernel_w": 1}
    return Step(Instruction(Opcode.MATRIX, fields, 0), [("weight", base, base + SIZE)], [])


def loads(steps: list[Step]) -> list[tuple[int, int]]:
    return [
        (s.instruction.destination, s.instruction.words) for s in steps if s.instruction.opcode == Opcode.LOAD
    ]


def test_neighbours_become_one():
    steps = [load(0, 0), matrix(0), load(SIZE, STRIDE), matrix(SIZE)]
    found = merged(steps, CONFIG)
    assert found is not None and loads(found) == [(0, 2 * SIZE)]
    assert found[0].writes == [("weight", 0, SIZE), ("weight", SIZE, 2 * SIZE)]
    assert loads(steps) == [(0, SIZE), (SIZE, SIZE)], "what is given stays as it is"


@pytest.mark.parametrize(
    ("between", "second"),
    [
        (matrix(0), load(2 * SIZE, STRIDE)),  # a gap on chip
        (matrix(0), load(SIZE, 2 * STRIDE)),  # a gap in memory
        (matrix(0), load(SIZE, STRIDE, layer=1)),
        (matrix(0, 1000), load(SIZE, STRIDE)),  # the array has enough to do
        (matrix(SIZE), load(SIZE, STRIDE)),  # what is there is still read
        (matrix(0), load(SIZE, STRIDE, CONFIG.weight_depth // 4)),  # no room for the next beside it
    ],
)
def test_what_stays_apart(between, second):
    assert merged([load(0, 0), between, second], CONFIG) is None


def mlp():
    net = Net()
    x = net.input("N", 16)
    rng = np.random.default_rng(0)
    for n, (a, b) in enumerate([(16, 64), (64, 32), (32, 5)]):
        x = net("MatMul", x, net.constant(rng.normal(0, 0.2, (a, b)).astype(np.float32)))
        x = net("Relu", x) if n < 2 else x
    return net.output(x).model()


def test_one_pixel_takes_fewer_cycles(tmp_path, monkeypatch):
    samples = {"x": np.random.default_rng(1).normal(0, 1, (4, 16)).astype(np.float32)}
    quantized = sateen.load(mlp()).quantize(calibration=samples, ptq="fast")
    with monkeypatch.context() as patched:
        patched.setattr(backend, "merged", lambda steps, config: None)
        before = quantized.map("tiny")
    after = quantized.map("tiny")
    assert after.cycles < before.cycles
    build = after.write(tmp_path / "build")
    wanted = build.run(samples, "reference")
    for engine in ("program", "rtl"):
        found = build.run(samples, engine)
        assert all(v.tobytes() == found.outputs[k].tobytes() for k, v in wanted.outputs.items())
    assert found.cycles == after.cycles * len(samples["x"])


def test_tiles_of_an_average_share_their_weights():
    net = Net()
    y = net("GlobalAveragePool", net.conv(net.input(1, 3, 8, 8), 3, 64, 3, 1))
    samples = {"x": np.random.default_rng(1).normal(0, 1, (8, 3, 8, 8)).astype(np.float32)}
    quantized = sateen.load(net.output(y).model()).quantize(calibration=samples, ptq="fast")
    program = quantized.map(CONFIG.replace(depthwise=True)).program
    mine = [i for i in program.instructions if i.layer == 1]
    tiles = [i for i in mine if i.opcode in (Opcode.MATRIX, Opcode.FIR)]
    weights = [i for i in mine if i.opcode == Opcode.LOAD and i.target == Target.WEIGHT]
    assert len(tiles) > 1 and len(weights) < len(tiles)
