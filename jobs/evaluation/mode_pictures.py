"""The figures of the modes that a run has found."""

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from jobs.building.objects import Source
from jobs.building.statistics import support_statistics
from jobs.evaluation.found_modes import FoundMode, FoundModes, prior_predictive
from jobs.evaluation.grids import grid
from jobs.evaluation.scores import NOISE_KEY, TEST_SEED
from mcb.figures import found_against_true, representative_tasks, tasks_by_mode
from mcb.learner import ModeConditionalBayesianMAML
from mcb.modes.definition import RefreshedModes
from mcb.types import Task

_MOST_DRAWN = 15  # modes with a panel of their own


def mode_figures(learner: ModeConditionalBayesianMAML, source: Source, found: FoundModes) -> dict[str, Figure]:
    """Tasks in two dimensions, found modes against true ones where these are known, and a typical task of each."""
    names, mode = source.mode_names, found.tasks.mode
    figures = {
        "mode_tasks": tasks_by_mode(_points(learner, source, found.tasks), found.label, mode, names),
        "mode_members": _members(learner, source, found),
    }
    if (mode >= 0).any():
        figures["mode_confusion"] = found_against_true(found.label, mode, names)
    return figures


@torch.no_grad()
def _points(learner: ModeConditionalBayesianMAML, source: Source, tasks: Task) -> Float[Tensor, "T R"]:
    """What the modes were clustered by, or support statistics where they were not."""
    indices = torch.arange(len(tasks.mode))
    if isinstance(learner.modes, RefreshedModes) and learner.modes.surveys == "representations":
        return learner.survey(tasks.support, tasks.mode, learner.noise(NOISE_KEY, indices))
    return support_statistics(source, TEST_SEED, indices)


def _members(learner: ModeConditionalBayesianMAML, source: Source, found: FoundModes) -> Figure:
    """The modes with most tasks."""
    tasks = Task(*(leaf[found.typical[:_MOST_DRAWN]] for leaf in found.tasks))
    x = grid(source, tasks)
    predictive = prior_predictive(learner, found.slots[:_MOST_DRAWN], x, tasks.support_y)
    titles = tuple(_title(mode) for mode in found.modes[:_MOST_DRAWN])
    return representative_tasks(predictive, tasks, x[..., 0], titles)


def _title(mode: FoundMode) -> str:
    family, num_members = next(iter(mode.families.items()))
    return f"mode {mode.slot}: {mode.num_tasks} tasks\n{100 * num_members / mode.num_tasks:.0f} % {family}"
