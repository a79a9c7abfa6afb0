"""Who ends trials early, asked without Ray: what it knows after a resume, and when it keeps still."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from tiny_searches import report, tiny_tuning

from jobs.search.plan import LEARNING_RATE
from jobs.search.schedulers import make_scheduler, within
from jobs.search.trials import State, Trial

NOBODY = cast(TuneController, None)


@dataclass(eq=False)
class Going:
    """As much of a trial as schedulers look at."""

    trial_id: str
    config: dict


def rungs(scheduler: TrialScheduler) -> dict[int, list[float]]:
    """What ASHA has been told at each of its rungs."""
    (bracket,) = vars(scheduler)["_brackets"]
    return {milestone: sorted(-score for score in told.values()) for milestone, told in bracket._rungs}


def told(scheduler: TrialScheduler, trial: TuneTrial, place: int, objective: float) -> str:
    return scheduler.on_trial_result(NOBODY, trial, {"num_reports": place, "objective": objective})


def test_asha_knows_each_earlier_report_once_when_a_search_goes_on(tmp_path: Path):
    tuning = tiny_tuning(tmp_path, "asha")
    before: dict[State, tuple[float, ...]] = {
        "finished": (0.5,) * 9,
        "stopped": (0.9,),
        "running": (0.8, 0.7, 0.6, 0.55, 0.5),
    }
    for number, (state, objectives) in enumerate(before.items()):
        reports = tuple(report(place, objective) for place, objective in enumerate(objectives, start=1))
        tuning.trials.put(Trial(number=number, point={}, state=state, reports=reports))
    scheduler = make_scheduler(tuning)
    assert rungs(scheduler) == {9: [], 3: [0.5], 1: [0.5, 0.9]}
    again = cast(TuneTrial, Going("a new id", {"number": 2}))
    scheduler.on_trial_add(NOBODY, again)
    assert told(scheduler, again, 5, 0.5) == TrialScheduler.CONTINUE  # its newest checkpoint, reported once more
    assert rungs(scheduler) == {9: [], 3: [0.5, 0.6], 1: [0.5, 0.8, 0.9]}
    fresh = cast(TuneTrial, Going("another id", {"number": 3}))
    scheduler.on_trial_add(NOBODY, fresh)
    assert told(scheduler, fresh, 1, 0.95) == TrialScheduler.STOP
    assert rungs(scheduler)[1] == [0.5, 0.8, 0.9, 0.95]


def test_pbt_gives_no_trial_another_learning_rate_after_its_last_meta_step(tmp_path: Path):
    scheduler = make_scheduler(tiny_tuning(tmp_path, "pbt"))
    unknown = cast(TuneTrial, Going("id", {}))
    assert told(scheduler, unknown, 9, 0.9) == TrialScheduler.CONTINUE
    with pytest.raises(KeyError):  # a report before the last one is looked at
        told(scheduler, unknown, 8, 0.9)


def test_pbt_stays_within_the_range_of_the_space():
    clip = within((1e-3, 1e-2))
    for rate, clipped in ((5e-4, 1e-3), (2e-3, 2e-3), (0.012, 1e-2)):
        assert clip({"number": 1, "point": {LEARNING_RATE: rate, "z": 1}}) == {
            "number": 1,
            "point": {LEARNING_RATE: clipped, "z": 1},
        }
