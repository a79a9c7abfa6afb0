"""A point of a search space: the settings that it stands for, how one is replayed, and all points of a grid."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from jobs.errors import UsageError, nearest
from jobs.search.spaces import Asks, Space, Value
from jobs.settings.file import flatten
from jobs.settings.leaves import leaves
from jobs.settings.overrides import override
from jobs.settings.tree import Settings

Point = dict[str, Value]


def settings_at(base: Settings, point: Mapping[str, Value]) -> Settings:
    """`base` with the answers of a point; raises `UsageError` for an unknown setting and a value out of range."""
    known = {leaf.path for leaf in leaves()}
    for path in point:
        if path not in known:
            raise UsageError(f"the space names an unknown setting {path}{nearest(path, known)}")
    return override(base, {path: ["none" if value is None else str(value)] for path, value in point.items()})


class Noted:
    """Passes a space's questions on to `asks` and notes the answers in `point`."""

    def __init__(self, asks: Asks) -> None:
        self._asks, self.point = asks, Point()

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """One of `choices`."""
        self.point[name] = answer = self._asks.suggest_categorical(name, choices)
        return answer

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number from `low` to `high`."""
        self.point[name] = answer = self._asks.suggest_int(name, low, high, step=step, log=log)
        return answer

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from `low` to `high`."""
        self.point[name] = answer = self._asks.suggest_float(name, low, high, step=step, log=log)
        return answer


class _Sparing(Noted):
    """Gives the single answer of a question that has no other."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """One of `choices`."""
        if len(choices) > 1:
            return super().suggest_categorical(name, choices)
        self.point[name] = choices[0]
        return choices[0]


def answered(space: Space, asks: Asks) -> Point:
    """The point that the answers of `asks` lead to; it is not asked where there is a single answer."""
    noted = _Sparing(asks)
    space(noted)
    return noted.point


def point_of(space: Space, settings: Settings) -> Point:
    """The point of a space that is nearest to some settings: what a search begins with.

    A value that the space does not offer becomes the nearest bound or the first choice; so does one that there is not.
    """
    flat = flatten(settings.model_dump(mode="json"))
    return answered(space, _Given({path: as_value(value) for path, value in flat.items()}))


class _Given:
    """Answers with given values."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        value = self._values.get(name)
        return value if value in choices else choices[0]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return min(high, max(low, int(self._number(name, low))))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return min(high, max(low, self._number(name, low)))

    def _number(self, name: str, default: float) -> float:
        value = self._values.get(name)
        return default if value is None or isinstance(value, str) else float(value)


def as_value(value: object) -> Value:
    """A setting as a space has it: a sequence is one word of the command line."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(one) for one in value)
    return cast(Value, value)


def grid(space: Space, resolution: int) -> Iterator[Point]:
    """Every combination of a space's choices, `resolution` values of each range, evenly spaced with both ends.

    >>> def small(ask):
    ...     if ask.suggest_categorical("a", ("x", "y")) == "y":
    ...         ask.suggest_int("b", 1, 100, log=True)
    >>> list(grid(small, 3))
    [{'a': 'x'}, {'a': 'y', 'b': 1}, {'a': 'y', 'b': 10}, {'a': 'y', 'b': 100}]
    """
    walk = _Walk(resolution)
    while True:
        yield answered(space, walk)
        if not walk.next_path():
            return


class _Walk:
    """Answers along one path through the tree of a space's choices, which `next_path` moves on from."""

    def __init__(self, resolution: int) -> None:
        self._resolution = resolution
        self._turns: list[tuple[int, int]] = []  # at each question, which answer and of how many
        self._depth = 0

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        return self._turn(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        values = [round(value) for value in _spaced(low, high, self._resolution, log)]
        on_step = dict.fromkeys(low + step * round((value - low) / step) for value in values)
        return cast(int, self._turn([value for value in on_step if value <= high]))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return cast(float, self._turn(_spaced(low, high, self._resolution, log)))

    def next_path(self) -> bool:
        """Turn to the next path; False after the last."""
        while self._turns and self._turns[-1][0] + 1 == self._turns[-1][1]:
            self._turns.pop()
        self._depth = 0
        if not self._turns:
            return False
        self._turns[-1] = (self._turns[-1][0] + 1, self._turns[-1][1])
        return True

    def _turn(self, values: Sequence[Value]) -> Value:
        if self._depth == len(self._turns):
            self._turns.append((0, len(values)))
        value = values[self._turns[self._depth][0]]
        self._depth += 1
        return value


def _spaced(low: float, high: float, num: int, log: bool) -> list[float]:
    """`num` values from `low` to `high`; the middle one if `num` is 1."""
    shares = [0.5] if num == 1 else [index / (num - 1) for index in range(num)]
    if low == high:
        return [low]
    return [low * (high / low) ** share if log else low + (high - low) * share for share in shares]
