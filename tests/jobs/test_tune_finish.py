"""How a search ends once its trials are over, without Ray: interrupted, or with nothing to show."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console
from tiny_runs import TINY
from tiny_searches import report

from jobs.arguments import TuneOptions
from jobs.cli import main
from jobs.runs.folder import write_json
from jobs.search import best, checks, tune
from jobs.search.search import find_search, save
from jobs.search.trials import Trial, Trials
from jobs.settings.overrides import split
from jobs.settings.recipes import recipe
from jobs.training.job import Job


@pytest.fixture
def over(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a search whose trials are over; its folder comes back."""
    monkeypatch.setattr(tune, "ray_cluster", lambda *where: nullcontext())
    monkeypatch.setattr(checks.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])

    def make(*trials: Trial) -> Path:
        options = TuneOptions("two-modes", name="over", num_reports=2, num_trials=len(trials), num_seeds=2)
        found = find_search(options, recipe("two-modes"), split([*TINY])[0])
        save(found)
        for trial in trials:
            Trials(found.trials).put(trial)
        return found.folder

    return make


def status(workplace: Path, folder: Path) -> str:
    """What MLflow says of the search."""
    run_id = json.loads((folder / "run.json").read_text())["run_id"]
    return MlflowClient(f"sqlite:///{workplace / 'runs' / 'mlflow.db'}").get_run(run_id).info.status


def test_a_search_interrupted_while_the_best_settings_are_trained_again_keeps_what_it_has(
    workplace: Path, over: Callable[..., Path], capsys, monkeypatch: pytest.MonkeyPatch
):
    trials = [
        Trial(number=n, point={"modes.num_modes": 2 + n}, state="finished", reports=(report(4, n),)) for n in (0, 1)
    ]
    folder = over(*trials)
    trained: list[Job] = []
    ends = [None, KeyboardInterrupt(), None]

    def run(console: Console, job: Job, **how: object) -> None:
        trained.append(job)
        stop = ends.pop(0)
        if stop is not None:
            raise stop
        write_json(job.folder.result, {"run_id": "r", "evaluation": {"nll": 0.5, "nll_ci": 0.1}})

    monkeypatch.setattr(best, "run_job", run)
    assert main(["tune", "--resume", "--name=over", "--json=s.json"]) == 130
    message = capsys.readouterr().err
    assert message == f"interrupted; what was done is saved, go on with\n  mcb tune --resume --out {folder}\n"
    assert status(workplace, folder) == "KILLED"
    assert json.loads((workplace / "s.json").read_text())["best"]["trial_id"] == "trial-0000"
    assert (folder / "best.yaml").exists() and (folder / "summary" / "leaderboard.csv").exists()

    assert main(["tune", "--resume", "--name=over", "--json=s.json"]) == 0
    assert status(workplace, folder) == "FINISHED"
    assert [job.settings.seed for job in trained] == [1, 2, 2]
    assert json.loads((workplace / "s.json").read_text())["test_nll"] == 0.5
    assert [(t.point, t.reports) for t in Trials(folder / "trials")] == [(t.point, t.reports) for t in trials]


def test_a_search_without_a_result_says_why_and_writes_its_trials(workplace: Path, over: Callable[..., Path], capsys):
    folder = over(*(Trial(number=n, point={}, state="failed", error=f"it was bad {n}") for n in (0, 1)))
    assert main(["tune", "--resume", "--name=over", "--json=s.json"]) == 1
    assert capsys.readouterr().err == "error: no trial of 2 gave a result; the first error: it was bad 0\n"
    found = json.loads((workplace / "s.json").read_text())
    assert (found["best"], [t["error"] for t in found["trials"]]) == (None, ["it was bad 0", "it was bad 1"])
    assert status(workplace, folder) == "FAILED"
