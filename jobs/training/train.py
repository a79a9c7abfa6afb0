"""`mcb train`: meta-train a recipe, track it, evaluate it; or continue a run exactly where it stopped."""

import logging
import os
import shlex
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from platform import node
from typing import NamedTuple

from rich.console import Console

from cluster.checkpoint import load
from cluster.lock import Held, locked
from cluster.metric_export import MetricExport
from cluster.plan import StepRecord, TrainingPlan, TrainingResult
from cluster.secrets import without_password
from cluster.tracking import MlflowTracker, Status, Tracker, Untracked, open_run
from cluster.tracking_store import TrackingError
from cluster.training import run_meta_training
from jobs.arguments import TrainOptions
from jobs.building.bayes import bayes_limit
from jobs.building.objects import build_plan, build_source
from jobs.errors import Interrupted
from jobs.evaluation.evaluate import evaluate_with_progress, trained_learner
from jobs.evaluation.pictures import draw
from jobs.evaluation.report import new_console, print_results
from jobs.runs.folder import default_tracking_uri, write_json
from jobs.runs.step_log import StepLog, read_steps
from jobs.settings.file import flatten, to_yaml
from jobs.settings.overrides import Overrides
from jobs.settings.tree import Settings
from jobs.training.job import Job, find_job
from jobs.training.progress import TrainingProgress
from jobs.training.record import keep_files, record, versions

_CHECKPOINTS = "checkpoints"  # the tag that a run is found by where its folder was lost
_logger = logging.getLogger(__name__)


def train(options: TrainOptions, base: Settings | None, overrides: Overrides) -> None:
    """Run a job to its end: its figures go to the screen, to result.json and to `options.json`.

    `base` are the settings that the command names. Raises `UserError` for what cannot be done, `Interrupted` after
    Ctrl-C. Everything that can be refused is refused before the run's folder is made.
    """
    console = new_console()
    job = find_job(options, base, overrides)
    result = run_job(console, job, options.tracking_optional, [] if options.json is None else [options.json])
    spent = f"{result.num_tasks:,} tasks in {result.train_seconds:,.0f} s of meta-steps"
    console.print(f"{spent}; checkpoint {result.checkpoint}", soft_wrap=True)
    if result.is_tracked:
        console.print(f"look at the run with\n  {ui_command(job.tracking_uri)}", soft_wrap=True)


class Done(NamedTuple):
    """What came out of a run; `figures` are those of result.json."""

    figures: Mapping[str, object]
    num_tasks: int
    train_seconds: float
    checkpoint: str
    is_tracked: bool


def run_job(
    console: Console, job: Job, tracking_optional: bool, copies: Sequence[Path] = (), parent_run_id: str | None = None
) -> Done:
    """Train, evaluate and draw, with the figures in result.json and in `copies`; nested in a tracked run if told so."""
    source = build_source(job.settings, "test")
    limit = bayes_limit(source)
    plan = build_plan(job.settings, job.checkpoints, to_yaml(job.settings), job.resume)
    with locked(job.checkpoints) as lock, _tracked(job, tracking_optional, parent_run_id) as (tracker, run_id):
        _begin(job, run_id)
        begun = f"{job.settings.recipe}: {plan.num_steps:,} meta-steps of {plan.meta_batch} tasks, in {job.folder.path}"
        console.print(begun, soft_wrap=True)
        result = _train(console, job, plan, tracker, lock)
        try:
            learner = trained_learner(job.settings, load(result.checkpoint))
            evaluation = evaluate_with_progress(console, learner, job.settings)
            figures = {**_training_figures(run_id, result), "evaluation": evaluation.figures}
            for path in [job.folder.result, *copies]:
                write_json(path, figures)
            print_results(console, evaluation.figures, job.settings.recipe)
            draw(job.folder.figures, learner, source, evaluation, read_steps(job.folder.metrics), limit)
            keep_files(job, source, figures, evaluation)
            record(tracker, job, source, result, evaluation)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted after training; go on with\n  mcb evaluate {job.folder.path}") from None
    is_tracked = isinstance(tracker, MlflowTracker)
    return Done(figures, result.num_tasks, result.train_seconds, result.checkpoint, is_tracked)


