import io
import json

import pytest
from rich.console import Console

from cluster.plan import StepRecord
from jobs.runs.step_log import StepLog, read_steps, step_metrics
from jobs.training.progress import Average, TrainingProgress


class Notebook:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.told = []

    def metrics(self, values, step):
        self.told.append((step, dict(values)))

    def artifact(self, path, folder):
        raise AssertionError("not told here")

    def close(self, status):
        raise AssertionError("not told here")


def record(version: int, nll: float = 0.0) -> StepRecord:
    return StepRecord(
        version=version,
        num_tasks=10,
        loss=nll,
        nll=nll,
        squared_error=2 * nll,
        per_mode={"linear": {"nll": nll, "squared_error": 3 * nll, "count": 5}},
        gradient_norm=1.0,
        learning_rate=0.1,
        tasks_per_s=100.0,
        step_s=0.1,
        compute_s=0.08,
        communication_s=0.02,
        staleness_mean=0.0,
        staleness_max=0,
        refused=0,
    )


def test_every_step_is_in_the_file_and_windows_of_them_in_the_store(tmp_path):
    notebook = Notebook()
    with StepLog(tmp_path / "steps.jsonl", notebook, num_steps=1500) as log:
        for version in range(1, 9):
            log.add(record(version, nll=float(version)))
    rows = read_steps(tmp_path / "steps.jsonl")
    assert [(row["step"], row["train/nll"], row["train/linear/mse"]) for row in rows] == [
        (version, version, 3 * version) for version in range(1, 9)
    ]
    assert [(step, values["train/nll"]) for step, values in notebook.told] == [(3, 2.0), (6, 5.0), (8, 7.5)]


def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path):
    path = tmp_path / "steps.jsonl"
    with StepLog(path, Notebook(), num_steps=4) as log:
        for version in (1, 2, 3):
            log.add(record(version, nll=1.0))
    with path.open("a") as file:
        file.write('{"step": 4, "tra')  # cut off by a crash
    with StepLog(path, Notebook(), num_steps=4) as log:
        for version in (3, 4):
            log.add(record(version, nll=2.0))
    assert [(row["step"], row["train/nll"]) for row in read_steps(path)] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_a_value_that_is_not_finite_is_left_out(tmp_path):
    assert "train/nll" not in step_metrics(record(1, nll=float("nan")))
    with StepLog(tmp_path / "steps.jsonl", Notebook(), num_steps=1) as log:
        log.add(record(1, nll=float("inf")))
    assert "Infinity" not in (tmp_path / "steps.jsonl").read_text()
    json.loads((tmp_path / "steps.jsonl").read_text())


def test_what_the_server_did_is_on_record():
    values = step_metrics(record(1)._replace(queue_length=3, refused_pushes=2, repeats=1, num_bytes=2_500_000))
    server = {name.removeprefix("server/"): value for name, value in values.items() if name.startswith("server/")}
    assert server == {"queue_length": 3, "refused_pushes": 2, "repeats": 1, "megabytes": 2.5, "waiting_s": 0}


def test_an_average_of_a_constant_is_the_constant_from_the_start():
    average = Average(span=10)
    for _ in range(3):
        average.add(4.0)
        average.add(float("nan"))
        assert average.value == pytest.approx(4.0)


def test_progress_is_plain_lines_where_there_is_no_terminal():
    screen = io.StringIO()
    with TrainingProgress(Console(file=screen, width=200), num_steps=3) as progress:
        for version in (1, 2, 3):
            progress.update(record(version, nll=0.5))
    assert screen.getvalue().splitlines() == [
        "step 1/3  100 tasks/s  NLL 0.500  MSE 1.000  0:00 left",
        "step 3/3  100 tasks/s  NLL 0.500  MSE 1.000  0:00 left",
    ]


def test_progress_on_a_terminal_shows_the_step_and_the_scores():
    screen = io.StringIO()
    with TrainingProgress(Console(file=screen, width=200, force_terminal=True), num_steps=3) as progress:
        progress.update(record(2, nll=0.5))
    assert "2/3" in screen.getvalue()
    assert "NLL 0.500" in screen.getvalue()
