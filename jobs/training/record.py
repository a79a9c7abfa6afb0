"""What a finished run leaves behind: files in its folder, and all of them in the tracking store."""

import logging
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import cast

from cluster.metric_names import joined
from cluster.plan import TrainingResult
from cluster.storage import local_copy
from cluster.tracking import MlflowTracker, Tracker
from cluster.tracking_store import first_sentence, open_store
from jobs.building.objects import Source
from jobs.evaluation.scores import Evaluation, evaluated_indices
from jobs.evaluation.task_scores import scored_tasks, write_tasks
from jobs.models.card import model_card
from jobs.models.logged import log_model
from jobs.training.job import Job

_logger = logging.getLogger(__name__)


def keep_files(job: Job, source: Source, figures: Mapping[str, object], evaluation: Evaluation) -> None:
    """Write the scores of the test tasks of `source`, and the model card; `figures` are those of result.json."""
    indices = evaluated_indices(source, job.settings.evaluation)
    write_tasks(job.folder.test_tasks, scored_tasks(evaluation.scores, source, indices))
    job.folder.model_card.write_text(model_card(job.settings, source, figures, versions()))


def record(tracker: Tracker, job: Job, source: Source, result: TrainingResult, evaluation: Evaluation) -> None:
    """Keep with the tracked run what came out, and the learner as a model unless the settings leave it out."""
    tracker.metrics(evaluation_metrics(evaluation), result.num_steps)
    folder = job.folder
    beside = [folder.test_tasks, folder.model_card, folder.figures]
    tracker.artifact(folder.figures, "figures")
    for path in (folder.settings, folder.result, folder.test_tasks, folder.model_card):
        tracker.artifact(path, "")
    with local_copy(result.checkpoint) as checkpoint:
        tracker.artifact(checkpoint, "checkpoint")
        if isinstance(tracker, MlflowTracker) and job.settings.tracking.log_model:
            tracker.flush()
            try:
                client = open_store(job.tracking_uri)
                log_model(client, tracker.run_id, job.settings, source, checkpoint, beside, result.num_steps)
            except Exception as error:  # as many kinds as there are artefact stores; mcb register does it again
                _logger.warning("the learner was not logged as a model: %s", first_sentence(error))


def versions() -> dict[str, str]:
    """What decides the bits of a result beside the settings: the commit, where it is known, and the packages."""
    found = {}
    with suppress(OSError, subprocess.CalledProcessError):  # no git, as in a container, or no checkout
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed package may lie in another's repository
        found["commit"] = _git("rev-parse", "HEAD")
    found["python"] = python_version()
    for name in ("mcb-maml", "torch", "ray", "mlflow", "numpy"):
        with suppress(PackageNotFoundError):  # the source tree may be used without being installed
            found[name] = version(name)
    return found


def _git(*words: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()


def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation's numbers by their names; of rows, which result.json has whole, the scores alone."""
    return {
        joined(*path): value
        for path, value in _numbers(evaluation.figures, ("test",))
        if len(path) == 2 or path[-1] in ("nll", "mse", "rmse")
    }


def _numbers(tree: Mapping[str, object], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    """The numbers of a tree with their paths."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(cast(Mapping[str, object], value), (*path, name))
        elif isinstance(value, (int, float)):
            yield (*path, name), value
