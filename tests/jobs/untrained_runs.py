"""A run's folder without the training: quick to make, and enough to be loaded."""

from pathlib import Path

from tiny_runs import TINY

from cluster.checkpoint import Checkpoint, save
from cluster.tracking import MlflowTracker, open_run
from jobs.building.objects import build_plan
from jobs.runs.folder import RunFolder, default_tracking_uri, write_json
from jobs.settings.file import to_yaml
from jobs.settings.overrides import override
from jobs.settings.recipes import recipe


def untrained(folder: Path, recipe_name: str = "two-modes", **tasks: str) -> Path:
    """A run's folder with one checkpoint, at the initial parameters, of a tracked run that keeps it; its checkpoint."""
    words = (word.removeprefix("--").replace("-", "_").partition("=") for word in TINY)
    overrides = {path: [value] for path, _, value in words} | {f"tasks.{name}": [tasks[name]] for name in tasks}
    settings = override(recipe(recipe_name), overrides)
    plan = build_plan(settings, folder / "checkpoints", to_yaml(settings), resume=False)
    shapes, optimizer = plan.parameter_shapes, plan.optimizer.name
    start = Checkpoint(1, plan.parameters, shapes, optimizer, {}, plan.settings_yaml, task_form=plan.task_form)
    path = Path(save(start, folder / "checkpoints", keep=1))
    tracker = MlflowTracker(*open_run(default_tracking_uri(), "run", {}, {}))
    tracker.artifact(path, "checkpoint")
    tracker.close("FINISHED")
    RunFolder(folder).settings.write_text(to_yaml(settings))
    write_json(RunFolder(folder).identity, {"run_id": tracker.run_id, "tracking_uri": default_tracking_uri()})
    return path
