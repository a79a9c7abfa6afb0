"""Who ends the trials of a search early, or has them exchange parameters."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from jobs.search.plan import LEARNING_RATE, Tuning

_REDUCTION = 3  # of so many trials, one goes on at each rung
_NUM_EXCHANGES = 4  # times in a trial that PBT looks whether it is to take over another's parameters
_NOBODY = cast(TuneController, None)  # ASHA does not look at who asks
_TIME, _METRIC = "num_reports", "objective"


def make_scheduler(tuning: Tuning) -> TrialScheduler:
    """The scheduler of a search; ASHA knows of the trials before a resume, the others begin anew."""
    match tuning.scheduler:
        case "asha":
            return _RememberingAsha(tuning)
        case "hyperband":
            return HyperBandScheduler(_TIME, _METRIC, "min", max_t=tuning.num_reports, reduction_factor=_REDUCTION)
        case "pbt":
            return _Exchanges(tuning)
        case "none":
            return FIFOScheduler()


def within(rates: Sequence[float]) -> Callable[[dict], dict]:
    """Takes a learning rate that PBT multiplied by 0.8 or 1.2 back into the range that the space asks for."""

    def clip(config: dict) -> dict:
        rate = min(max(rates), max(min(rates), config["point"][LEARNING_RATE]))
        return {**config, "point": {**config["point"], LEARNING_RATE: rate}}

    return clip


class _RememberingAsha(ASHAScheduler):
    """ASHA that is told each earlier report once: of a trial that goes on under its new id, so its rungs know it."""

    def __init__(self, tuning: Tuning) -> None:
        super().__init__(_TIME, _METRIC, "min", max_t=tuning.num_reports, reduction_factor=_REDUCTION)
        self._earlier = {
            trial.number: [
                {_TIME: tuning.place(report.num_steps), _METRIC: report.objective} for report in trial.reports
            ]
            for trial in tuning.trials
        }
        for trial in tuning.trials:
            if trial.state != "running":
                past = _Past(f"{trial.name} before", {"number": trial.number})
                self.on_trial_add(_NOBODY, cast(TuneTrial, past))

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial begins, or goes on after a resume."""
        super().on_trial_add(tune_controller, trial)
        for result in self._earlier.pop(trial.config["number"], ()):
            self.on_trial_result(tune_controller, trial, result)


class _Exchanges(PopulationBasedTraining):
    """PBT that leaves a trial as it is at its last report: a learning rate that nobody trained with is no result."""

    def __init__(self, tuning: Tuning) -> None:
        self._last = tuning.num_reports
        rates = cast(tuple[float, ...], tuning.rates.values)
        drawn = tune.loguniform(*rates) if tuning.rates.is_range else list(rates)
        mutations: dict = {"point": {LEARNING_RATE: drawn}}
        super().__init__(
            _TIME,
            _METRIC,
            "min",
            perturbation_interval=max(1, self._last // _NUM_EXCHANGES),
            hyperparam_mutations=mutations,
            custom_explore_fn=within(rates),
        )

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict) -> str:
        """A trial reported."""
        if result[_TIME] >= self._last:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


class _Past(NamedTuple):
    """As much of a trial as ASHA looks at."""

    trial_id: str
    config: dict
