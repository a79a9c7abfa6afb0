"""A search space in a YAML file: a named one, with settings held fixed, other ranges, or settings of its own.

`extends` names a space, or is left out. `settings` maps paths to one value, to a list of choices, or to a range
`{low: 0.001, high: 0.01, log: true}`, which may have a `step`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from jobs.errors import UsageError, nearest
from jobs.search.space_points import Noted, Point, as_value
from jobs.search.spaces import Asks, Space, Value, space
from jobs.settings.file import flatten
from jobs.settings.leaves import Leaf, leaves
from jobs.settings.section import Section
from jobs.settings.tree import Settings


class Range(Section):
    """Numbers from `low` to `high`, whole if both are."""

    low: int | float
    high: int | float
    log: bool = False
    step: Annotated[int | float | None, Field(gt=0)] = None


Question = Sequence[Value] | Range
_PARTS = ("extends", "settings")


def read_space(name: str) -> str | dict[str, object]:
    """What `--space` names: a named space, or what a YAML file holds. Raises `UsageError` if it cannot be read."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        return name
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"the space {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("settings"), dict):
        raise UsageError(f"the space {path} must have settings: from paths to values, lists or ranges")
    if unknown := sorted(set(tree) - set(_PARTS)):
        raise UsageError(f"the space {path} has an unknown part {unknown[0]!r}{nearest(unknown[0], _PARTS)}")
    return tree


def make_space(read: str | Mapping[str, object], base: Settings) -> Space:
    """The space that `read_space` read, for a search from `base`; raises `UsageError` if it is none or does not fit."""
    if isinstance(read, str):
        return space(read)
    settings = cast(Mapping[str, object], read["settings"])
    questions = {path: _question(path, value) for path, value in settings.items()}
    flat = flatten(base.model_dump())
    kinds = {path: str(value) for path, value in flat.items() if path.endswith(".kind")}
    return extended(space(str(read["extends"])) if "extends" in read else _nothing, questions, kinds)


def extended(base: Space, questions: Mapping[str, Question], kinds: Mapping[str, str]) -> Space:
    """`base` with its questions of these paths replaced, and the rest of them asked at the end where they apply.

    A setting that belongs to a choice (`modes.num_modes` to `modes.kind=codebook`) is asked where that is the choice;
    `kinds` are those made where a space does not ask.
    """
    owners = {path: [leaf.choice for leaf in leaves() if leaf.path == path] for path in questions}

    def ask_all(ask: Asks) -> None:
        replaced = _Replaced(ask, questions)
        base(replaced)
        for path in sorted(questions, key=lambda path: not path.endswith(".kind")):
            if path not in replaced.answers and _applies(path, owners[path], {**kinds, **replaced.answers}):
                replaced.ask(path)

    return ask_all


class _Replaced:
    """Asks the questions of the file where it has them, else those of the space."""

    def __init__(self, asks: Asks, questions: Mapping[str, Question]) -> None:
        self._noted, self._questions = Noted(asks), questions

    @property
    def answers(self) -> Point:
        """All answers so far."""
        return self._noted.point

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        if name in self._questions:
            return self.ask(name)
        return self._noted.suggest_categorical(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if name in self._questions:
            return cast(int, self.ask(name))
        return self._noted.suggest_int(name, low, high, step=step, log=log)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self._questions:
            return cast(float, self.ask(name))
        return self._noted.suggest_float(name, low, high, step=step, log=log)

    def ask(self, path: str) -> Value:
        """Ask the file's question."""
        match self._questions[path]:
            case Range(low=int(low), high=int(high), step=int() | None as step, log=log):
                return self._noted.suggest_int(path, low, high, step=step or 1, log=log)
            case Range(low=low, high=high, step=step, log=log):
                return self._noted.suggest_float(path, low, high, step=step, log=log)
            case choices:
                return self._noted.suggest_categorical(path, tuple(cast(Sequence[Value], choices)))


def _nothing(ask: Asks) -> None:
    """The space without a question."""


def _applies(path: str, owners: Sequence[str], answers: Mapping[str, Value]) -> bool:
    """Whether a setting is one that the choices made have; `owners` are the choices that have it, as a leaf says."""
    parts = [owner.partition("=") for owner in owners]
    return any(kind in ("", path) or answers[kind] == choice for kind, _, choice in parts)


def _question(path: str, value: object) -> Question:
    """What a file says of a setting; raises `UsageError` for an unknown setting and for values out of its range."""
    found = [leaf for leaf in leaves() if leaf.path == path]
    if not found:
        names = nearest(path, (leaf.path for leaf in leaves()))
        raise UsageError(f"the space names an unknown setting {path}{names}")
    if isinstance(value, dict):
        try:
            question = Range.model_validate(value)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join([path, *map(str, problem["loc"][:1])])
            raise UsageError(f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}") from error
        if question.low > question.high or (question.log and question.low <= 0):
            raise UsageError(f"{path}: low={question.low:g} must be at most high={question.high:g}, above 0 where log")
        ends: list[object] = [question.low, question.high]
    else:
        ends = list(value) if isinstance(value, list) else [value]
        question = tuple(as_value(one) for one in ends)
        if not ends:
            raise UsageError(f"{path} is an empty list: give a value, several, or a range with low and high")
    for end in ends:
        _require_fit(found, end)
    return question


def _require_fit(owners: Sequence[Leaf], value: object) -> None:
    """Raise `UsageError` if no choice's setting takes the value."""
    for leaf in owners:
        try:
            words = value.split(",") if leaf.is_sequence and isinstance(value, str) else value
            TypeAdapter(cast(type, Annotated[leaf.type, leaf.field])).validate_python(words)
            return
        except ValidationError:
            continue
    wanted = " or ".join(dict.fromkeys(leaf.wanted for leaf in owners))
    raise UsageError(f"{owners[0].path}={value} in the space must be {wanted}")
