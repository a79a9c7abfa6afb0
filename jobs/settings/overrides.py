"""Settings from the command line: `--train.num-steps 100`, `--network.hidden 40 40 16`, `--inference.kind svgd`."""

from collections.abc import Mapping, Sequence
from typing import cast

from jobs.errors import UsageError
from jobs.settings.file import validate
from jobs.settings.leaves import Leaf, leaves
from jobs.settings.tree import Settings

Overrides = dict[str, list[str]]
Tree = dict[str, object]


def split(words: Sequence[str]) -> tuple[Overrides, list[str]]:
    """The words of each setting, by path, and all other words in order; `_` and `-` are the same.

    >>> split(["five-modes", "--seed", "3", "--network.hidden", "8", "4", "--resume"])
    ({'seed': ['3'], 'network.hidden': ['8', '4']}, ['five-modes', '--resume'])
    """
    known = {leaf.option: leaf for leaf in leaves()}
    overrides: Overrides = {}
    others: list[str] = []
    rest = list(words)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        leaf = known.get(option.replace("_", "-")) if option.startswith("--") else None
        if leaf is None:
            others.append(option + equals + value)
            continue
        values = [value] if equals else []
        while not equals and rest and not rest[0].startswith("--") and (leaf.is_sequence or not values):
            values.append(rest.pop(0))
        overrides[leaf.path] = values
    return overrides, others


def override(base: Settings, overrides: Mapping[str, Sequence[str]]) -> Settings:
    """`base` with the values of `overrides` (as `split` gives them). Kinds are chosen first, at their own defaults.

    Raises `UsageError` for a setting that the choices at hand do not have, and for a value out of its range.
    """
    tree: Tree = base.model_dump()
    for path, values in overrides.items():
        section = path.removesuffix(".kind")
        if section != path and values and _at(tree, section)["kind"] != values[0]:
            parent, _, name = section.rpartition(".")
            _at(tree, parent)[name] = {"kind": values[0]}
    tree = validate(tree).model_dump()
    by_path = {leaf.path: leaf for leaf in leaves()}
    for path, values in overrides.items():
        section, _, name = path.rpartition(".")
        if name not in _at(tree, section):
            owners = " or ".join(leaf.choice for leaf in leaves() if leaf.path == path)
            kind = _at(tree, section)["kind"]
            raise UsageError(f"{by_path[path].option} belongs to {owners}, and {section}.kind is {kind} here")
        _at(tree, section)[name] = _value(by_path[path], values)
    return validate(tree)


def _value(leaf: Leaf, values: Sequence[str]) -> object:
    """The words of one setting as pydantic reads them; a switch without a word is on."""
    if leaf.is_sequence:
        return [word for value in values for word in value.split(",") if word]
    if not values and bool in leaf.members:
        return True
    if not values:
        raise UsageError(f"{leaf.option} needs a value: {leaf.wanted}")
    return None if values[0].lower() in ("none", "null") and type(None) in leaf.members else values[0]


def _at(tree: Tree, path: str) -> Tree:
    """The section at a path, the tree itself at the empty one."""
    for name in path.split(".") if path else ():
        tree = cast(Tree, tree[name])
    return tree
