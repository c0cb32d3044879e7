"""LOADs of tables behind those of weights: fewer cycles where layers of one pixel change the table, the same bits."""

import numpy as np
import pytest
from onnx_nets import Net

import sateen
from sateen.compiler.schedule import backend
from sateen.compiler.schedule.emitter import Step
from sateen.compiler.schedule.order import tables_late
from sateen.machine.assembler import Instruction
from sateen.machine.isa import Opcode, Target
from sateen.machine.presets import preset

TABLE = Step(Instruction(Opcode.LOAD, {"target": Target.TABLE}), [], [("table", 0, 1)])
WEIGHTS = Step(Instruction(Opcode.LOAD, {"target": Target.WEIGHT}), [], [("weight", 0, 8)])
MATRIX = Step(Instruction(Opcode.MATRIX), [("weight", 0, 8)], [("acc", 0, 1)])
DRAIN = Step(Instruction(Opcode.DRAIN), [("acc", 0, 1), ("table", 0, 1)], [("act", 0, 1)])
PLAIN = Step(Instruction(Opcode.DRAIN), [("acc", 0, 1)], [("act", 0, 1)])


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ([TABLE, WEIGHTS, MATRIX, DRAIN], [WEIGHTS, MATRIX, TABLE, DRAIN]),
        ([TABLE, WEIGHTS, PLAIN, DRAIN, DRAIN], [WEIGHTS, PLAIN, TABLE, DRAIN, DRAIN]),
        ([DRAIN, TABLE, WEIGHTS, MATRIX, DRAIN], [DRAIN, WEIGHTS, MATRIX, TABLE, DRAIN]),
        ([WEIGHTS, MATRIX, TABLE, DRAIN], None),
        ([WEIGHTS, MATRIX, PLAIN], None),
    ],
)
def test_order(steps, wanted):
    found = tables_late(steps)
    assert found == wanted and (found is None or all(a is b for a, b in zip(found, wanted, strict=True)))


CHANNELS = 64
CONFIG = preset("tiny").replace(rows=4, cols=4, lanes=1, group=1)


def gates():
    """Squeeze and excitation, twice."""
    net = Net()
    x = net.input(1, CHANNELS, 2, 2)
    for _ in range(2):
        y = net.conv(net("GlobalAveragePool", x), CHANNELS, CHANNELS // 4, 1, 1)
        y = net.conv(net("Mul", y, net("Sigmoid", y)), CHANNELS // 4, CHANNELS, 1, 1)
        x = net("Mul", x, net("Sigmoid", y))
    return net.output(x).model()


def test_gates_take_fewer_cycles(tmp_path, monkeypatch):
    samples = {"x": np.random.default_rng(1).normal(0, 1, (8, CHANNELS, 2, 2)).astype(np.float32)}
    quantized = sateen.load(gates()).quantize(calibration=samples, ptq="fast")
    with monkeypatch.context() as patched:
        patched.setattr(backend, "tables_late", lambda steps: None)
        before = quantized.map(CONFIG)
    after = quantized.map(CONFIG)
    assert after.cycles < before.cycles
    build = after.write(tmp_path / "build")
    one = {name: x[:1] for name, x in samples.items()}
    wanted = build.run(one, "reference")
    for engine in ("program", "rtl"):
        found = build.run(one, engine)
        assert all(v.tobytes() == found.outputs[k].tobytes() for k, v in wanted.outputs.items())
    assert found.cycles == after.cycles
