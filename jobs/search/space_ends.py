"""The ends of a search space's ranges on each of its branches, and what a space asks about a setting."""

import random
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple, cast

from jobs.search.space_points import Point, answered
from jobs.search.spaces import Space, Value

_NUM_DRAWN = 2000


class Question(NamedTuple):
    """What a space asks about a setting: all choices, or the two ends of a range; no values if it does not ask."""

    values: tuple[Value, ...]
    is_range: bool


class _Ends:
    """Answers at random, a range by one of its ends, and notes each question that it is asked."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.ranges: dict[str, tuple[float, float]] = {}
        self.choices: dict[str, tuple[Value, ...]] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        self.choices[name] = tuple(dict.fromkeys((*self.choices.get(name, ()), *choices)))
        return self._random.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return cast(int, self._end(name, low, low + (high - low) // step * step))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return cast(float, self._end(name, low, high))

    def _end(self, name: str, low: float, high: float) -> Value:
        lowest, highest = self.ranges.get(name, (low, high))
        self.ranges[name] = (min(low, lowest), max(high, highest))
        return self._random.choice((low, high))


def ends(space: Space) -> list[Point]:
    """Points with every range at one of its ends: any two answers that can go together do so in one of them.

    >>> def small(ask):
    ...     if ask.suggest_categorical("a", ("x", "y")) == "y":
    ...         ask.suggest_int("b", 1, 100, log=True)
    >>> sorted(ends(small), key=lambda point: point.get("b", 0))
    [{'a': 'x'}, {'a': 'y', 'b': 1}, {'a': 'y', 'b': 100}]
    """
    asks, seen, points = _Ends(0), set(), []
    for _ in range(_NUM_DRAWN):
        point = answered(space, asks)
        pairs = set(combinations(point.items(), 2)) | {(answer,) for answer in point.items()}
        if not pairs <= seen:
            seen |= pairs
            points.append(point)
    return points


def asked(space: Space, path: str) -> Question:
    """What a space asks about a setting on any of its branches."""
    asks = _Ends(0)
    for _ in range(_NUM_DRAWN):
        answered(space, asks)
    if path in asks.choices:
        return Question(asks.choices[path], is_range=False)
    return Question(asks.ranges.get(path, ()), is_range=True)
