"""Local workers, and the journal that they would wait for."""

import os

import pytest

from sateen.explorer import workers
from sateen.explorer.journal import Journal

optuna = pytest.importorskip("optuna")
pytest.importorskip("distributed")


def test_the_journal_is_optunas(tmp_path):
    """What either backend writes, the other goes on from."""
    path = tmp_path / "journal.log"
    backends = (Journal(path), optuna.storages.journal.JournalFileBackend(str(path)), Journal(path))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for count, backend in enumerate(backends):
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
        assert [t.params["x"] for t in study.trials] == list(range(count))
        study.enqueue_trial({"x": count})
        trial = study.ask({"x": optuna.distributions.IntDistribution(0, 9)})
        study.tell(trial, 1.0)
    assert not list(tmp_path.glob("*.lock*"))


def test_a_local_worker_keeps_memory_and_has_one_thread(monkeypatch):
    """As this process does by default: neither what Dask sets nor a thread's arena gives it back at once."""
    monkeypatch.delenv(
        "MALLOC_TRIM_THRESHOLD_", raising=False
    )  # an earlier cluster's, which its nanny leaves here
    with workers.pool({"any": "task"}, 2, None) as pool:
        found = pool._client.run(lambda: dict(os.environ))
    assert len(found) == pool.slots == 2
    for environment in found.values():
        assert "MALLOC_TRIM_THRESHOLD_" not in environment
        assert environment["MALLOC_ARENA_MAX"] == environment["OMP_NUM_THREADS"] == "1"
