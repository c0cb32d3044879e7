"""A study from its options to a build: exact metrics, going on, and what is refused."""

import html
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import sateen
from sateen.errors import BuildError, ConfigError, DataError
from sateen.explorer import search, workers
from sateen.explorer.evaluate import Evaluator, score
from sateen.explorer.search import parse_budget, read_study

MODEL = Path(__file__).resolve().parents[2] / "models/digits_cnn.onnx"
SPACE = {
    "preset": "tiny", "weight_format": ["int4", "int8"], "activation_format": ["int4", "int8"], "cols": [2, 4],
    "act_bank_depth": 1024,
}  # fmt: skip
"""Small enough to be searched in full."""


@pytest.fixture
def given(digits):
    """What every study here is given."""
    calibration, data, labels = digits
    return {"calibration": calibration, "data": data, "labels": labels, "space": SPACE}


@pytest.fixture(scope="module")
def explored(digits, tmp_path_factory):
    """The whole small space, with limits that some of it keep."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    calibration, data, labels = digits
    found = sateen.explore(
        MODEL, folder, calibration=calibration, data=data, labels=labels, space=SPACE, trials=100,
        sampler="exhaustive", limits={"drop": 1.0}, objectives="fps,lut,accuracy",
    )  # fmt: skip
    return folder, found


def test_the_space_is_searched_in_full(explored):
    folder, found = explored
    rows = pyarrow.parquet.read_table(folder / "results.parquet").to_pylist()
    assert (
        found["trials"] == 8 == len({(r["weight_format"], r["activation_format"], r["cols"]) for r in rows})
    )
    assert [m["index"] for m in found["front"]] == list(range(len(found["front"])))
    assert [m["fps"] for m in found["front"]] == sorted((m["fps"] for m in found["front"]), reverse=True)
    on_front = {r["front"] for r in rows} - {None}
    assert on_front == {m["index"] for m in found["front"]}
    assert all(m["drop"] <= 1.0 for m in found["front"])


def test_a_member_is_what_its_build_measures(explored, digits, tmp_path):
    """Cycles, accuracy and estimates are those of the build that --pick writes, and of the compile command."""
    folder, found = explored
    member = found["front"][-1]
    manifest = sateen.pick(folder, member["index"], tmp_path / "build")
    estimated = sateen.estimate(tmp_path / "build", "ecp5")["devices"]["ecp5"]
    assert manifest["cycles"] == member["cycles"]
    assert {k: estimated["total"][k] for k in ("lut", "ff", "dsp", "bram")} == {
        k: member[k] for k in ("lut", "ff", "dsp", "bram")
    }
    assert estimated["clock"]["mhz"]["6"] == member["clock"]
    assert member["fps"] == pytest.approx(1e6 * member["clock"] / member["cycles"])
    with np.load(digits[1]) as data, np.load(digits[2]) as labels:
        outputs = sateen.run(tmp_path / "build", {"input": data["input"]}).outputs
        right = next(iter(outputs.values())).reshape(500, -1).argmax(1) == labels["labels"]
    assert 100 * right.mean() == pytest.approx(member["accuracy"])
    assert sateen.AcceleratorConfig.load(member["toml"]).rows == member["configuration"]["rows"]
    assert f"--config {member['toml']}" in member["command"]


def test_the_same_command_goes_on_and_repeats_nothing(given, tmp_path, monkeypatch):
    measured = []
    original = Evaluator.measure
    monkeypatch.setattr(
        Evaluator, "measure", lambda self, c, f=(): measured.append(c.key) or original(self, c, f)
    )
    first = sateen.explore(MODEL, tmp_path / "study", **given, trials=3)
    again = sateen.explore(MODEL, tmp_path / "study", **given, trials=5)
    assert (first["trials"], again["trials"], len(measured), len(set(measured))) == (3, 5, 5, 5)
    sateen.explore(MODEL, tmp_path / "study", **given, trials=30)
    assert len(set(measured)) == 8 == len(measured)  # all there are
    assert set(again["importances"]) <= {"fps", "lut", "accuracy"}


def test_an_interrupt_keeps_what_is_done_and_begins_the_last_anew(given, tmp_path, monkeypatch):
    original, calls = Evaluator.measure, []

    def interrupted(self, candidate, front=()):
        calls.append(candidate.key)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, candidate, front)

    monkeypatch.setattr(Evaluator, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sateen.explore(MODEL, tmp_path / "study", **given, trials=8)
    assert len(read_study(tmp_path / "study")[0].trials) == 2
    assert pyarrow.parquet.read_table(tmp_path / "study/results.parquet").num_rows == 2
    found = sateen.explore(MODEL, tmp_path / "study", **given, trials=4)
    assert found["trials"] == 4 and calls[3] == calls[2]


def test_what_misses_a_limit_cheaply_is_not_quantized(given, tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluator, "network", lambda self, candidate: pytest.fail("quantized"))
    with pytest.raises(
        ConfigError, match=r"none of 8 candidates keeps the limits lut=900; the nearest, trial \d+, has"
    ):
        sateen.explore(MODEL, tmp_path / "study", **given, trials=8, limits={"lut": 900})
    assert {t.state for t in read_study(tmp_path / "study")[0].trials} == {"limit"}


def test_a_drop_that_nothing_keeps_is_said_from_a_part_of_the_data(given, tmp_path):
    with pytest.raises(ConfigError, match=r"limits drop=-50; .* drop -?[\d.e-]+, .* which misses drop"):
        sateen.explore(MODEL, tmp_path / "study", **given, trials=1, limits={"drop": -50})


def test_samplers_find_the_front_of_a_small_space(explored, given, tmp_path):
    _, whole = explored
    for sampler in ("auto", "tpe", "nsga2", "random"):
        options = {"sampler": sampler, "limits": {"drop": 1.0}, "objectives": "fps,lut,accuracy"}
        found = sateen.explore(MODEL, tmp_path / sampler, **given, **options, trials=8)
        key = [(m["fps"], m["lut"], m["accuracy"]) for m in whole["front"]]
        assert [(m["fps"], m["lut"], m["accuracy"]) for m in found["front"]] == key, sampler


def test_a_board_sets_limits_memory_and_clock(given, tmp_path):
    space = {k: v for k, v in SPACE.items() if k != "preset"}
    found = sateen.explore(
        MODEL, tmp_path / "study", **given | {"space": space | {"cols": 1}}, device="icebreaker", trials=2,
        objectives="fps", limits={"lut": 9000, "bram": 90},
    )  # fmt: skip
    (member,) = found["front"][:1]
    assert (member["clock"], member["latency"]) == (24.0, 4)
    assert found["limits"] == {"lut": 9000, "bram": 90, "ff": 5280, "dsp": 8}
    assert member["command"].endswith("--board icebreaker")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"limits": {"lut": 1000000}}, "was made for another set of limits"),
        ({"objectives": "lut"}, "was made for another list of objectives"),
        ({"device": "xcup", "clock": 100.0}, "was made for another device"),
        ({"sparsity_method": "magnitude"}, "was made for another way to prune"),
        ({"space": {"cols": [2, 4]}}, "was made for another space"),
    ],
)
def test_another_study_is_refused(explored, given, changed, message):
    folder, _ = explored
    same = given | {"limits": {"drop": 1.0}, "objectives": "fps,lut,accuracy", "trials": 2}
    with pytest.raises(ConfigError, match=message):
        sateen.explore(MODEL, folder, **same | changed)


def test_another_model_or_version_is_refused(explored, given):
    folder, _ = explored
    same = given | {"limits": {"drop": 1.0}, "objectives": "fps,lut,accuracy", "trials": 2}
    with pytest.raises(ConfigError, match="was made for another model"):
        sateen.explore(MODEL.with_name("digits_dscnn.onnx"), folder, **same)
    path = folder / "study.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {"sateen": "0.0.1"}))
    try:
        with pytest.raises(ConfigError, match=r"is of sateen 0\.0\.1, and this is"):
            sateen.explore(MODEL, folder, **same)
    finally:
        path.write_text(text)


def test_what_is_refused_at_once(given, tmp_path):
    study = tmp_path / "study"
    for changed, error, message in (
        ({"labels": np.arange(3)}, DataError, r"labels: are int64 \(3,\)"),
        ({"data": None}, DataError, "labels are given without data"),
        ({"device": "zynq"}, ConfigError, "unknown device 'zynq'"),
        ({"device": "xcup"}, ConfigError, "give --clock MHZ"),
        ({"scheduler": "tcp://127.0.0.1:1"}, ConfigError, "scheduler tcp://127.0.0.1:1: cannot be reached"),
        ({"storage": "nonsense://x"}, ConfigError, "storage nonsense://x: cannot be opened"),
        ({"trials": 0}, ConfigError, "trials = 0; it must be at least 1"),
        ({"budget": "soon"}, ConfigError, "budget 'soon'"),
        ({"synthesize": -1}, ConfigError, "synthesize = -1; it must be at least 0"),
        ({"per_layer": -1}, ConfigError, "per_layer = -1; it must be at least 0"),
        ({"clock": -5.0}, ConfigError, "clock = -5 MHz; it must be above 0"),
    ):
        workers.CONNECT_S, before = 1, workers.CONNECT_S
        try:
            with pytest.raises(error, match=message):
                sateen.explore(MODEL, study, **given | {"trials": 1} | changed)
        finally:
            workers.CONNECT_S = before
    with pytest.raises(ConfigError, match="is no study and not empty"):
        sateen.explore(MODEL, MODEL.parent, **given, trials=1)


def test_the_page_has_everything_in_it(explored):
    _, found = explored
    page = Path(found["page"]).read_text()
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="?http', page)  # offline
    assert "Plotly.newPlot" in page and page.count("TOML, command") == len(found["front"])
    for member in found["front"]:
        assert html.escape(member["command"]) in page
        assert f"{member['cycles']:,}" in page


def test_a_pick_beyond_the_front(explored, tmp_path):
    with pytest.raises(ConfigError, match="has no member 99 on its front; there are 0 to"):
        sateen.pick(explored[0], 99, tmp_path / "build")


def test_scores_against_labels_and_against_the_float_network():
    expected = np.eye(4)
    found = expected[[0, 1, 3, 3]]
    alone = score(found, expected, None)
    assert (alone["agreement"], alone["drop"], alone["sqnr"]) == (
        75.0,
        25.0,
        pytest.approx(10 * np.log10(4 / 2)),
    )
    with_labels = score(found, expected, np.array([0, 1, 3, 0]))
    assert (with_labels["float"], with_labels["accuracy"], with_labels["drop"]) == (50.0, 75.0, -25.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("2h", 7200), ("5", 5), ("1.5m", 90)]
)
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds


def test_a_missing_library_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"needs optuna .* pip install 'sateen\[explore\]'"):
        search.quiet_optuna()


def test_a_worker_that_is_killed_costs_its_candidate_nothing_but_time(given, tmp_path):
    """On a cluster that runs already, a process that is busy is killed: every candidate is measured once."""
    distributed = pytest.importorskip("distributed")
    killed = []
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):

        def kill(stage, fraction):
            if killed or not fraction:
                return
            pids = client.run(os.getpid)
            busy = [pids[worker] for worker, tasks in client.processing().items() if tasks and worker in pids]
            if busy:
                os.kill(busy[0], signal.SIGKILL)
                killed.extend(busy[:1])

        found = sateen.explore(
            MODEL, tmp_path / "study", **given, trials=6, scheduler=cluster.scheduler_address, progress=kill
        )  # fmt: skip
    assert killed and found["trials"] == 6 == found["states"]["measured"]
    keys = [t.candidate.key for t in read_study(tmp_path / "study")[0].trials]
    assert len(set(keys)) == 6


def test_counts_stand_beside_estimates(given, tmp_path, monkeypatch):
    """What synthesis finds has columns of its own; why it found nothing is said, and neither is asked for again."""
    total, calls = {"lut": 4321, "ff": 1234, "dsp": 5, "bram": 6.5, "carry": 7}, []

    def cost(build, device):
        calls.append(json.loads((build / "manifest.json").read_text())["cycles"])
        if len(calls) == 2:
            raise BuildError("yosys broke")
        return {"devices": {device: {"total": total, "tool": "yosys 1"}}}

    monkeypatch.setattr("sateen.hardware.cost", cost)
    options = given | {"trials": 8, "sampler": "exhaustive", "synthesize": 2}
    found = sateen.explore(MODEL, tmp_path / "study", **options)
    first, second, *others = found["front"]
    assert calls == [first["cycles"], second["cycles"]]
    assert first["counted"] == {"lut": 4321, "ff": 1234, "dsp": 5, "bram": 6.5, "tool": "yosys 1"}
    assert first["lut"] != 4321 and second["counted"] == {"reason": "yosys broke"}
    assert all(m["counted"] is None for m in others)
    page = Path(found["page"]).read_text()
    assert "lut, synthesized" in page and "4,321" in page and "Not counted: yosys broke" in page
    sateen.explore(MODEL, tmp_path / "study", **options)
    assert len(calls) == 2


def test_channels_are_an_axis(given, tmp_path):
    space = SPACE | {"weight_format": "int8", "activation_format": "int8", "cols": 4, "channels": [1.0, 0.6]}
    found = sateen.explore(
        MODEL,
        tmp_path / "study",
        sampler="exhaustive",
        trials=10,
        objectives="fps,accuracy",
        **given | {"space": space},
    )
    assert found["trials"] == 2
    member = found["front"][0]
    assert member["channels"] == 0.6 and "--channels 0.6" in member["command"]
    whole = pyarrow.parquet.read_table(tmp_path / "study/results.parquet").to_pylist()[0]
    assert whole["channels"] == 1.0 and member["cycles"] < 0.75 * whole["cycles"]
    manifest = sateen.pick(tmp_path / "study", 0, tmp_path / "build")
    assert manifest["cycles"] == member["cycles"]
    found = sateen.open(tmp_path / "build").run(given["data"], labels=given["labels"])
    assert found.accuracy["correct"] / found.accuracy["samples"] == pytest.approx(member["accuracy"] / 100)
    with pytest.raises(ConfigError, match=r"channels = 0: .*above 0 and at most 1"):
        sateen.explore(MODEL, tmp_path / "no", trials=1, **given | {"space": space | {"channels": [0]}})
