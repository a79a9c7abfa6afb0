"""What a learner must know of the tasks that it was trained on, when these are not at hand."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cluster.errors import CheckpointError
from mcb.tasks.curves import CurveTasks
from mcb.types import HasForm
from mcb.units import Units


class TaskForm(NamedTuple):
    """Names of the families, sizes of a point, and the units that training was in."""

    mode_names: tuple[str, ...]
    x_size: int
    y_size: int
    units: Units


def form_of(source: HasForm) -> TaskForm:
    """The form of a source's tasks."""
    names, x_size, y_size = source.mode_names, source.x_size, source.y_size
    units = source.units if isinstance(source, CurveTasks) else Units.identity(x_size, y_size)
    return TaskForm(names, x_size, y_size, units)


def form_tree(source: HasForm) -> Mapping[str, object]:
    """What a checkpoint keeps of it: all where a file of data decides it, nothing where the settings do."""
    return form_of(source).units.tree() if isinstance(source, CurveTasks) else {}


def form_from_tree(tree: Mapping[str, Any]) -> TaskForm:
    """The inverse of `form_tree` where that kept something; raises `CheckpointError` for another tree."""
    try:
        units = Units.from_tree(tree)
        return TaskForm(units.families, units.x_mean.shape[1], units.y_mean.shape[1], units)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"the checkpoint says nothing sensible of its tasks ({error!r})") from error