def _train(console: Console, job: Job, plan: TrainingPlan, tracker: Tracker, lock: Held) -> TrainingResult:
    """Meta-train with progress on the screen and every meta-step on record; raises `Interrupted` if it was stopped."""
    with (
        TrainingProgress(console, plan.num_steps) as progress,
        StepLog(
            job.folder.metrics, tracker, plan.num_steps, export=MetricExport(_run_name(job), job.settings.recipe)
        ) as log,
    ):

        def on_step(record: StepRecord) -> None:
            progress.update(record)
            log.add(record)

        result = run_meta_training(plan, on_step, stop=lambda: False, lock=lock)
    if result.interrupted:
        raise Interrupted(_farewell(job, result))
    return result


@contextmanager
def _tracked(job: Job, optional: bool, parent_run_id: str | None) -> Iterator[tuple[Tracker, str]]:
    """The tracked run and its id for the length of the block; closed with the status that the block's end asks for."""
    tracker, run_id = _open(job, optional, parent_run_id)
    status: Status = "FAILED"
    try:
        yield tracker, run_id
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def _open(job: Job, optional: bool, parent_run_id: str | None) -> tuple[Tracker, str]:
    """The tracker, and the id of the run: the one of before where a run is resumed in the same store."""
    before = job.folder.read_identity()
    is_same_store = before.get("tracking_uri") == without_password(job.tracking_uri)
    known = before.get("run_id") if is_same_store else None
    params = flatten(job.settings.model_dump(mode="json"))
    name = _run_name(job)
    tags = run_tags(job.settings, job.folder.path) | nested_in(parent_run_id) | {_CHECKPOINTS: job.checkpoints}
    try:
        same_tag = _CHECKPOINTS if job.resume else None
        tracker = MlflowTracker(*open_run(job.tracking_uri, name, params, tags, known, same_tag))
    except TrackingError as error:
        if not optional:
            raise
        _logger.warning("the run is not tracked: %s", error)
        return Untracked(), before.get("run_id") or uuid.uuid4().hex
    return tracker, tracker.run_id


def _run_name(job: Job) -> str:
    """The run's name in MLflow and Prometheus."""
    return f"{job.settings.recipe}/{job.folder.path.name}"


def _begin(job: Job, run_id: str) -> None:
    """Make the run's folder and write what identifies the run."""
    job.folder.path.mkdir(parents=True, exist_ok=True)
    job.folder.settings.write_text(to_yaml(job.settings))
    store = without_password(job.tracking_uri)
    write_json(job.folder.identity, {"run_id": run_id, "tracking_uri": store, "recipe": job.settings.recipe})


def nested_in(parent_run_id: str | None) -> dict[str, str]:
    """The tag that MLflow shows one run below another by."""
    return {} if parent_run_id is None else {"mlflow.parentRunId": parent_run_id}


def run_tags(settings: Settings, folder: Path) -> dict[str, str]:
    """What the parameters do not say: code, host and versions."""
    tags = {"recipe": settings.recipe, "run_folder": str(folder), "host": node()}
    if job := os.environ.get("MCB_JOB"):  # as `mcb submit` named it
        tags["ray_job"] = job
    made_with = versions()
    commit = made_with.pop("commit", None)
    return tags | made_with | ({} if commit is None else {"mlflow.source.git.commit": commit})


def _training_figures(run_id: str, result: TrainingResult) -> dict[str, object]:
    seconds = result.train_seconds
    return {
        "run_id": run_id,
        "checkpoint": str(result.checkpoint),
        "params_sha256": result.params_sha256,
        "num_steps": result.num_steps,
        "num_tasks": result.num_tasks,
        "num_refused": result.num_refused,
        "train_seconds": seconds,
        "tasks_per_s": result.num_tasks / seconds if seconds else 0.0,
    }


def ui_command(tracking_uri: str) -> str:
    """The command that opens the store, short where it is the default one."""
    is_default = tracking_uri == default_tracking_uri()
    return "mcb ui" if is_default else shlex.join(["mcb", "ui", "--tracking-uri", without_password(tracking_uri)])


def _farewell(job: Job, result: TrainingResult) -> str:
    resume = shlex.join(["mcb", "train", job.settings.recipe, "--resume", "--out", str(job.folder.path)])
    return f"interrupted after {result.num_steps:,} meta-steps, saved in {result.checkpoint}; go on with\n  {resume}"
