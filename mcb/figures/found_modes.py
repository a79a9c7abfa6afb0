"""The modes that a learner has found: where their tasks lie, how they fit the true ones, what each of them expects."""

import math
from collections.abc import Sequence
from textwrap import fill

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mcb.agreement import contingency
from mcb.figures.modes import SHADES
from mcb.figures.style import (
    GREY,
    INK,
    LABEL_SIZE,
    PAGE_WIDTH,
    PRIMARY,
    TICK_SIZE,
    finish,
    mode_colour,
    mode_marker,
    new_figure,
)
from mcb.predictive import GaussianMixture
from mcb.types import Task

_MOST_COLUMNS = 5
_PANEL_HEIGHT = 1.25  # inches
_LIGHT, _MIDDLE = "#D2E5F2", "#8EC0E0"  # tints of PRIMARY
_TITLE_WIDTH = 24  # letters
_MOST_NUMBERED = 20  # found modes
_CLIP = 0.01  # of the tasks on either side of an axis may lie outside it


def tasks_by_mode(
    points: Float[Tensor, "T R"], label: Int[Tensor, "T"], mode: Int[Tensor, "T"], mode_names: tuple[str, ...]
) -> Figure:
    """Tasks on the first two principal components of `points`, left by true mode, right by found mode `label`.

    Columns count alike: each is divided by its standard deviation. A found mode has the colour and marker of the true
    mode that most of its tasks belong to, so the panels differ where it is mistaken; up to twenty of them stand as
    numbers at the medians of their tasks. Without a known true mode there is only the right panel, coloured by size.

    Raises:
        ValueError: there are fewer than 2 tasks or 2 columns.
    """
    if min(points.shape) < 2:
        raise ValueError(f"points of shape {tuple(points.shape)} must have at least 2 tasks and 2 columns")
    plane, shares = _principal_plane(points)
    has_truth = bool((mode >= 0).any())
    figure = new_figure(PAGE_WIDTH if has_truth else 0.55 * PAGE_WIDTH, 3.1)
    panels = figure.subplots(1, 1 + has_truth, squeeze=False)[0]
    if has_truth:
        _scatter_true(panels[0], plane, mode, mode_names)
        panels[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=TICK_SIZE, frameon=False)
    _scatter_found(panels[-1], plane, label, mode)
    for axes in panels:
        for which, coordinates in zip("xy", plane.T, strict=True):
            low, high = np.quantile(coordinates, [_CLIP, 1 - _CLIP])
            axes.set(**{f"{which}lim": (low - 0.15 * (high - low) - 1e-9, high + 0.15 * (high - low) + 1e-9)})
        first, second = (f"{share:.0f} % of variance" for share in shares)
        axes.set_xlabel(f"first principal component ({first})", fontsize=LABEL_SIZE, color=INK)
        axes.set_ylabel(f"second ({second})" if axes is panels[0] else "", fontsize=LABEL_SIZE, color=INK)
    return figure


def found_against_true(label: Int[Tensor, "T"], mode: Int[Tensor, "T"], mode_names: tuple[str, ...]) -> Figure:
    """What each found mode is made of: its tasks by true mode in per cent, and above how many tasks it has.

    Found modes stand sorted by the true mode of most of their tasks, the larger ones first. Tasks of unknown mode are
    left out.

    Raises:
        ValueError: no task has a known mode.
    """
    if not (mode >= 0).any():
        raise ValueError("mode=-1 for every task: found against true modes need tasks of known mode")
    label, mode = label[mode >= 0], mode[mode >= 0]
    table = contingency(label, mode, int(label.max()) + 1, len(mode_names)).double().numpy()
    found = [k for k in range(len(table)) if table[k].sum()]
    found.sort(key=lambda k: (int(table[k].argmax()), -table[k].sum()))
    share = 100 * table[found] / table[found].sum(1, keepdims=True)

    figure = new_figure(PAGE_WIDTH, 1.35 + 0.28 * len(mode_names))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, max(1.0, 0.5 * len(mode_names))])
    above.bar(range(len(found)), table[found].sum(1), width=0.8, color=PRIMARY, alpha=0.6)
    above.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    finish(above, f"{len(found)} found modes: how many tasks, and of which kind", "", "tasks")
    _draw_shares(figure, (above, below), share)
    for edge in np.flatnonzero(np.diff(table[found].argmax(1))):
        for axes in (above, below):
            axes.axvline(edge + 0.5, color=INK, linewidth=0.8)
    finish(below, "", "found mode, by its slot", "")
    below.set_yticks(range(len(mode_names)), mode_names)
    below.set_xticks(range(len(found)), found, rotation=90 if len(found) > 30 else 0)
    below.tick_params(axis="x", labelsize=TICK_SIZE if len(found) <= 40 else 5)
    below.tick_params(length=0)
    above.tick_params(axis="x", length=0, labelbottom=False)
    below.spines[:].set_visible(False)
    return figure


