"""The Ray Tune side of a search: what a trial reserves, what it does there, and the loop over all of them."""

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from cluster.placement import bundles, num_units
from cluster.plan import TrainingPlan
from jobs.search.hooks import Record, Suggestions, name_of, number_of
from jobs.search.plan import Tuning, Watcher
from jobs.search.schedulers import make_scheduler
from jobs.search.space_points import Point
from jobs.search.trial import Curve, run_trial
from jobs.search.trials import Report, TrialFolder

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one can be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of data mean the same in a trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the trials' own files are what a search is resumed from
}

# Tune would hand the driver's AWS keys to its trials on their command lines; nodes have credentials of their own.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    [name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]
)


def run_trials(tuning: Tuning, watcher: Watcher) -> None:
    """Run what is missing of the trials; those that were running go on from their checkpoints.

    Raises what `watcher.tick` raises, with all trials ended; a trial that fails twice is recorded as failed.
    """
    unfinished = [trial.number for trial in tuning.trials.of_state("running")]
    num_left = len(unfinished) + max(0, tuning.num_trials - len(tuning.trials))
    if num_left <= 0:
        return
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    shutil.rmtree(tuning.folder, ignore_errors=True)
    suggestions = Suggestions(tuning, unfinished, watcher)
    population = [suggestions.next() for _ in range(num_left)] if tuning.scheduler == "pbt" else []
    is_pausing = tuning.scheduler in ("pbt", "hyperband")  # paused trials must not keep others from starting
    tuner = tune.Tuner(
        tune.with_resources(_trainable(tuning), _resources(tuning.run)),
        param_space=_as_grid(population),
        tune_config=tune.TuneConfig(
            search_alg=None if population else suggestions,
            scheduler=make_scheduler(tuning),
            num_samples=1 if population else num_left,
            max_concurrent_trials=None if is_pausing else tuning.num_at_once,
            reuse_actors=False,  # a new trial is lost if the one before it takes seconds to end
            trial_dirname_creator=name_of,
            trial_name_creator=name_of,
        ),
        run_config=tune.RunConfig(
            name=tuning.folder.name,
            storage_path=str(tuning.folder.parent),
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=4),
            callbacks=[Record(tuning, watcher)],
            verbose=0,
        ),
    )
    with _environment():
        tuner.fit()
    shutil.rmtree(tuning.folder, ignore_errors=True)


def _as_grid(population: Sequence[dict]) -> dict:
    """The whole population at once, as PBT wants it: it takes no search algorithm."""
    if not population:
        return {}
    points = {config["number"]: config["point"] for config in population}

    def point(spec: Any) -> Point:  # no type of Tune's has the attributes of what it gives
        return points[spec.config.number]

    return {"number": tune.grid_search(list(points)), "point": tune.sample_from(point)}


def _resources(run: TrainingPlan) -> tune.PlacementGroupFactory:
    """What a trial reserves: its workers' places; driver and server take nothing beside them."""
    if run.num_workers == 0:
        return tune.PlacementGroupFactory([{"CPU": float(run.threads_per_worker)}])
    strategy = "STRICT_PACK" if run.ranks_per_worker > 1 else "PACK"
    return tune.PlacementGroupFactory([{}, *(bundles(run) * num_units(run))], strategy=strategy)


def _trainable(tuning: Tuning) -> Callable[[Mapping], None]:
    plan, trials, every = tuning.plan, tuning.trials.path, tuning.run.checkpoint_every
    exchanges = tuning.scheduler == "pbt"

    def trial(config: Mapping) -> None:
        number = number_of(tune.get_context().get_trial_name())
        folder = TrialFolder.of(trials, number)

        def tell(report: Report, curve: Curve, checkpoint: str) -> None:
            num_reports = -(-report.num_steps // every)
            metrics = {**report.model_dump(), "num_reports": num_reports, "curve": curve}
            if not exchanges:
                tune.report(metrics)
                return
            with TemporaryDirectory() as copy:
                shutil.copy(checkpoint, copy)
                (Path(copy) / "number").write_text(str(number))
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(copy))

        folder.run.path.mkdir(parents=True, exist_ok=True)
        folder.error.unlink(missing_ok=True)
        try:
            with _foreign_checkpoint(number) as foreign:
                run_trial(plan, config["point"], folder.run, foreign, tell)
        except Exception as error:
            folder.error.write_text(" ".join(str(error).split()) or type(error).__name__)
            raise

    return trial


@contextmanager
def _foreign_checkpoint(number: int) -> Iterator[Path | None]:
    """The checkpoint file that Tune gives a trial to start from, if it is another trial's."""
    given = tune.get_checkpoint()
    if given is None:
        yield None
        return
    with given.as_directory() as folder:
        is_own = int((Path(folder) / "number").read_text()) == number
        yield None if is_own else next(Path(folder).glob("*.mcb"))


@contextmanager
def _environment() -> Iterator[None]:
    """What Tune reads from the environment, for the length of the block, without its advice to use actors again."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consider boosting PBT performance", UserWarning)
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
