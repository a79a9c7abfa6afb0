from pathlib import Path
from typing import cast

import pytest
from mlflow.entities import Experiment
from mlflow.tracking import MlflowClient

from cluster.tracking import MlflowTracker, Untracked, open_run, system_metrics
from cluster.tracking_store import EXPERIMENT, TrackingError, absolute_uri, experiment_id, open_store


class FakeClient:
    """A store that counts what reaches it, and fails while it is told to."""

    def __init__(self):
        self.batches, self.status, self.is_down = [], None, False

    def log_batch(self, run_id, metrics):
        if self.is_down:
            raise ConnectionError("no route\nto host")
        self.batches.append([(metric.key, metric.value, metric.step) for metric in metrics])

    def log_artifact(self, run_id, local_path, artifact_path=None):
        if self.is_down:
            raise ConnectionError("no route")

    def log_artifacts(self, run_id, local_dir, artifact_path=None):
        raise AssertionError("no folder is kept here")

    def set_terminated(self, run_id, status=None):
        if self.is_down:
            raise ConnectionError("no route")
        self.status = status

    @property
    def metrics(self):
        own = [metric for batch in self.batches for metric in batch]
        return [metric for metric in own if not metric[0].startswith("system/")]


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("cluster.tracking.time", clock)
    return clock


def test_metrics_wait_for_two_seconds_or_for_500_of_them(clock):
    client = FakeClient()
    tracker = MlflowTracker(client, "run")
    tracker.metrics({"a": 1.0}, step=1)
    clock.now += 1.9
    tracker.metrics({"a": 2.0}, step=2)
    assert client.batches == []
    clock.now += 0.2
    tracker.metrics({"a": 3.0}, step=3)
    assert client.metrics == [("a", 1.0, 1), ("a", 2.0, 2), ("a", 3.0, 3)]
    assert len(client.batches) == 1
    for step in range(499):
        tracker.metrics({"b": 0.0}, step)
    assert len(client.batches) == 1
    tracker.metrics({"b": 0.0}, 499)
    assert len(client.batches) == 2


def test_what_waits_is_written_at_the_end(clock):
    client = FakeClient()
    tracker = MlflowTracker(client, "run")
    tracker.metrics({"a": 1.0}, step=1)
    tracker.close("KILLED")
    assert client.metrics == [("a", 1.0, 1)]
    assert client.status == "KILLED"


def test_a_store_that_comes_back_gets_everything_and_the_run_never_fails(clock, caplog):
    client = FakeClient()
    tracker = MlflowTracker(client, "run")
    client.is_down = True
    for step in range(1000):
        clock.now += 0.01
        tracker.metrics({"a": float(step)}, step)
    tracker.artifact(Path("figure.png"), "figures")
    assert caplog.text.count("metrics cannot be recorded for now, the run goes on: no route") == 1
    assert "figure.png was not stored" in caplog.text
    client.is_down = False
    clock.now += 31
    tracker.metrics({"a": 1000.0}, 1000)
    assert client.metrics == [("a", float(step), step) for step in range(1001)]
    assert max(map(len, client.batches)) <= 1000


def test_a_store_that_stays_away_costs_a_warning(clock, caplog):
    client = FakeClient()
    tracker = MlflowTracker(client, "run")
    client.is_down = True
    tracker.metrics({"a": 1.0}, 1)
    tracker.close("FINISHED")
    assert "metrics were not recorded; the run's metrics.jsonl has them" in caplog.text
    assert "could not be closed as FINISHED" in caplog.text


def test_the_load_of_the_machine_is_recorded_every_ten_seconds(clock):
    client = FakeClient()
    tracker = MlflowTracker(client, "run")
    for _ in range(21):
        tracker.metrics({"a": 0.0}, 0)
        clock.now += 1.0
    tracker.close("FINISHED")
    samples = [step for batch in client.batches for key, _, step in batch if key == "system/cpu_utilization_percentage"]
    assert samples == [0, 1, 2]
    assert system_metrics()["system/largest_process_megabytes"] > 10


def test_untracked_takes_everything_and_says_nothing():
    tracker = Untracked()
    tracker.metrics({"a": 1.0}, 0)
    tracker.artifact(Path("x"), "")
    tracker.close("FINISHED")


def test_a_new_store_is_made_with_its_artefacts_beside_it_and_a_run_is_continued_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = absolute_uri("sqlite:///runs/mlflow.db")
    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    first = MlflowTracker(*open_run(uri, "name", {f"p{i}": i for i in range(120)}, {"recipe": "x"}))
    first.metrics({"a": 1.0}, 1)
    first.artifact(_written(tmp_path / "note.txt"), "notes")
    first.close("KILLED")
    client = open_store(uri)
    assert client.get_experiment(experiment_id(client, uri)).name == EXPERIMENT
    assert (tmp_path / "runs" / "artifacts" / first.run_id / "artifacts" / "notes" / "note.txt").exists()
    second = MlflowTracker(*open_run(uri, "name", {"p0": "changed"}, {}, run_id=first.run_id))
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    second.close("FINISHED")
    run = client.get_run(first.run_id)
    assert (run.info.status, run.data.metrics["a"], run.data.tags["recipe"]) == ("FINISHED", 1.0, "x")
    assert run.data.params == {f"p{i}": str(i) for i in range(120)}
    third = MlflowTracker(*open_run(uri, "name", {}, {}, run_id="0" * 32))
    assert third.run_id != first.run_id


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "the tracking server http://127.0.0.1:9 does not answer"),
        ("https://127.0.0.1:9", "does not answer"),
        ("http://127.0.0.1:99999", "does not answer"),
        ("mysql+pymysql://me:secret@127.0.0.1:9/x", r"mysql\+pymysql://me:\*\*\*@127.0.0.1:9/x does not answer"),
        ("file:///tmp/x", "cannot be opened"),
        ("sqlite:////dev/null/x.db", "cannot be opened"),
    ],
)
def test_a_store_that_does_not_answer_is_refused_with_a_remedy(uri, message):
    with pytest.raises(TrackingError, match=message) as refusal:
        open_store(uri)
    assert "--tracking-uri" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def _written(path: Path) -> Path:
    path.write_text("note")
    return path


class Experiments:
    """A store that knows the experiment from its second question on, or only after somebody else made it."""

    def __init__(self, *answers: Experiment | None):
        self._answers = list(answers)

    def get_experiment_by_name(self, name):
        return self._answers.pop(0)

    def create_experiment(self, name, **how):
        raise ConnectionError("it exists already")


def experiment(stage: str) -> Experiment:
    return Experiment("7", EXPERIMENT, "/", stage)


def test_an_experiment_that_another_run_makes_at_the_same_moment_is_taken():
    client = cast(MlflowClient, Experiments(None, experiment("active")))
    assert experiment_id(client, "http://tracking:5000") == "7"
    with pytest.raises(ConnectionError, match="it exists already"):
        experiment_id(cast(MlflowClient, Experiments(None, None)), "http://tracking:5000")


def test_an_experiment_that_somebody_deleted_is_named_with_its_store_and_without_a_password():
    deleted = cast(MlflowClient, Experiments(experiment("deleted")))
    with pytest.raises(TrackingError, match=r"was deleted in http://mcb:\*\*\*@tracking:5000: restore it there, or"):
        experiment_id(deleted, "http://mcb:s3cret@tracking:5000")
