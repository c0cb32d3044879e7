"""ONNX's libraries in a second process: its death is an error message, and the next file gets another process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_nets import Net

from sateen.compiler.importer import check_model, import_model, isolated, isolated_worker, loading
from sateen.errors import ModelError


def simple() -> onnx.ModelProto:
    net = Net()
    model = net.output(net("Relu", net.input("N", 4))).model()
    model.graph.output[0].type.tensor_type.shape.SetInParent()  # the checker wants one
    return model


def too_large_window() -> onnx.ModelProto:
    """ONNX 1.23's shape inference gives the Conv a negative size, at which its Slice fails an assertion."""
    net = Net()
    x = net("Conv", net.input(1, 1, 3, 3), net.random(1, 1, 5, 5))
    ends = [net.constant([v], np.int64) for v in (0, 1, 2)]
    return net.output(net("Slice", x, *ends)).model()


@pytest.fixture
def broken(monkeypatch):
    """A process that dies at every request."""

    def die(*_):
        isolated.start()
        os.kill(isolated._worker.process.pid, signal.SIGKILL)
        return isolated_call("check", b"")

    isolated_call = isolated.call
    monkeypatch.setattr(isolated, "call", die)


def test_the_library_may_abort():
    conv, sliced = check_model(too_large_window())
    assert not conv.supported and "window of 5 does not fit" in conv.reason
    assert "not checked" in sliced.reason


def test_operations():
    data = simple().SerializeToString()
    assert isolated.call("check", data) == b""
    assert onnx.load_model_from_string(isolated.call("infer", data)).graph.node[0].op_type == "Relu"
    with pytest.raises(isolated.ForeignError, match=r"no ONNX|parsing|Unable"):
        isolated.call("check", b"no ONNX")


def test_a_dead_process_is_named_and_replaced():
    isolated.start()
    os.kill(isolated._worker.process.pid, signal.SIGKILL)
    with pytest.raises(isolated.Died, match="SIGKILL"):
        isolated.call("check", simple().SerializeToString())
    assert isolated.call("check", simple().SerializeToString()) == b""


def test_what_it_wrote_last_is_told(monkeypatch):
    isolated._ended()
    monkeypatch.setattr(
        isolated, "BOOT", "import os; os.write(2, b'lib.h:7: assertion failed\\n'); os.abort()"
    )
    try:
        with pytest.raises(isolated.Died, match=r"SIGABRT: lib\.h:7: assertion failed"):
            isolated.call("check", simple().SerializeToString())
    finally:
        isolated._ended()


def test_the_checker_may_die(broken):
    with pytest.raises(ModelError, match=r"checker broke down on it \(SIGKILL\)"):
        import_model(simple())


def test_the_simplifier_may_die(broken):
    light = loading.prepare(simple())
    assert [n.op_type for n in light.model.graph.node] == ["Relu"]


def test_an_interrupt_ends_the_process(monkeypatch):
    isolated.start()
    worker = isolated._worker

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        isolated.call("check", b"")
    assert worker.process.poll() is not None and isolated._worker is None


def test_without_a_second_process(monkeypatch):
    isolated._ended()

    def refuse(*_, **__):
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert isolated.call("check", simple().SerializeToString()) == b""
    with pytest.raises(isolated.ForeignError):
        isolated.call("check", b"no ONNX")
    assert len(import_model(simple()).nodes) == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_it_ends_with_its_parent():
    """Killed, not closed: the process sees the end of its input."""
    code = "import os; from sateen.compiler.importer import isolated as i; i.start()"
    code += "; print(i._worker.process.pid, flush=True)"
    code += "; os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    for _ in range(300):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":  # ended, though nobody has asked how
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} is still there")


def test_operations_are_those_of_the_module():
    assert set(isolated_worker.OPERATIONS) == {"check", "inline", "infer", "slim"}
