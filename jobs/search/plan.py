"""What the Ray side of a search is given, and whom it tells."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from cluster.plan import TrainingPlan
from jobs.search.space_ends import Question
from jobs.search.space_points import Point
from jobs.search.trial import Curve, TrialPlan
from jobs.search.trials import Trial, Trials

LEARNING_RATE = "optimizer.learning_rate"  # what PBT changes


class Watcher(Protocol):
    """Who is told how a search goes."""

    def begun(self, trial: Trial) -> Trial:
        """A trial is about to start, or to go on after a resume; what is to be remembered of it comes back."""
        ...

    def reported(self, trial: Trial, curve: Curve) -> Trial:
        """A trial reported; `curve` is what its learning curve gained. What is to be remembered comes back."""
        ...

    def ended(self, trial: Trial) -> Trial:
        """A trial is over, by its state; what is to be remembered comes back."""
        ...

    def tick(self) -> None:
        """Some time passed; may raise to end the search."""
        ...


class Tuning(NamedTuple):
    """How trials run: `plan` is what each does, `run` how it looks to the cluster, `folder` is for Tune's own files.

    `rates` is what the space asks about the learning rate.
    """

    plan: TrialPlan
    run: TrainingPlan
    trials: Trials
    propose: Callable[[int, Sequence[Trial]], Point]
    num_trials: int
    num_at_once: int
    scheduler: Literal["asha", "hyperband", "pbt", "none"]
    rates: Question
    folder: Path

    @property
    def num_reports(self) -> int:
        """Reports of a whole trial."""
        return self.place(self.run.num_steps)

    def place(self, num_steps: int) -> int:
        """Which of its reports a trial makes after so many meta-steps, from 1."""
        return -(-num_steps // self.run.checkpoint_every)
