"""The record of trials, without Ray: what a killed driver finds again."""

from pathlib import Path
from typing import NamedTuple, cast

import pytest
from ray.tune.experiment import Trial as TuneTrial
from tiny_searches import tiny_tuning

from jobs.search.hooks import Record
from jobs.search.trial import Curve
from jobs.search.trials import Trial, Trials


class Killed(Exception):
    """The driver's end, in the middle of telling the tracking store."""


class Store:
    def begun(self, trial: Trial) -> Trial:
        return trial

    def reported(self, trial: Trial, curve: Curve) -> Trial:
        raise Killed

    def ended(self, trial: Trial) -> Trial:
        raise Killed

    def tick(self) -> None:
        """Nothing."""


class Silent(Store):
    def reported(self, trial: Trial, curve: Curve) -> Trial:
        return trial.model_copy(update={"run_id": "made late"})


class Running(NamedTuple):
    config: dict

    def __str__(self) -> str:
        return "trial-0000"


def test_nothing_is_on_record_as_done_before_the_tracking_store_has_it(tmp_path: Path):
    tuning = tiny_tuning(tmp_path)
    tuning.trials.put(Trial(number=0, point={}))
    record, running = Record(tuning, Store()), cast(TuneTrial, Running({"point": {}}))
    result = {"num_steps": 1, "objective": 1.0, "seconds": 1.0, "num_modes": 1, "curve": []}
    with pytest.raises(Killed):
        record.on_trial_result(0, [], running, result)
    with pytest.raises(Killed):
        record.on_trial_complete(0, [], running)
    (kept,) = Trials(tmp_path)
    assert (kept.state, kept.reports) == ("running", ())


def test_a_point_that_pbt_changed_is_on_record_before_the_trial_trains_there_and_not_earlier(tmp_path: Path):
    tuning = tiny_tuning(tmp_path)
    tuning.trials.put(Trial(number=0, point={"optimizer.learning_rate": 0.001}))
    record = Record(tuning, Silent())
    changed = cast(TuneTrial, Running({"number": 5, "point": {"optimizer.learning_rate": 0.002}}))
    result = {"num_steps": 1, "objective": 1.0, "seconds": 1.0, "num_modes": 1, "curve": []}
    record.on_trial_result(0, [], changed, result)  # what it reports, it did with the rate that it had
    (kept,) = Trials(tmp_path)
    assert (kept.point["optimizer.learning_rate"], len(kept.reports), kept.run_id) == (0.001, 1, "made late")
    record.on_trial_start(0, [], changed)
    (kept,) = Trials(tmp_path)
    assert (kept.number, kept.point["optimizer.learning_rate"], len(kept.reports)) == (0, 0.002, 1)
