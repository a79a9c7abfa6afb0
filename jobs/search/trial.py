"""What runs inside a trial: the real run in the trial's own folder, validated at each of its checkpoints."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cluster.checkpoint import load, paths, take_up
from cluster.lock import locked
from cluster.metric_export import MetricExport
from cluster.plan import StepRecord
from cluster.threads import threads
from cluster.tracking import Untracked
from cluster.training import run_meta_training
from jobs.building.objects import build_plan
from jobs.runs.folder import RunFolder
from jobs.runs.step_log import StepLog
from jobs.search.space_points import settings_at
from jobs.search.spaces import Value
from jobs.search.trials import Report
from jobs.search.validation import Validation
from jobs.settings.file import to_yaml
from jobs.settings.tree import Settings

_NUM_POINTS = 60  # of each learning curve in the tracking store
Curve = list[tuple[int, dict[str, float]]]


class TrialPlan(NamedTuple):
    """What all trials of a search have in common; `settings` are what a trial's point is put into."""

    settings: Settings
    num_validation_tasks: int

    def settings_of(self, point: Mapping[str, Value]) -> Settings:
        """The settings of one trial: every checkpoint is kept until it is validated."""
        settings = settings_at(self.settings, point)
        keep = -(-settings.train.num_steps // settings.train.checkpoint_every) + 2
        return settings.model_copy(update={"train": settings.train.model_copy(update={"checkpoint_keep": keep})})


def run_trial(
    plan: TrialPlan,
    point: Mapping[str, Value],
    folder: RunFolder,
    foreign: Path | None,
    tell: Callable[[Report, Curve, str], None],
) -> None:
    """Train at `point` from where the folder's newest checkpoint stands, and tell of every checkpoint from there on.

    `foreign` is a checkpoint file of another trial, which takes the place of the folder's own. `tell` is given the
    report, the learning curve since the last one, and the checkpoint's file; it may end the trial by an exception.
    """
    settings = plan.settings_of(point)
    with locked(folder.checkpoints) as lock, threads(settings.cluster.threads_per_worker):
        if foreign is not None:
            _adopt(foreign, Path(folder.checkpoints))
        resume = folder.is_begun
        run = build_plan(settings, folder.checkpoints, to_yaml(settings), resume)
        folder.settings.write_text(to_yaml(settings))
        curve = _Curve()
        first = max(1, take_up(folder.checkpoints).version) if resume else 1
        watch = _Watch(folder.checkpoints, first, Validation(settings, plan.num_validation_tasks))

        def tell_news(version: int) -> None:
            for report, checkpoint in watch.new_reports(version):
                tell(report, curve.take(), checkpoint)

        try:
            export = MetricExport(f"{folder.path.parent.parent.name}/{folder.path.name}", settings.recipe)
            with StepLog(folder.metrics, curve, run.num_steps, _NUM_POINTS, export) as log:

                def on_step(record: StepRecord) -> None:
                    log.add(record)
                    tell_news(record.version)

                run_meta_training(run, on_step, stop=lambda: False, lock=lock)
            tell_news(run.num_steps)
        finally:
            for old in paths(folder.checkpoints)[1:]:
                Path(old).unlink()


class _Watch:
    """Validates each of a folder's checkpoints from version `first` on, once."""

    def __init__(self, checkpoints: str, first: int, validate: Validation) -> None:
        self._checkpoints, self._next, self._validate = checkpoints, first, validate

    def new_reports(self, last: int) -> Iterator[tuple[Report, str]]:
        """Reports of the checkpoints up to version `last` that are there by now, oldest first, and their files."""
        for path in reversed(paths(self._checkpoints)):
            if not self._next <= _version(path) <= last:
                continue
            checkpoint = load(path)
            validated = self._validate(checkpoint)
            self._next = checkpoint.version + 1
            yield (
                Report(
                    num_steps=checkpoint.version,
                    objective=validated.nll,
                    seconds=checkpoint.train_seconds,
                    num_modes=validated.num_modes,
                ),
                path,
            )


class _Curve(Untracked):
    """Keeps what a step log tells until it is taken."""

    def __init__(self) -> None:
        self._rows: Curve = []

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Keep values."""
        self._rows.append((step, dict(values)))

    def take(self) -> Curve:
        """What came since the last time."""
        taken, self._rows = self._rows, []
        return taken


def _version(path: str) -> int:
    """The meta-steps done at a checkpoint, from its name."""
    return int(Path(path).stem.rpartition("-")[2])


def _adopt(checkpoint: Path, checkpoints: Path) -> None:
    """Make another trial's checkpoint the only one of a folder."""
    for own in paths(checkpoints):
        Path(own).unlink()
    shutil.copy(checkpoint, checkpoints)
