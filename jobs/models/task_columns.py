"""The columns of a table of tasks, a row for each point."""

TASK, SET, FAMILY = "task", "set", "family"
SUPPORT, QUERY = "support", "query"


def numbered(name: str, size: int) -> list[str]:
    """The columns of a vector.

    >>> numbered("x", 1), numbered("x", 2)
    (['x'], ['x1', 'x2'])
    """
    return [name] if size == 1 else [f"{name}{number + 1}" for number in range(size)]
