"""The fuzzer itself: that it finds its place again, that what it saves can be run again, and what it makes smaller."""

import json
import logging

import fuzz_check
import pytest
from four_engines import machine
from fuzz import journal_of, main
from fuzz_case import KINDS, Case, draw, fuzz_machine, load, save
from fuzz_check import Outcome, float_difference
from fuzz_shrink import shrink
from numpy.random import default_rng

import sateen
from sateen.models.random_network import random_network


def test_a_case_is_its_seed_and_survives_the_disk(tmp_path):
    for seed in range(40):
        case, model = draw(seed, 8, 0.5)
        again = draw(seed, 8, 0.5)
        assert again == (case, model)
        save(tmp_path / str(seed), case, model, "why")
        assert load(tmp_path / str(seed)) == (case, model)


def test_machines_are_of_many_kinds():
    least = {
        "weight_format": 30, "activation_format": 30, "patterns": 20, "bus_bits": 5, "queue_depth": 5, "act_banks": 4,
        "burst_beats": 7, "token_bits": 6, "rows": 3, "cols": 5, "lanes": 3,
    }  # fmt: skip
    machines = [fuzz_machine(default_rng(seed)) for seed in range(300)]
    for field, n in least.items():
        assert len({getattr(m, field) for m in machines}) >= n, field


def test_a_failure_is_made_as_small_as_it_goes():
    seed = next(s for s in range(100) if _operators(random_network(s)) >= {"MaxPool", "Concat", "Conv"})
    case = Case(seed, machine("int4", "e2m3", "tiny"), latency=50, samples=5)
    small, model = shrink(case, random_network(seed), lambda c, m: "MaxPool" in _operators(m), seconds=60)
    assert [n.op_type for n in model.graph.node] == ["MaxPool"]
    assert (small.latency, small.samples, small.config.weight_format) == (1, 1, "int8")


def test_a_wrong_import_is_told(monkeypatch):
    model, wrong = random_network(3), random_network(3)
    bias = next(w for w in wrong.graph.initializer if w.name.endswith(".bias"))
    bias.raw_data = bytes(len(bias.raw_data))
    case, network = Case(3, machine("int8", "int8")), sateen.load(wrong)
    assert float_difference(model, case.inputs(model)) == ""
    monkeypatch.setattr(sateen, "load", lambda _model: network)
    assert fuzz_check.check(case, model).kind == "float"


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_where_the_journal_ends(tmp_path, capsys, kind):
    journal = tmp_path / "j.jsonl"
    journal.write_text(json.dumps({"seed": 4, "kind": "begun"}) + "\n")
    files = ["--journal", str(journal), "--failures", str(tmp_path / "f")]
    common = [*files, "--kind", kind, "--rtl", "0", "--machines", "8"]
    assert main([*common, "--count", "4"]) == 1  # the one that had been begun and never ended
    assert [line["seed"] for line in journal_of(journal)] == [4, 5, 6, 7]
    assert "4 cases: " in (said := capsys.readouterr().out) and "1 the process died" in said
    assert logging.getLogger("sateen").isEnabledFor(logging.WARNING)  # for what runs next in this process


def test_bad_is_what_is_neither_equal_nor_refused():
    assert [Outcome(k).bad for k in ("equal", "refused", "cycles")] == [False, False, True]


def _operators(model):
    return {n.op_type for n in model.graph.node}
