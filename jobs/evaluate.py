"""`mcb evaluate`: the figures of a checkpoint, which holds its own settings."""

import torch
from rich.console import Console
from rich.progress import Progress

from cluster.checkpoint import Checkpoint, load, require_fit
from cluster.errors import UserError
from cluster.gradient import FlatParameters, parameter_shapes
from cluster.tracking_store import absolute_uri, first_sentence, open_store
from jobs.arguments import EvaluateOptions
from jobs.bayes import bayes_limit
from jobs.build import build_learner, build_source
from jobs.evaluation import Evaluation, evaluate
from jobs.overrides import Overrides, override
from jobs.pictures import draw
from jobs.report import new_console, print_results
from jobs.runs import FoundRun, find_run, write_json
from jobs.settings import Settings
from jobs.settings_file import from_yaml
from jobs.step_log import read_steps
from mcb.learner import ModeConditionalBayesianMAML


def evaluate_run(options: EvaluateOptions, overrides: Overrides) -> None:
    """Evaluate what `options.run` names and print, write and draw the figures."""
    console = new_console()
    path, folder = find_run(options.run) or FoundRun(_downloaded(options), None)
    checkpoint = load(path)
    settings = from_yaml(checkpoint.settings_yaml, origin=f" (in {path})")
    if options.data is not None:
        overrides = {**overrides, "tasks.path": [str(options.data.absolute())]}
    settings = override(settings, overrides)
    learner = trained_learner(settings, checkpoint)
    evaluation = evaluate_with_progress(console, learner, settings)
    figures = {"checkpoint": str(path), "num_steps": checkpoint.version, **evaluation.figures}
    if options.json is not None:
        write_json(options.json, figures)
    if options.out is not None:
        write_json(options.out / "result.json", figures)
        source = build_source(settings, "test")
        steps = [] if folder is None else read_steps(folder.metrics)
        draw(options.out / "figures", learner, source, evaluation, steps, bayes_limit(source))
    print_results(console, evaluation.figures, f"{settings.recipe}, {checkpoint.version:,} meta-steps")


def trained_learner(settings: Settings, checkpoint: Checkpoint) -> ModeConditionalBayesianMAML:
    """The learner at a checkpoint's parameters, or at their average; raises `CheckpointError` for another learner's."""
    learner = build_learner(settings, build_source(settings))
    require_fit(checkpoint, parameter_shapes(learner), checkpoint.optimizer)
    FlatParameters(learner).write(checkpoint.evaluated_parameters)
    return learner


def evaluate_with_progress(console: Console, learner: ModeConditionalBayesianMAML, settings: Settings) -> Evaluation:
    """`evaluate` with a bar on a terminal, and one line elsewhere."""
    if not console.is_terminal:
        console.print("evaluating on the test tasks")
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        rows: dict[str, int] = {}

        def show(what: str, num_done: int, num_all: int) -> None:
            if what not in rows:
                rows[what] = int(bar.add_task(what, total=num_all))
            bar.update(bar.task_ids[rows[what]], completed=num_done)

        with torch.no_grad():
            return evaluate(learner, settings, show)


def _downloaded(options: EvaluateOptions) -> str:
    """The checkpoint of a tracked run that no folder here belongs to; raises `UserError` if there is none."""
    if options.tracking_uri is None:
        raise UserError(
            f"there is no run {options.run}: name a run's folder, a checkpoint file, or a run id with --tracking-uri"
        )
    client = open_store(absolute_uri(options.tracking_uri))
    try:
        files = [file.path for file in client.list_artifacts(options.run, "checkpoint") if file.path.endswith(".mcb")]
        return client.download_artifacts(options.run, max(files))
    except Exception as error:  # MLflow and its artefact stores have no error in common; ValueError: no files
        raise UserError(f"the tracked run {options.run} gives no checkpoint: {first_sentence(error)}") from error