def representative_tasks(
    predictive: GaussianMixture, tasks: Task, x: Float[Tensor, "M G"], titles: tuple[str, ...]
) -> Figure:
    """One panel a found mode: what it expects of any task, mean and central intervals, and one of its tasks.

    `predictive` is the prior predictive of mode `m` at the grid `x[m]`: its query axis is G, and output 0 is drawn
    against input 0. The points are the support set of `tasks[m]`.

    Raises:
        ValueError: there is no mode.
    """
    if not len(x):
        raise ValueError("num_modes=0 must be at least 1: there is nothing to draw")
    num_columns = min(_MOST_COLUMNS, len(x))
    num_rows = math.ceil(len(x) / num_columns)
    width = PAGE_WIDTH if num_columns > 2 else 0.5 * PAGE_WIDTH
    figure = new_figure(width, _PANEL_HEIGHT * num_rows + 0.65)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    mean = predictive.expectation()[..., 0].detach().numpy()
    bands = [[end[..., 0].detach().numpy() for end in predictive.interval(level)] for level in (0.9, 0.5)]
    for number, axes in enumerate(grid.flat):
        if number >= len(x):
            axes.set_axis_off()
            continue
        _draw_expected(axes, x[number].numpy(), mean[number], [(low[number], high[number]) for low, high in bands])
        present = tasks.support_mask[number]
        support = (tasks.support_x[number, present, 0].numpy(), tasks.support_y[number, present, 0].numpy())
        axes.plot(*support, "o", color=INK, markersize=3.2, markeredgewidth=0, zorder=4, label="a typical task")
        finish(axes, "\n".join(fill(line, _TITLE_WIDTH) for line in titles[number].splitlines()))
        axes.title.set_fontsize(TICK_SIZE)
    figure.supxlabel("x", fontsize=LABEL_SIZE, color=INK)
    figure.supylabel("y", fontsize=LABEL_SIZE, color=INK)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper center", ncols=4 if num_columns > 2 else 2, fontsize=TICK_SIZE, frameon=False
    )
    return figure


def _draw_shares(figure: Figure, panels: tuple[Axes, Axes], share: np.ndarray) -> None:
    """Shares in per cent, `(found, true)`, in the lower one of two panels, with a scale beside both."""
    below = panels[1]
    image = below.imshow(share.T, cmap=SHADES, aspect="auto", vmin=0, vmax=100)
    if len(share) <= 12:
        for (place, true), value in np.ndenumerate(share):
            colour = "white" if value > 50 else INK
            below.text(place, true, f"{value:.0f}", ha="center", va="center", fontsize=TICK_SIZE, color=colour)
    bar = figure.colorbar(image, ax=panels, pad=0.01, aspect=18, label="% of the found mode")
    bar.ax.tick_params(labelsize=TICK_SIZE, width=0.6, length=2.5)
    bar.ax.yaxis.label.set(size=LABEL_SIZE, color=INK)
    bar.outline.set_visible(False)


def _draw_expected(axes: Axes, x: np.ndarray, mean: np.ndarray, bands: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Mean and central intervals, the wide one first."""
    for (low, high), colour, level in zip(bands, (_LIGHT, _MIDDLE), (90, 50), strict=True):
        axes.fill_between(x, low, high, color=colour, linewidth=0, label=f"{level} % of what it expects")
    axes.plot(x, mean, color=PRIMARY, linewidth=1.3, label="mean")
    axes.set_xlim(x.min(), x.max())
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))


def _principal_plane(points: Tensor) -> tuple[np.ndarray, list[float]]:
    """Coordinates `(T, 2)` and the shares of variance in per cent."""
    centred = (points - points.mean(0)).detach().double()
    centred = centred / torch.where(centred.std(0) > 0, centred.std(0), 1.0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    shares = 100 * singular.square() / singular.square().sum().clamp(min=1e-300)
    return (centred @ directions[:2].T).numpy(), shares[:2].tolist()


def _scatter_true(axes: Axes, plane: np.ndarray, mode: Tensor, mode_names: tuple[str, ...]) -> None:
    for one, name in [*enumerate(mode_names), (-1, "unknown")]:
        members = (mode == one).numpy() if one >= 0 else (mode < 0).numpy()
        colour, marker = (mode_colour(one), mode_marker(one)) if one >= 0 else (GREY, "o")
        if members.any():
            axes.scatter(*plane[members].T, s=7, alpha=0.55, color=colour, marker=marker, lw=0, label=name)
    finish(axes, "by true mode")


def _scatter_found(axes: Axes, plane: np.ndarray, label: Tensor, mode: Tensor) -> None:
    """In the colour and marker of the true mode of most tasks of each; by size where true modes are not known."""
    slots, counts = label.unique(return_counts=True)
    slots = slots[counts.argsort(descending=True, stable=True)]
    known = mode >= 0
    for rank, slot in enumerate(slots.tolist()):
        members = (label == slot).numpy()
        of_known = mode[(label == slot) & known]
        which = rank if not known.any() else int(of_known.mode().values) if len(of_known) else -1
        colour, marker = (mode_colour(which), mode_marker(which)) if 0 <= which < 8 else (GREY, "o")
        axes.scatter(*plane[members].T, s=7, alpha=0.55, color=colour, marker=marker, lw=0)
        if len(slots) <= _MOST_NUMBERED:
            box = {"boxstyle": "round,pad=0.12", "fc": "white", "ec": colour, "lw": 0.7, "alpha": 0.85}
            across, up = np.median(plane[members], axis=0)
            axes.text(
                across, up, str(slot), fontsize=TICK_SIZE, color=INK, ha="center", va="center", clip_on=True, bbox=box
            )
    finish(axes, f"by found mode, {len(slots)} of them")
