"""What names a trained model, and the predictor that is made of it: a path, `runs:/...` or `models:/...`."""

import os
from contextlib import suppress
from pathlib import Path

import torch

from cluster.checkpoint import Checkpoint, load
from cluster.errors import UserError
from jobs.building.objects import build_source
from jobs.building.task_form import TaskForm, form_from_tree, form_of
from jobs.evaluation.evaluate import trained_learner
from jobs.runs.folder import FoundRun, RunFolder, find_run
from jobs.runs.tracked_files import model_checkpoint, model_file, run_checkpoint
from jobs.settings import tree as s
from jobs.settings.file import from_yaml
from mcb.evidence_reference import DrawTasks
from mcb.predictor import Predictor
from mcb.randomness import fold_key
from mcb.tasks.curves import CurveTasks
from mcb.tasks.regression import RegressionFamilies
from mcb.types import Task

REFERENCE_SEED = fold_key(0, "reference")
_RUNS, _MODELS = "runs:/", "models:/"


def load_predictor(name: str, tracking_uri: str | None = None) -> Predictor:
    """The predictor of what `name` names (see `Predictor.load`); raises `UserError`.

    A pure function of the checkpoint, which holds its own settings and the units of measured curves. The curves
    themselves are only needed to say how usual a task is.
    """
    path, folder = _found(name, tracking_uri)
    checkpoint = load(path)
    settings = from_yaml(checkpoint.settings_yaml, origin=f" (in {path})")
    form = _form(settings, checkpoint)
    return Predictor(
        trained_learner(settings, checkpoint, form),
        form.x_size,
        form.y_size,
        units=form.units,
        family_names=form.mode_names,
        draw=_drawing(settings.tasks, form),
        num_support=settings.tasks.num_support,
        settings=settings.model_dump(mode="json"),
        run_id=_run_id(name, folder),
    )


def _found(name: str, tracking_uri: str | None) -> FoundRun:
    """The checkpoint, and the folder of its run if that is here."""
    if name.startswith(_MODELS):
        return FoundRun(str(model_checkpoint(name, tracking_uri)), None)
    run_id = name.removeprefix(_RUNS).strip("/")
    if not name.startswith(_RUNS):
        if (Path(name) / "MLmodel").is_file():
            files = [str(file.relative_to(name)) for file in sorted(Path(name).rglob("*")) if file.is_file()]
            return FoundRun(str(Path(name) / model_file(name, files)), None)
        if (found := find_run(name)) is not None:
            return found
        if tracking_uri is None and not _looks_like_id(run_id):
            raise UserError(
                f"there is no model {name}: name a run's folder, a checkpoint file (.mcb), runs:/RUN_ID, "
                "models:/NAME@ALIAS or models:/NAME/VERSION"
            )
    elif _looks_like_id(run_id) and (found := find_run(run_id)) is not None:
        return found
    return FoundRun(str(run_checkpoint(run_id, tracking_uri)), None)


def _looks_like_id(name: str) -> bool:
    """Whether this may be the id of a run: no path."""
    return name.isalnum()


def _run_id(name: str, folder: RunFolder | None) -> str | None:
    """The tracked run that the model came from, where that is known."""
    if name.startswith(_RUNS):
        return name.removeprefix(_RUNS).strip("/")
    return None if folder is None else folder.read_identity().get("run_id")


def _form(settings: s.Settings, checkpoint: Checkpoint) -> TaskForm:
    """What the tasks look like, from the checkpoint, or from the data in checkpoints that were written without it."""
    if checkpoint.task_form:
        return form_from_tree(checkpoint.task_form)
    return form_of(build_source(settings))


def _drawing(tasks: s.RegressionTasks | s.CurveTasks, form: TaskForm) -> DrawTasks | None:
    """Makes tasks of the training kind; None where the measured curves are not here, or no longer of this form.

    Curves are those of the validation split, which the learner never saw, or of the training split if that has none.
    """

    def draw(num_support: int, num_tasks: int) -> Task | None:
        if isinstance(tasks, s.RegressionTasks):
            source = RegressionFamilies(tasks.families, num_support, 1, tasks.noise_scale)
        else:
            source = _curves(str(tasks.path), num_support)
            if source is not None and (source.mode_names, source.x_size) != (form.mode_names, form.x_size):
                return None
        return None if source is None else source.sample(REFERENCE_SEED, torch.arange(num_tasks))

    is_here = isinstance(tasks, s.RegressionTasks) or (tasks.path is not None and os.path.exists(tasks.path))
    return draw if is_here else None


def _curves(path: str, num_support: int) -> CurveTasks | None:
    """None where no curve has more than `num_support` points, or the file cannot be read."""
    for split in ("validation", "train"):
        with suppress(ValueError, OSError):
            return CurveTasks.from_parquet(path, split, num_support, 1)
    return None
