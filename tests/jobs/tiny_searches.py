"""What the Ray side of a small search is given, for tests without Ray."""

from pathlib import Path
from typing import Literal

from tiny_runs import TINY

from jobs.building.objects import build_plan
from jobs.search.plan import Tuning
from jobs.search.space_ends import Question
from jobs.search.trial import TrialPlan
from jobs.search.trials import Report, Trials
from jobs.settings.overrides import override, split
from jobs.settings.recipes import recipe


def report(num_steps: int, objective: float) -> Report:
    return Report(num_steps=num_steps, objective=objective, seconds=1.0, num_modes=1)


def tiny_tuning(folder: Path, scheduler: Literal["asha", "pbt", "none"] = "none") -> Tuning:
    """A search of trials of nine meta-steps, each of which is reported; its trials are those below `folder`."""
    given, _ = split([*TINY, "--train.num-steps=9", "--train.checkpoint-every=1"])
    settings = override(recipe("two-modes"), given)
    return Tuning(
        plan=TrialPlan(settings, 30),
        run=build_plan(settings, "", "", resume=False),
        trials=Trials(folder),
        propose=lambda number, before: {},
        num_trials=1,
        num_at_once=1,
        scheduler=scheduler,
        rates=Question((1e-3, 1e-2), is_range=True),
        folder=folder / "ray",
    )
