"""The Ray Tune side of a search: placement groups, schedulers, and what each trial does inside its own."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, Protocol, cast

from ray import tune
from ray.tune.callback import Callback
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Searcher

from cluster.placement import bundles, num_units
from cluster.plan import TrainingPlan
from jobs.space_points import Point
from jobs.tune_trial import Curve, TrialPlan, run_trial
from jobs.tune_trials import Report, Trial, TrialFolder, Trials, trial_name

_REDUCTION = 3  # of so many trials, one goes on at each rung
_NUM_EXCHANGES = 4  # times in a trial that PBT looks whether it is to take over another's parameters
_LEARNING_RATE = "optimizer.learning_rate"
_NOBODY = cast(TuneController, None)  # ASHA does not look at who asks
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one can be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of data mean the same in a trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the trials' own files are what a search is resumed from
}


class Watcher(Protocol):
    """Who is told how a search goes."""

    def begun(self, trial: Trial) -> Trial:
        """A trial is about to start, or to go on after a resume; what is to be remembered of it comes back."""
        ...

    def reported(self, trial: Trial, curve: Curve) -> None:
        """A trial reported; `curve` is what its learning curve gained."""
        ...

    def ended(self, trial: Trial) -> None:
        """A trial is over, by its state."""
        ...

    def tick(self) -> None:
        """Some time passed; may raise to end the search."""
        ...


class Tuning(NamedTuple):
    """How trials run: `plan` is what each does, `run` how it looks to the cluster, `folder` is for Tune's own files."""

    plan: TrialPlan
    run: TrainingPlan
    trials: Trials
    propose: Callable[[int, Sequence[Trial]], Point]
    num_trials: int
    num_at_once: int
    scheduler: Literal["asha", "hyperband", "pbt", "none"]
    folder: Path

    @property
    def num_reports(self) -> int:
        """Reports of a whole trial."""
        return -(-self.run.num_steps // self.run.checkpoint_every)


def run_trials(tuning: Tuning, watcher: Watcher) -> None:
    """Run what is missing of the trials; those that were running go on from their checkpoints.

    Raises what `watcher.tick` raises, with all trials ended; a trial that fails twice is recorded as failed.
    """
    unfinished = [trial.number for trial in tuning.trials.of_state("running")]
    num_left = len(unfinished) + tuning.num_trials - len(tuning.trials)
    if num_left <= 0:
        return
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    shutil.rmtree(tuning.folder, ignore_errors=True)
    scheduler = _scheduler(tuning)
    _replay(scheduler, tuning)
    suggestions = _Suggestions(tuning, unfinished, watcher)
    population = [suggestions.next() for _ in range(num_left)] if tuning.scheduler == "pbt" else []
    is_pausing = tuning.scheduler in ("pbt", "hyperband")  # paused trials must not keep others from starting
    tuner = tune.Tuner(
        tune.with_resources(_trainable(tuning), _resources(tuning.run)),
        param_space=_as_grid(population),
        tune_config=tune.TuneConfig(
            search_alg=None if population else suggestions,
            scheduler=scheduler,
            num_samples=1 if population else num_left,
            max_concurrent_trials=None if is_pausing else tuning.num_at_once,
            reuse_actors=True,
            trial_dirname_creator=_name,
            trial_name_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=tuning.folder.name,
            storage_path=str(tuning.folder.parent),
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=4),
            callbacks=[_Watch(tuning, watcher)],
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
    return {
        "number": tune.grid_search(list(points)),
        "point": tune.sample_from(lambda spec: points[spec.config.number]),
    }


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
        number = _number(tune.get_context().get_trial_name())
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


def _scheduler(tuning: Tuning) -> TrialScheduler:
    time, metric, most = "num_reports", "objective", tuning.num_reports
    match tuning.scheduler:
        case "asha":
            return ASHAScheduler(time, metric, "min", max_t=most, reduction_factor=_REDUCTION)
        case "hyperband":
            return HyperBandScheduler(time, metric, "min", max_t=most, reduction_factor=_REDUCTION)
        case "pbt":
            rate = tuning.plan.settings.optimizer.learning_rate
            rates: dict = {"point": {_LEARNING_RATE: tune.loguniform(rate / 4, rate * 4)}}
            every = max(1, most // _NUM_EXCHANGES)
            return PopulationBasedTraining(time, metric, "min", perturbation_interval=every, hyperparam_mutations=rates)
        case "none":
            return FIFOScheduler()


def _replay(scheduler: TrialScheduler, tuning: Tuning) -> None:
    """Have ASHA know the trials of before a resume; the others begin anew."""
    if not isinstance(scheduler, ASHAScheduler):
        return
    for trial in tuning.trials:
        past = cast(TuneTrial, _Past(f"{trial.name} before"))
        scheduler.on_trial_add(_NOBODY, past)
        for report in trial.reports:
            result = {"num_reports": -(-report.num_steps // tuning.run.checkpoint_every), "objective": report.objective}
            scheduler.on_trial_result(_NOBODY, past, result)


class _Past(NamedTuple):
    """As much of a trial as ASHA looks at."""

    trial_id: str


class _Suggestions(Searcher):
    """First the trials that a killed driver left behind, then new ones."""

    def __init__(self, tuning: Tuning, unfinished: Sequence[int], watcher: Watcher) -> None:
        super().__init__(metric="objective", mode="min")
        self._tuning, self._unfinished, self._watcher = tuning, list(unfinished), watcher

    def suggest(self, trial_id: str) -> dict | None:
        """As `next`."""
        return self.next()

    def next(self) -> dict:
        """What the next trial does; it is on record before it starts."""
        trials = self._tuning.trials
        if self._unfinished:
            trial = trials[self._unfinished.pop(0)]
        else:
            number = len(trials)
            trial = Trial(number=number, point=self._tuning.propose(number, list(trials)))
            trials.put(trial)
        trials.put(self._watcher.begun(trial))
        return {"number": trial.number, "point": dict(trial.point)}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: the record of trials says it all."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""
        Path(checkpoint_path).touch()

    def __getstate__(self) -> dict:
        """Tune pickles its configuration, and never reads it again here."""
        return {}


class _Watch(Callback):
    """Keeps the record of trials and passes on what happens."""

    def __init__(self, tuning: Tuning, watcher: Watcher) -> None:
        self._tuning, self._watcher = tuning, watcher

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: object) -> None:
        """A trial reported, perhaps again what it did before a restart."""
        before = self._trial(trial)
        report = Report(**{name: result[name] for name in Report.model_fields})
        earlier = tuple(one for one in before.reports if one.num_steps < report.num_steps)
        after = before.model_copy(update={"point": trial.config["point"], "reports": (*earlier, report)})
        self._tuning.trials.put(after)
        known = before.last.num_steps if before.last is not None else 0
        self._watcher.reported(after, [row for row in result["curve"] if row[0] > known])

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: object) -> None:
        """A trial did all its meta-steps, or was stopped by the scheduler."""
        before = self._trial(trial)
        is_done = before.last is not None and before.last.num_steps >= self._tuning.run.num_steps
        self._end(before.model_copy(update={"state": "finished" if is_done else "stopped"}))

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: object) -> None:
        """A trial failed twice."""
        before = self._trial(trial)
        path = TrialFolder.of(self._tuning.trials.path, before.number).error
        error = path.read_text() if path.exists() else "its process died"
        self._end(before.model_copy(update={"state": "failed", "error": error}))

    def on_step_end(self, iteration: int, trials: list, **info: object) -> None:
        """A moment passed."""
        self._watcher.tick()

    def __getstate__(self) -> dict:
        """Tune pickles its configuration, and never reads it again here."""
        return {}

    def _trial(self, trial: TuneTrial) -> Trial:
        return self._tuning.trials[_number(str(trial))]

    def _end(self, trial: Trial) -> None:
        self._tuning.trials.put(trial)
        self._watcher.ended(trial)


def _name(trial: TuneTrial) -> str:
    """What Tune calls a trial from its start on."""
    return trial_name(trial.config["number"])


def _number(name: str) -> int:
    """The inverse; a trial of PBT that takes over another's parameters gets that one's `config`, but keeps its name."""
    return int(name.rpartition("-")[2])


@contextmanager
def _environment() -> Iterator[None]:
    """What Tune reads from the environment, for the length of the block."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
