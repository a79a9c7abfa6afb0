"""`mcb evaluate`: the figures of a checkpoint, which holds its own settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress

from cluster.checkpoint import Checkpoint, load, paths
from cluster.checkpoint_fit import require_fit, require_state_fit
from cluster.errors import CheckpointError, UserError
from cluster.gradient import FlatParameters, parameter_shapes
from cluster.storage import absolute, split
from cluster.survey import initial_state, write_state
from jobs.arguments import EvaluateOptions
from jobs.building.bayes import bayes_limit
from jobs.building.objects import build_learner, build_source
from jobs.evaluation.pictures import draw
from jobs.evaluation.report import new_console, print_results
from jobs.evaluation.scores import Evaluation, evaluate
from jobs.evaluation.scores import Progress as ShowProgress
from jobs.runs.folder import FoundRun, RunFolder, find_run, write_json
from jobs.runs.step_log import read_steps
from jobs.runs.tracked_files import run_checkpoint
from jobs.settings.file import from_yaml
from jobs.settings.overrides import Overrides, override
from jobs.settings.tree import Settings
from mcb.learner import ModeConditionalBayesianMAML
from mcb.modes.definition import RefreshedModes
from mcb.types import HasForm


class Trained(NamedTuple):
    """A trained learner, the settings that it was trained with, and the folder of its run if that is here."""

    checkpoint: Checkpoint
    path: str
    folder: RunFolder | None
    settings: Settings
    learner: ModeConditionalBayesianMAML

    @property
    def title(self) -> str:
        """What a table of it is headed by."""
        return f"{self.settings.recipe}, {self.checkpoint.version:,} meta-steps"


def evaluate_run(options: EvaluateOptions, overrides: Overrides) -> None:
    """Evaluate what `options.run` names and print, write and draw the figures."""
    console = new_console()
    trained = find_trained(options.run, options.tracking_uri, options.data, overrides)
    settings, learner = trained.settings, trained.learner
    evaluation = evaluate_with_progress(console, learner, settings)
    figures = {"checkpoint": trained.path, "num_steps": trained.checkpoint.version, **evaluation.figures}
    if options.json is not None:
        write_json(options.json, figures)
    if options.out is not None:
        write_json(options.out / "result.json", figures)
        source = build_source(settings, "test")
        steps = [] if trained.folder is None else read_steps(trained.folder.metrics)
        draw(options.out / "figures", learner, source, evaluation, steps, bayes_limit(source))
    print_results(console, evaluation.figures, trained.title)


def find_trained(run: str, tracking_uri: str | None, data: Path | None, overrides: Overrides) -> Trained:
    """What the words of a command name: a folder, a checkpoint or a run id, with the curves at `data` if they moved.

    Raises `UserError` where there is none.
    """
    path, folder = find_run(run) or FoundRun(_downloaded(run, tracking_uri), None)
    checkpoint = _load(path)
    settings = from_yaml(checkpoint.settings_yaml, origin=f" (in {path})")
    if data is not None:
        overrides = {**overrides, "tasks.path": [str(data.absolute())]}
    settings = override(settings, overrides)
    return Trained(checkpoint, str(path), folder, settings, trained_learner(settings, checkpoint))


def trained_learner(
    settings: Settings, checkpoint: Checkpoint, form: HasForm | None = None
) -> ModeConditionalBayesianMAML:
    """The learner at a checkpoint's parameters, or at their average, and with the modes found by then.

    `form` is that of its tasks; without it their source is asked. Raises `CheckpointError` for a checkpoint of another
    learner.
    """
    learner = build_learner(settings, build_source(settings) if form is None else form)
    require_fit(checkpoint, parameter_shapes(learner), checkpoint.optimizer)
    FlatParameters(learner).write(checkpoint.evaluated_parameters)
    is_refreshed = isinstance(learner.modes, RefreshedModes)
    require_state_fit(checkpoint, initial_state(learner) if is_refreshed else None)
    if checkpoint.mode_state is not None:
        write_state(learner, checkpoint.mode_state)
    return learner


def evaluate_with_progress(console: Console, learner: ModeConditionalBayesianMAML, settings: Settings) -> Evaluation:
    """`evaluate` with a bar on a terminal, and one line elsewhere."""
    if not console.is_terminal:
        console.print("evaluating on the test tasks")
    with shown(console) as show, torch.no_grad():
        return evaluate(learner, settings, show)


@contextmanager
def shown(console: Console) -> Iterator[ShowProgress]:
    """A bar for each thing that is evaluated, on a terminal."""
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        rows: dict[str, int] = {}

        def show(what: str, num_done: int, num_all: int) -> None:
            if what not in rows:
                rows[what] = int(bar.add_task(what, total=num_all))
            bar.update(bar.task_ids[rows[what]], completed=num_done)

        yield show


def _downloaded(run: str, tracking_uri: str | None) -> str:
    """The checkpoint of a tracked run that no folder here belongs to; raises `UserError` if there is none."""
    if tracking_uri is None:
        raise UserError(
            f"there is no run {run}: name a run's folder, a checkpoint file, or a run id with --tracking-uri"
        )
    return str(run_checkpoint(run, tracking_uri))


def _load(path: str) -> Checkpoint:
    """The checkpoint at `path`; raises `CheckpointError` with the one before it for one that cannot be read."""
    try:
        return load(path)
    except CheckpointError as error:
        beside, place = paths(split(path)[0]), absolute(path)
        before = beside[beside.index(place) + 1 :] if place in beside else []
        raise CheckpointError(f"{error}: evaluate the one before, {before[0]}" if before else str(error)) from error
