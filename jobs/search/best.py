"""The best trial of a search trained again with fresh seeds, each evaluated once on the test tasks."""

import json
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console

from jobs.runs.folder import RunFolder
from jobs.search.search import FoundSearch
from jobs.search.trials import Trial
from jobs.settings.tree import Settings
from jobs.training.job import Job
from jobs.training.train import run_job


def retrain(
    console: Console, found: FoundSearch, best: Trial, settings: Settings, parent_run_id: str
) -> dict[str, object]:
    """Train `settings`, those of the best trial, with each fresh seed, or go on where that was interrupted.

    The figures of all come back. They lie in a folder of the trial's own: after more trials another may be the best.
    Raises `Interrupted`, and what a run raises.
    """
    rows = []
    for number in range(1, found.search.num_seeds + 1):
        seed = settings.seed + number
        folder = RunFolder(found.retrained / best.name / f"seed-{seed}")
        fresh = settings.model_copy(update={"seed": seed})
        if not folder.result.exists():
            console.print(f"training the best settings with seed {seed} ({number} of {found.search.num_seeds})")
            job = Job(folder, fresh, found.search.tracking_uri, resume=folder.is_begun)
            run_job(Console(quiet=True), job, tracking_optional=True, parent_run_id=parent_run_id)
        rows.append(_row(seed, folder.result))
        console.print(f"seed {seed}: test NLL {rows[-1]['nll']:.4f} ± {rows[-1]['nll_ci']:.4f}")
    values = [row["nll"] for row in rows]
    summary: dict[str, object] = {"retrained": rows}
    if values:
        summary["test_nll"] = mean(values)
    if len(values) > 1:
        summary["test_nll_spread"] = stdev(values)
    return summary


def print_retrained(console: Console, summary: dict[str, object]) -> None:
    """The mean over seeds and their spread."""
    if "test_nll" in summary:
        spread = f", spread of the seeds {summary['test_nll_spread']:.4f}" if "test_nll_spread" in summary else ""
        console.print(f"the best settings, on the test tasks: NLL {summary['test_nll']:.4f}{spread}")


def _row(seed: int, path: Path) -> dict:
    figures = json.loads(path.read_text())
    evaluation = figures["evaluation"]
    scores = {name: evaluation[name] for name in ("nll", "nll_ci", "mse", "mode_accuracy") if name in evaluation}
    return {"seed": seed, "run_id": figures["run_id"], **scores}
