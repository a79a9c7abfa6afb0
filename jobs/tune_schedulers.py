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

from jobs.tune_plan import LEARNING_RATE, Tuning

_REDUCTION = 3  # of so many trials, one goes on at each rung
_NUM_EXCHANGES = 4  # times in a trial that PBT looks whether it is to take over another's parameters
_NOBODY = cast(TuneController, None)  # ASHA does not look at who asks


def make_scheduler(tuning: Tuning) -> TrialScheduler:
    """The scheduler of a search; ASHA knows of the trials before a resume, the others begin anew."""
    time, metric, most = "num_reports", "objective", tuning.num_reports
    match tuning.scheduler:
        case "asha":
            asha = ASHAScheduler(time, metric, "min", max_t=most, reduction_factor=_REDUCTION)
            _replay(asha, tuning)
            return asha
        case "hyperband":
            return HyperBandScheduler(time, metric, "min", max_t=most, reduction_factor=_REDUCTION)
        case "pbt":
            rates = cast(tuple[float, ...], tuning.rates.values)
            drawn = tune.loguniform(*rates) if tuning.rates.is_range else list(rates)
            mutations: dict = {"point": {LEARNING_RATE: drawn}}
            return PopulationBasedTraining(
                time,
                metric,
                "min",
                perturbation_interval=max(1, most // _NUM_EXCHANGES),
                hyperparam_mutations=mutations,
                custom_explore_fn=within(rates),
            )
        case "none":
            return FIFOScheduler()


def within(rates: Sequence[float]) -> Callable[[dict], dict]:
    """Takes a learning rate that PBT multiplied by 0.8 or 1.2 back into the range that the space asks for."""

    def clip(config: dict) -> dict:
        rate = min(max(rates), max(min(rates), config["point"][LEARNING_RATE]))
        return {**config, "point": {**config["point"], LEARNING_RATE: rate}}

    return clip


def _replay(scheduler: ASHAScheduler, tuning: Tuning) -> None:
    """Tell of the reports that there are."""
    for trial in tuning.trials:
        past = cast(TuneTrial, _Past(f"{trial.name} before"))
        scheduler.on_trial_add(_NOBODY, past)
        for report in trial.reports:
            result = {"num_reports": tuning.place(report.num_steps), "objective": report.objective}
            scheduler.on_trial_result(_NOBODY, past, result)


class _Past(NamedTuple):
    """As much of a trial as ASHA looks at."""

    trial_id: str
