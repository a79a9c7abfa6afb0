"""Posterior predictive curves on sample tasks of every mode."""

import math
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mcb.figures.style import ACCENT, COLUMN_WIDTH, INK, LABEL_SIZE, PAGE_WIDTH, PRIMARY, TICK_SIZE, finish, new_figure
from mcb.predictive import GaussianMixture
from mcb.types import Task

_MOST_COLUMNS = 5
_PANEL_HEIGHT = 1.05  # inches
_LIGHT, _MIDDLE = "#D2E5F2", "#8EC0E0"  # tints of PRIMARY


class _Curves(NamedTuple):
    """What one panel draws, on the grid `x`; `truth` may be missing."""

    x: np.ndarray
    mean: np.ndarray
    half: tuple[np.ndarray, np.ndarray]
    most: tuple[np.ndarray, np.ndarray]
    truth: np.ndarray | None
    support: tuple[np.ndarray, np.ndarray]


def posterior_predictive(
    predictive: GaussianMixture,
    tasks: Task,
    x: Float[Tensor, "T G"],
    mode_names: tuple[str, ...] = (),
    truth: Float[Tensor, "T G"] | None = None,
    x_label: str = "x",
    y_label: str = "y",
) -> Figure:
    """One panel a task: support points, predictive mean, central 50 and 90 % intervals and, where known, the truth.

    `predictive` is that of `tasks` at the grid `x`: its query axis is G, and output 0 is drawn against input 0. The
    tasks of a true mode stand in one column, at most five columns beside each other; tasks of unknown mode fill rows.

    Raises:
        ValueError: there is no task.
    """
    if not len(x):
        raise ValueError("num_tasks=0 must be at least 1: there is nothing to draw")
    columns = _columns(tasks.mode.tolist())
    num_blocks = math.ceil(len(columns) / _MOST_COLUMNS)
    num_columns = math.ceil(len(columns) / num_blocks)
    height = max(len(column) for column in columns)
    curves = _curves(predictive, tasks, x, truth)

    is_wide = num_columns > 2
    figure = new_figure(PAGE_WIDTH if is_wide else COLUMN_WIDTH, _PANEL_HEIGHT * height * num_blocks + 0.75)
    grid = figure.subplots(height * num_blocks, num_columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, column in enumerate(columns):
        block, place = divmod(number, num_columns)
        mode = int(tasks.mode[column[0]])
        for row, task in enumerate(column):
            axes = grid[block * height + row, place]
            axes.set_axis_on()
            _draw(axes, curves[task])
            is_top, is_bottom = row == 0, row == len(column) - 1
            title = mode_names[mode] if is_top and 0 <= mode < len(mode_names) else ""
            finish(axes, title)
            axes.tick_params(labelbottom=is_bottom or not torch.equal(x[task], x[column[-1]]))
    figure.supxlabel(x_label, fontsize=LABEL_SIZE, color=INK)
    figure.supylabel(y_label, fontsize=LABEL_SIZE, color=INK)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=5 if is_wide else 3,
        fontsize=LABEL_SIZE if is_wide else TICK_SIZE,
        frameon=False,
        handlelength=1.6,
        columnspacing=1.5,
    )
    return figure


def _columns(modes: list[int]) -> list[list[int]]:
    """Tasks of each column: those of one true mode, or, where modes are not known, every fifth task."""
    known = sorted({mode for mode in modes if mode >= 0})
    if known:
        return [[task for task, mode in enumerate(modes) if mode == one] for one in known]
    num_columns = min(_MOST_COLUMNS, len(modes))
    return [list(range(place, len(modes), num_columns)) for place in range(num_columns)]


def _curves(predictive: GaussianMixture, tasks: Task, x: Tensor, truth: Tensor | None) -> list[_Curves]:
    """Every task's curves as arrays."""
    mean = predictive.expectation()[..., 0].detach().numpy()
    half, most = (tuple(end[..., 0].numpy() for end in predictive.interval(level)) for level in (0.5, 0.9))
    curves = []
    for task in range(len(x)):
        present = tasks.support_mask[task]
        support = (tasks.support_x[task, present, 0].numpy(), tasks.support_y[task, present, 0].numpy())
        curves.append(
            _Curves(
                x=x[task].numpy(),
                mean=mean[task],
                half=(half[0][task], half[1][task]),
                most=(most[0][task], most[1][task]),
                truth=None if truth is None else truth[task].numpy(),
                support=support,
            )
        )
    return curves


def _draw(axes: Axes, curves: _Curves) -> None:
    axes.fill_between(curves.x, *curves.most, color=_LIGHT, linewidth=0, label="90 % interval")
    axes.fill_between(curves.x, *curves.half, color=_MIDDLE, linewidth=0, label="50 % interval")
    axes.plot(curves.x, curves.mean, color=PRIMARY, linewidth=1.3, label="predictive mean")
    if curves.truth is not None:
        axes.plot(curves.x, curves.truth, color=ACCENT, linewidth=1.1, dashes=(3, 1.5), label="truth")
    axes.plot(
        *curves.support,
        "o",
        color=INK,
        markersize=3.2,
        markeredgewidth=0,
        zorder=4,
        clip_on=False,
        label="support point",
    )
    axes.set_xlim(curves.x.min(), curves.x.max())
    axes.set_ylim(*_limits(curves))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))


def _limits(curves: _Curves) -> tuple[float, float]:
    """All that is known of the task and most of the intervals: a fan far outside the support would flatten the rest."""
    exact = [curves.mean, curves.support[1], *curves.half] + ([] if curves.truth is None else [curves.truth])
    low, high = (end(np.concatenate(exact)) for end in (np.min, np.max))
    slack = 0.25 * (high - low)
    low, high = (
        max(low - slack, min(chain(curves.most[0], [low]))),
        min(high + slack, max(chain(curves.most[1], [high]))),
    )
    margin = 0.05 * (high - low) + 1e-6
    return float(low - margin), float(high + margin)
