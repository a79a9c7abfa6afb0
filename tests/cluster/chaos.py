"""Deaths by a seed: who dies, after which meta-step, how long after it."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import psutil
from victims import victims

ACTORS = {"worker": "Worker", "rank": "Rank", "server": "Server", "slice": "Slice"}


class Kill(NamedTuple):
    """Somebody of `kind`, `place` of the way through those there are, dies `delay_s` after meta-step `version`."""

    version: int
    kind: str
    place: float
    delay_s: float


def planned(seed: int, num_steps: int, num_kills: int, kinds: Sequence[str]) -> list[Kill]:
    """The deaths of a seed, in order of their meta-steps, which leave the run something to do."""
    draw = np.random.default_rng(seed)
    versions = sorted(int(version) for version in draw.integers(1, num_steps - 3, size=num_kills))
    return [
        Kill(version, kinds[int(draw.integers(len(kinds)))], float(draw.random()), float(draw.uniform(0, 0.06)))
        for version in versions
    ]


class Killer:
    """Carries the deaths out as meta-steps pass; `others` kills what is no actor, by kind."""

    def __init__(self, kills: Sequence[Kill], others: Mapping[str, Callable[[float], None]]) -> None:
        self._due, self._others = list(kills), others
        self.done: list[Kill] = []

    def after(self, version: int) -> None:
        """Kill whoever is to die by now; one who is dead already, and not replaced before the driver goes on, later."""
        while self._due and self._due[0].version <= version:
            kill = self._due[0]
            time.sleep(kill.delay_s)
            if kill.kind in self._others:
                self._others[kill.kind](kill.place)
            elif not kill_actor(ACTORS[kill.kind], kill.place):
                return
            self.done.append(self._due.pop(0))


def kill_actor(class_name: str, place: float) -> bool:
    """SIGKILL to one actor process of a class; false if there is none."""
    while found := victims(class_name):
        try:
            found[int(place * len(found))].kill()
            return True
        except psutil.NoSuchProcess:  # it went between the two lines
            continue
    return False
