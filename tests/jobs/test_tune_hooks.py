"""The record of trials, without Ray: what a killed driver finds again."""

from pathlib import Path
from typing import NamedTuple, cast

import pytest
from ray.tune.experiment import Trial as TuneTrial

from jobs.build import build_plan
from jobs.recipes import recipe
from jobs.space_ends import Question
from jobs.tune_hooks import Record
from jobs.tune_plan import Tuning
from jobs.tune_trial import Curve, TrialPlan
from jobs.tune_trials import Trial, Trials


class Killed(Exception):
    """The driver's end, in the middle of telling the tracking store."""


class Store:
    def begun(self, trial: Trial) -> Trial:
        return trial

    def reported(self, trial: Trial, curve: Curve) -> None:
        raise Killed

    def ended(self, trial: Trial) -> None:
        raise Killed

    def tick(self) -> None:
        """Nothing."""


class Running(NamedTuple):
    config: dict

    def __str__(self) -> str:
        return "trial-0000"


def test_nothing_is_on_record_as_done_before_the_tracking_store_has_it(tmp_path: Path):
    trials = Trials(tmp_path)
    trials.put(Trial(number=0, point={}))
    settings = recipe("two-modes")
    rates = Question((), is_range=False)
    run = build_plan(settings, "", "", resume=False)
    tuning = Tuning(
        TrialPlan(settings, 30), run, trials, lambda number, before: {}, 1, 1, "none", rates, tmp_path / "ray"
    )
    record, running = Record(tuning, Store()), cast(TuneTrial, Running({"point": {}}))
    result = {"num_steps": 1, "objective": 1.0, "seconds": 1.0, "num_modes": 1, "curve": []}
    with pytest.raises(Killed):
        record.on_trial_result(0, [], running, result)
    with pytest.raises(Killed):
        record.on_trial_complete(0, [], running)
    (kept,) = Trials(tmp_path)
    assert (kept.state, kept.reports) == ("running", ())
