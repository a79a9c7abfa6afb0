"""How many units have a place, for how long too few had one, and whether dying ones are worth replacing."""

import time
from collections.abc import Callable
from enum import Enum

from cluster.policies import Deaths


class Verdict(Enum):
    """What the number of placed units means for the run."""

    WAIT = "too few to begin with, or too few left, but not for long"
    COMPUTE = "enough to go on"
    GIVE_UP = "too few for too long"


class Roster:
    """Counts units; the run begins once `min_to_start` have a place and then goes on while `min_to_go_on` have one.

    Fewer are waited for: `start_timeout_s` at the beginning, `regrow_timeout_s` later. `num_mortal`, units and whatever
    else may die, says how many deaths are tolerated.
    """

    def __init__(
        self,
        num_mortal: int,
        min_to_start: int,
        min_to_go_on: int,
        start_timeout_s: float,
        regrow_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_placed, self._num_mortal, self._deaths = 0, num_mortal, Deaths()
        self._min_to_start, self._min_to_go_on = min_to_start, min_to_go_on
        self._start_timeout_s, self._regrow_timeout_s, self._clock = start_timeout_s, regrow_timeout_s, clock
        self._has_begun = False
        self._short_since: float | None = clock()

    @property
    def has_begun(self) -> bool:
        """Whether there were once enough."""
        return self._has_begun

    @property
    def num_needed(self) -> int:
        """The least that is enough now."""
        return self._min_to_go_on if self._has_begun else self._min_to_start

    @property
    def short_s(self) -> float:
        """Seconds since when too few have a place; 0 if enough have."""
        return 0.0 if self._short_since is None else self._clock() - self._short_since

    def place(self) -> None:
        """A unit has a place now."""
        self.num_placed += 1
        self._has_begun = self._has_begun or self.num_placed >= self._min_to_start
        if self.num_placed >= self.num_needed:
            self._short_since = None

    def lose(self) -> None:
        """A unit that had a place died."""
        self.num_placed -= 1
        self._deaths = self._deaths.die()
        if self.num_placed < self.num_needed and self._short_since is None:
            self._short_since = self._clock()

    def lose_server(self) -> None:
        """The server died, or a slice of it."""
        self._deaths = self._deaths.die()

    def step(self, is_new: bool) -> None:
        """A meta-step was done, for the first time or again: what died until now was worth replacing."""
        self._deaths = self._deaths.step(is_new)

    @property
    def is_worth_replacing(self) -> bool:
        """False where everything that is started dies before it gets anything done."""
        return self._deaths.may_replace(self._num_mortal)

    @property
    def complaint(self) -> str:
        """Why it is not."""
        return self._deaths.complaint

    def verdict(self) -> Verdict:
        """What is to be done now."""
        if self._short_since is None:
            return Verdict.COMPUTE
        timeout_s = self._regrow_timeout_s if self._has_begun else self._start_timeout_s
        return Verdict.GIVE_UP if self.short_s >= timeout_s else Verdict.WAIT
