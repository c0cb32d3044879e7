"""Steps of training as programs: all passes and the update equal to the reference, in the interpreter and in RTL."""

from __future__ import annotations

import json

import pytest
from training_nets import samples

import sateen
from sateen.compiler.training import machine
from sateen.errors import SateenError
from sateen.machine.isa import UNITS
from sateen.machine.presets import preset

TINY = preset("train256").replace(
    name="train4", rows=2, cols=2, group=4, patterns=("dense", "1:2", "2:4"), transpose_words=2, update_lanes=1,
    act_banks=4, act_bank_depth=512, weight_depth=512, acc_depth=64, parameter_depth=64, vector_lanes=2, bus_bits=64,
    queue_depth=4, burst_beats=16, outstanding=4,
)  # fmt: skip


def steps(files, **more):
    x, labels = samples()
    options = {
        "sparsity": "2:4",
        "batch": 4,
        "engine": "program",
        "machine": TINY,
        "epochs": 3,
    }
    return sateen.train(files / "net.onnx", files / "run", {"x": x}, labels, **options | more)


@pytest.mark.parametrize("method", ["bdwp", "dense"])
@pytest.mark.parametrize("fmt", ["int8", "e4m3fn"])
def test_steps_as_programs_are_the_reference(files, method, fmt):
    machine = TINY.replace(act_bank_depth=2048) if fmt != "int8" else TINY
    found = steps(
        files,
        steps=2,
        method=method,
        weights=fmt,
        activations=fmt,
        gradients=fmt,
        machine=machine,
        scratch=True,
    )
    assert found["equal"] and found["differences"] == [{}, {}]
    cycles = found["cycles"]
    assert min(cycles[kind] for kind in ("ff", "bp", "wu", "update")) > 0
    assert cycles["total"] == sum(cycles[kind] for kind in ("ff", "bp", "wu", "update"))
    assert "conv3" in cycles["layers"]["bp"] and "conv1" in cycles["layers"]["wu"]


@pytest.mark.parametrize(
    ("fmt", "gradients"), [("e4m3fn", "e5m2"), ("int8", "e4m3fn"), ("e4m3fn", "int8"), ("int4", "e2m1")]
)
def test_gradients_in_a_format_of_their_own(files, fmt, gradients):
    machine = TINY.replace(act_bank_depth=2048)
    found = steps(
        files, steps=2, weights=fmt, activations=fmt, gradients=gradients, machine=machine, scratch=True,
        rate=0.02 if fmt != "int4" else 0.0002,
    )  # fmt: skip
    assert found["equal"] and found["differences"] == [{}, {}]


def test_a_trace_shows_the_passes_apart(files, tmp_path):
    """A track for each pass, whose layers fill it as long as `cycles` counts; instructions know theirs."""
    path = tmp_path / "step.json"
    counted = steps(files, trace=path)["cycles"]
    events = json.loads(path.read_text())["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert list(tracks.values()) == [*machine.PASSES, *UNITS]
    slices = [e for e in events if e["ph"] == "X"]
    layers = [e for e in slices if tracks[e["tid"]] in machine.PASSES]
    assert max(e["ts"] + e["dur"] for e in slices) <= counted["total"]
    for kind in machine.PASSES:
        mine = {e["name"] for e in layers if tracks[e["tid"]] == kind}
        assert mine == {name for name, n in counted["layers"][kind].items() if n}
        assert {
            e["args"]["layer"] for e in slices if e["args"].get("pass") == kind and "layer" in e["args"]
        } >= mine
    opcodes = {
        kind: {e["name"].split()[0] for e in slices if e["args"].get("pass") == kind}
        for kind in machine.PASSES
    }
    assert "OUTER" in opcodes["wu"] and "OUTER" not in opcodes["bp"] | opcodes["ff"]
    assert "UPDATE" in opcodes["update"] and "MOVE" in opcodes["bp"] & opcodes["ff"]
    with pytest.raises(SateenError, match=r"trace .*: a step's time needs a machine"):
        steps(files, trace=path, machine=None)


def test_few_channels_take_fewer_passes_in_short_groups(files):
    """conv2 and conv3 read 8 channels in words of 16: two elements of a row instead of four; gemm reads 16."""
    large = TINY.replace(rows=4)
    found = [
        steps(files, machine=large.replace(short_groups=on), steps=1, scratch=True) for on in (True, False)
    ]
    assert all(f["equal"] for f in found)
    short, whole = (f["cycles"]["layers"]["wu"] for f in found)
    for layer in ("conv2", "conv3"):
        assert short[layer] < 0.8 * whole[layer]
    assert short["gemm"] == pytest.approx(whole["gemm"], rel=0.1)


def test_sparse_steps_take_fewer_cycles(files):
    sparse, dense = (
        steps(files, method=m, sparsity="2:4", scratch=True)["cycles"] for m in ("bdwp", "dense")
    )
    assert sparse["ff"] < dense["ff"]
    assert sparse["bp"] < dense["bp"]
    assert abs(sparse["wu"] - dense["wu"]) < 0.01 * dense["wu"]  # of dense gradients both times


@pytest.mark.rtl
@pytest.mark.parametrize(("fmt", "gradients"), [("int8", "int8"), ("e4m3fn", "e5m2")])
def test_steps_in_rtl(files, fmt, gradients):
    machine = TINY if fmt == gradients else TINY.replace(act_bank_depth=2048)
    formats = {"weights": fmt, "activations": fmt, "gradients": gradients}
    found = steps(files, engine="rtl", steps=2, scratch=True, machine=machine, **formats)
    assert found["equal"] and found["cycles"]["rtl"] == found["cycles"]["total"]


def test_a_difference_is_found(files, monkeypatch):
    """A code that arrives as another one, and what comes of it."""
    unpacked = machine.unpacked

    def wrong(*given):
        found = unpacked(*given)
        if "r2" in found:
            found["r2"].flat[0] ^= 1
        return found

    monkeypatch.setattr(machine, "unpacked", wrong)
    found = steps(files)
    assert not found["equal"]
    different = found["differences"][0]
    assert different["ff conv2: r2"] == 1
    assert "wu conv3: dw conv3" in different and "update conv3 weights" in different
    assert not any("gemm" in what for what in different)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"machine": TINY.replace(pruned_decay=False)}, "pruned_decay = false, and the update of 'conv2'"),
        ({"weights": "e4m3fn"}, "formats e4m3fn, int8, int8: a machine has one"),
        ({"gradients": "e3m2"}, "formats int8, int8, e3m2: .* gradients have as many bits"),
        ({"method": "sr-ste"}, "use --method bdwp"),
        ({"engine": "board"}, "unknown engine 'board' of training"),
        ({"machine": TINY.replace(update=False, pruned_decay=False)}, "update = false"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_what_a_machine_cannot_do_is_told(files, more, match):
    with pytest.raises(SateenError, match=match):
        steps(files, **more)


def test_training_counts_the_cycles_of_a_step(files):
    found = steps(files, engine="reference", epochs=1, build=False)
    assert found["cycles"]["total"] > 0 and not found["cycles_note"]
    assert "Cycles of a step" in (files / "run" / "report.html").read_text()
    other = sateen.train(
        files / "net.onnx", files / "other", {"x": samples()[0]}, samples()[1], gradients="e3m2", epochs=1, batch=8,
        build=False, sparsity="2:4",
    )  # fmt: skip
    assert other["cycles"] is None
    assert "a machine has one for weights" in other["cycles_note"]
