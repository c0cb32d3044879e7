"""What a waveform shows of the program: every instruction once, layers in their order, and views that name signals."""

import numpy as np
import pytest

import sateen
from sateen.machine.isa import UNITS, Opcode
from sateen.models.data import digits_split
from sateen.sim import waveform
from sateen.sim.engines import Build
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.model import predict


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    from importlib.resources import files

    folder = tmp_path_factory.mktemp("waveform") / "build"
    samples = {"input": digits_split().x_train[:8]}
    sateen.compile(
        str(files("sateen.models") / "digits_cnn.onnx"), folder, calibration=samples, preset="tiny"
    )
    return Build(folder)


@pytest.mark.parametrize("memory", [MemoryTiming(32), MemoryTiming(100, 3)])
def test_every_instruction_is_there_once(build, memory):
    lines = [line.split(" ") for line in waveform.events(build, memory).splitlines()]
    timeline = predict(build.read("program.bin"), build.memory["program_offset"], build.config, memory)
    of = {
        key: [rest for k, *rest in lines if k == key] for key in ("unit", "opcode", "layer", "event", "span")
    }
    assert [name for (name,) in of["unit"]] == list(UNITS)
    events = np.array(of["event"], int)
    assert len(events) == len(timeline.events) + 1
    for unit in range(len(UNITS)):
        mine = events[events[:, 0] == unit]
        assert (mine[1:, 1] > mine[:-1, 2]).all()  # one after the other
        assert (mine[:, 2] - mine[:, 1] + 1).sum() == timeline.counters()["busy"][UNITS[unit]]
    opcodes = [name for (name,) in of["opcode"]]
    assert {opcodes[n - 1] for n in events[:, 3]} <= {o.name for o in Opcode}
    layers = [name for (name,) in of["layer"]]
    assert layers[0] == "program" and layers[1:] == [row["name"] for row in build.schedule["layers"]]
    assert events[:, 4].min() == 1 and events[:, 4].max() == len(layers)
    spans = np.array(of["span"], int)
    assert spans[0, 0] == 0 and (np.diff(spans[:, 0]) > 0).all() and (np.diff(spans[:, 1]) > 0).all()


def test_views_name_the_signals(tmp_path):
    paths = waveform.write_views(tmp_path / "run.fst")
    gtkwave, surfer = (p.read_text() for p in paths)
    assert [p.name for p in paths] == ["run.gtkw", "run.sucl"]
    assert f'[dumpfile] "{tmp_path / "run.fst"}"' in gtkwave
    for unit in UNITS:
        assert f"program.{unit}_opcode[15:0]" in gtkwave and f"variable_add program.{unit}_layer\n" in surfer
