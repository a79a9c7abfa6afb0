"""A learner's state, which changes at fixed meta-steps alone: what is surveyed for it, and what becomes of a survey.

The state is a flat float32 vector beside the parameters, without gradient. In every `every`-th meta-step the workers
compute a row for each task of a fixed reservoir, the *survey*; a *refresh* makes a new state of it, off the training
path, and `lag` meta-steps after the survey it is adopted, however soon it was there. So no bit depends on timing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from cluster.errors import UserError, require_at_least
from cluster.threads import threads
from mcb.modes.one_thread import one_thread


class Refreshed(NamedTuple):
    """What a refresh gives: a state of the same length, float32, and what is to be said about it."""

    state: np.ndarray
    metrics: Mapping[str, float]


class Refreshes(Protocol):
    """The computation of a refresh, a pure function."""

    def __call__(self, version: int, parameters: np.ndarray, state: np.ndarray, survey: np.ndarray) -> Refreshed:
        """The state after that at which meta-step `version` made its `survey` (N, R), float32.

        `parameters` and `state` are those of the survey; any array may be read-only.
        """
        ...


@dataclass(frozen=True, eq=False)
class RefreshPlan:
    """When the state is refreshed, and by what.

    Meta-steps 0, `every`, 2 `every`, ... survey the reservoir's `num_tasks` tasks, and a refresh is adopted before the
    meta-step `lag` later, however many the run has: one that goes on from where a shorter one ended finds the refresh
    that waits. `state` is the initial one; `build` makes the computation where it runs and must be picklable.
    """

    every: int
    lag: int
    num_tasks: int
    state: np.ndarray
    build: Callable[[], Refreshes]

    def __post_init__(self) -> None:
        """Raise `UserError` for a value out of its range."""
        require_at_least(1, refresh_every=self.every, num_reservoir=self.num_tasks)
        if not 1 <= self.lag <= self.every:
            raise UserError(
                f"refresh_lag={self.lag} must lie in 1..refresh_every={self.every}: a refresh is adopted before the "
                "next survey at the latest"
            )
        if self.state.dtype != np.float32 or self.state.ndim != 1:
            raise UserError(f"the initial state is {self.state.dtype} of shape {self.state.shape}, not flat float32")

    def num_surveyed(self, version: int) -> int:
        """Tasks that meta-step `version` surveys, 0 in most."""
        return self.num_tasks if version % self.every == 0 else 0

    def waiting_at(self, version: int) -> int | None:
        """The meta-step for which a refresh waits when `version` meta-steps are done; None if none does.

        >>> plan = RefreshPlan(every=4, lag=2, num_tasks=9, state=np.zeros(3, np.float32), build=object)
        >>> [plan.waiting_at(version) for version in range(8)]
        [None, 2, 2, None, None, 6, 6, None]
        """
        due = (version - 1) // self.every * self.every + self.lag
        return due if version > 0 and due >= version else None


class Survey(NamedTuple):
    """What meta-step `version` found: a row for each task of the reservoir, under the state of then."""

    version: int
    state: np.ndarray
    rows: np.ndarray


class Pending(NamedTuple):
    """A refresh that is to be adopted before meta-step `version`."""

    version: int
    state: np.ndarray
    metrics: Mapping[str, float]


def refresh(refreshes: Refreshes, parameters: np.ndarray, survey: Survey) -> Refreshed:
    """The refresh of a survey, computed with one thread wherever that is; raises `UserError` for a misshapen state."""
    with threads(1), one_thread():
        refreshed = refreshes(survey.version, parameters, survey.state, survey.rows)
    if refreshed.state.dtype != np.float32 or refreshed.state.shape != survey.state.shape:
        raise UserError(
            f"the refresh after meta-step {survey.version} gave a state of {refreshed.state.dtype} and shape "
            f"{refreshed.state.shape}, but the run's is float32 of shape {survey.state.shape}"
        )
    if not np.isfinite(refreshed.state).all():
        raise UserError(f"the refresh after meta-step {survey.version} gave a state that is not finite")
    return refreshed


def join(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The survey of which shards found these parts, in their order; None where they made none."""
    found = [part for part in parts if part is not None and len(part)]
    return np.concatenate(found) if found else None
