"""Which point a search tries next: a function of its seed and of what the trials so far have given."""

import logging
import random
import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import Literal, NamedTuple

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from jobs.search.space_points import Point, answered, grid
from jobs.search.spaces import Space
from jobs.search.trials import Trial
from mcb.randomness import fold_key

Searcher = Literal["tpe", "random", "grid"]
SecondObjective = Literal["seconds", "num-modes"]

_NUM_ON_RANGE = 3
_LARGEST_GRID = 100_000
_MOST_RANDOM_TRIALS = 10
logging.getLogger("optuna").setLevel(logging.WARNING)


class Proposals(NamedTuple):
    """How points are chosen. `first` is tried before all others, except by a grid."""

    space: Space
    searcher: Searcher
    seed: int
    num_trials: int
    first: Point
    second_objective: SecondObjective | None = None

    def __call__(self, number: int, trials: Sequence[Trial]) -> Point:
        """The point of trial `number`, given those before it."""
        match self.searcher:
            case "grid":
                return dict(_shuffled_grid(self.space, self.seed)[number])
            case _ if number == 0:
                return self.first
            case "random":
                return self._ask(RandomSampler(self._seed(number)), ())
            case "tpe":
                return self._ask(self._tpe(number), trials)

    def _tpe(self, number: int) -> BaseSampler:
        """Estimators of all settings together, one for every part of a conditional space (Bergstra et al. 2011).

        Trials still running count as bad ones, so that those at once do not all try the same.
        """
        num_random = max(1, min(_MOST_RANDOM_TRIALS, self.num_trials // 4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(
                n_startup_trials=num_random,
                seed=self._seed(number),
                multivariate=True,
                group=True,
                constant_liar=True,
            )

    def _ask(self, sampler: BaseSampler, trials: Sequence[Trial]) -> Point:
        study = study_of(self.space, trials, self.second_objective)
        study.sampler = sampler
        return answered(self.space, study.ask())

    def _seed(self, number: int) -> int:
        return fold_key(self.seed, "search", number) % 2**32


def study_of(
    space: Space, trials: Sequence[Trial], second_objective: SecondObjective | None = None
) -> optuna.study.Study:
    """The trials as an Optuna study in memory, to be minimised.

    Of a trial that was ended early, seconds count as if it had gone on at its pace: it is not the faster for it.
    """
    directions = [StudyDirection.MINIMIZE] * (1 if second_objective is None else 2)
    study = optuna.create_study(directions=directions, sampler=RandomSampler(0))
    most = max((trial.last.num_steps for trial in trials if trial.last is not None), default=0)
    for trial in trials:
        study.enqueue_trial(dict(trial.point))
        asked = study.ask()
        answered(space, asked)
        if trial.state == "failed" or (trial.state != "running" and trial.last is None):
            study.tell(asked, state=TrialState.FAIL)
        elif trial.state != "running":
            values = objectives(trial, second_objective)
            if second_objective == "seconds":
                values[1] *= most / trial.reports[-1].num_steps
            study.tell(asked, values)
    return study


def objectives(trial: Trial, second_objective: SecondObjective | None) -> list[float]:
    """What a trial with a report is judged by, all to be small."""
    last = trial.reports[-1]
    second = {"seconds": [last.seconds], "num-modes": [float(last.num_modes)], None: []}
    return [last.objective, *second[second_objective]]


def pareto_front(trials: Sequence[Trial], second_objective: SecondObjective) -> list[Trial]:
    """The trials to which no other is better in one objective and not worse in the other, by the first objective."""
    judged = [(objectives(trial, second_objective), trial) for trial in trials]
    front = [
        (values, trial)
        for values, trial in judged
        if not any(other != values and all(a <= b for a, b in zip(other, values, strict=True)) for other, _ in judged)
    ]
    return [trial for _, trial in sorted(front, key=lambda pair: pair[0])]


def grid_size(space: Space) -> int:
    """Number of points of a space's grid."""
    return len(_shuffled_grid(space, 0))


@lru_cache(maxsize=2)
def _shuffled_grid(space: Space, seed: int) -> list[Point]:
    """A space's grid in an order of the seed's, so that its beginning is a sample of all of it."""
    points = list(islice(grid(space, _NUM_ON_RANGE), _LARGEST_GRID))
    random.Random(fold_key(seed, "grid")).shuffle(points)
    return points
