"""The settings tree as a list of leaves: their option names, their owners and what they admit, in words."""

import types
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.settings.tree import Settings

_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


class Leaf(NamedTuple):
    """A setting: its path, the choice that has it (`modes.kind=codebook`) or an empty text, its type and its range."""

    path: str
    choice: str
    type: object
    field: FieldInfo

    @property
    def option(self) -> str:
        """As on the command line."""
        return "--" + self.path.replace("_", "-")

    @property
    def is_sequence(self) -> bool:
        """Whether it takes several values."""
        return get_origin(self.type) is tuple

    @property
    def members(self) -> list[object]:
        """The types that a value, or an element of a sequence, may have."""
        return _members(self.type)

    @property
    def wanted(self) -> str:
        """What it admits: `a whole number from 1 to 4096`."""
        literals = [
            str(value) for member in self.members if get_origin(member) is Literal for value in get_args(member)
        ]
        nouns = [_NOUNS[member] for member in self.members if member in _NOUNS]
        noun = "one of " + ", ".join(literals) if literals else nouns[0]
        several = "one or more, each " if self.is_sequence else ""
        return several + noun + self._range() + (", or None" if type(None) in self.members else "")

    def _range(self) -> str:
        """Bounds in words."""
        parts = list(self.field.metadata)
        for member in get_args(self.type):
            if get_origin(member) is Annotated:
                parts += [part for info in get_args(member)[1:] for part in info.metadata]
        bounds = {name: getattr(part, name) for part in parts for name in ("ge", "gt", "le") if hasattr(part, name)}
        if "ge" in bounds and "le" in bounds:
            return f" from {_number(bounds['ge'])} to {_number(bounds['le'])}"
        if "gt" in bounds:
            return f" above {_number(bounds['gt'])}" + (
                f" and at most {_number(bounds['le'])}" if "le" in bounds else ""
            )
        return ""


def leaves(section: type[BaseModel] = Settings, path: str = "", choice: str = "") -> Iterator[Leaf]:
    """All settings that any choice has, in the order of the tree.

    >>> [leaf.option for leaf in leaves() if leaf.path.startswith("likelihood.")]
    ['--likelihood.init-scale', '--likelihood.min-scale']
    """
    for name, field in section.model_fields.items():
        here = f"{path}{name}"
        kinds = _members(field.annotation)
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for member in sections:
            label = f"{here}.kind={member.model_fields['kind'].default}" if len(sections) > 1 else choice
            yield from leaves(member, f"{here}.", label)
        if not sections and here != "recipe":  # no choice of the user's: the recipe is a command's first word
            yield Leaf(here, choice, field.annotation, field)


def _members(kind: object) -> list[object]:
    """The types that an annotation is made of: members of a union, the element of a sequence, itself."""
    if get_origin(kind) in (Annotated, tuple):
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [member for part in get_args(kind) for member in _members(part)]
    return [kind]


def _number(value: float) -> str:
    """Whole numbers in full, others short."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
