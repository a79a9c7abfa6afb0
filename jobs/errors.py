"""How a command ends other than by success."""

import difflib
from collections.abc import Iterable

from cluster.errors import UserError


class UsageError(UserError):
    """The command line itself is wrong: unknown names, values out of range (exit code 2)."""


class Interrupted(Exception):
    """The user or the machine stopped the run; the message says what was saved and how to go on (exit code 130)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a refusal: the known name that was most likely meant, or all of them.

    >>> nearest("five-mods", ["five-modes", "curves"]), nearest("x", ["five-modes", "curves"])
    ('; did you mean five-modes?', '; there are five-modes, curves')
    """
    names = list(dict.fromkeys(known))
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else f"; there are {', '.join(names)}"
