"""The best trial's settings, trained again with fresh seeds."""

from pathlib import Path

import pytest
from rich.console import Console

from jobs.arguments import TuneOptions
from jobs.runs.folder import write_json
from jobs.search import best
from jobs.search.search import find_search
from jobs.search.space_points import settings_at
from jobs.search.trials import Trial
from jobs.settings.recipes import recipe
from jobs.training.job import Job


def test_runs_with_fresh_seeds_are_kept_for_their_trial_and_not_credited_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    jobs: list[Job] = []

    def run(console: Console, job: Job, **how: object) -> None:
        jobs.append(job)
        rate = job.settings.optimizer.learning_rate
        write_json(job.folder.result, {"run_id": "r", "evaluation": {"nll": rate, "nll_ci": 0.1}})

    monkeypatch.setattr(best, "run_job", run)
    base = recipe("two-modes")
    found = find_search(TuneOptions("two-modes", out=tmp_path / "s", num_seeds=2), base, {})
    rates = {0: 0.001, 1: 0.002}
    trials = {number: Trial(number=number, point={"optimizer.learning_rate": rate}) for number, rate in rates.items()}

    def test_nll(number: int) -> object:
        settings = settings_at(base, trials[number].point)
        return best.retrain(Console(quiet=True), found, trials[number], settings, "parent")["test_nll"]

    assert [test_nll(0), test_nll(1), test_nll(0)] == pytest.approx([0.001, 0.002, 0.001])
    assert [job.settings.seed - base.seed for job in jobs] == [1, 2, 1, 2]
