"""How a learner tells modes apart: responsibilities of its codes, or its embeddings, by true mode."""

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from mcb.figures.style import (
    COLUMN_WIDTH,
    GREY,
    INK,
    LABEL_SIZE,
    PAGE_WIDTH,
    TICK_SIZE,
    finish,
    mode_colour,
    mode_marker,
    new_figure,
)

SHADES = LinearSegmentedColormap.from_list("white to blue", ["#FFFFFF", "#9CC9E8", "#0072B2", "#00304D"])
_LEAST_USE = 1e-3  # mean responsibility below which a code counts as not in use


def responsibilities_by_mode(
    responsibilities: Float[Tensor, "T K"], mode: Int[Tensor, "T"], mode_names: tuple[str, ...]
) -> Figure:
    """Left: mean responsibility of every code in use by true mode; right: the same added up over each mode's codes.

    A code belongs to the mode that it is mostly responsible for, and codes stand sorted by mode. Rows of the left
    panel sum to one but for the codes not in use, whose number its axis tells. Tasks of unknown mode are left out.

    Raises:
        ValueError: no task has a known mode.
    """
    if not (mode >= 0).any():
        raise ValueError("mode=-1 for every task: responsibilities by mode need tasks of known mode")
    num_modes = len(mode_names)
    modes = torch.arange(num_modes)
    is_of_mode = (mode[:, None] == modes).to(responsibilities)
    by_mode = (is_of_mode.mT @ responsibilities / is_of_mode.sum(0)[:, None]).detach().nan_to_num()
    owner = by_mode.argmax(0)
    order = sorted(range(by_mode.shape[1]), key=lambda code: (int(owner[code]), -float(by_mode[owner[code], code])))
    used = [code for code in order if by_mode[:, code].mean() >= _LEAST_USE]
    merged = by_mode @ (owner[:, None] == modes).to(by_mode)

    share_width = max(1.3, 0.36 * num_modes)
    figure = new_figure(PAGE_WIDTH, 1.1 + 0.24 * num_modes)
    left, right = figure.subplots(1, 2, width_ratios=[PAGE_WIDTH - 1.6 - share_width, share_width])
    image = left.imshow(by_mode[:, used].numpy(), cmap=SHADES, aspect="auto", vmin=0)
    for edge in np.flatnonzero(np.diff(owner[used].numpy())):
        left.axvline(edge + 0.5, color=INK, linewidth=0.8)
    bar = figure.colorbar(image, ax=left, pad=0.01, aspect=12)
    bar.ax.tick_params(labelsize=TICK_SIZE, width=0.6, length=2.5)
    bar.outline.set_visible(False)
    num_unused = by_mode.shape[1] - len(used)
    finish(left, "mean responsibility of each code", f"code, sorted by mode ({len(used)} in use, {num_unused} not)")
    left.set_xticks([])
    _shares(right, merged.numpy(), mode_names)
    for axes, names in ((left, mode_names), (right, [""] * num_modes)):
        axes.set_yticks(range(num_modes), names)
        axes.tick_params(axis="y", length=0)
        axes.spines[:].set_visible(False)
    left.set_ylabel("true mode", fontsize=LABEL_SIZE, labelpad=6)
    return figure


def embeddings_by_mode(embedding: Float[Tensor, "T E"], mode: Int[Tensor, "T"], mode_names: tuple[str, ...]) -> Figure:
    """Task embeddings on their first two principal components, coloured by true mode (grey where it is not known).

    Raises:
        ValueError: there are fewer than 2 tasks or 2 components.
    """
    if min(embedding.shape) < 2:
        raise ValueError(f"embedding of shape {tuple(embedding.shape)} must have at least 2 tasks and 2 components")
    centred = (embedding - embedding.mean(0)).detach().double()
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    plane = (centred @ directions[:2].T).numpy()
    shares = (100 * singular.square() / singular.square().sum().clamp(min=1e-300)).tolist()

    figure = new_figure(COLUMN_WIDTH, 0.85 * COLUMN_WIDTH)
    axes = figure.subplots()
    for one, name in enumerate(mode_names):
        members = (mode == one).numpy()
        if members.any():
            axes.scatter(
                *plane[members].T, s=9, alpha=0.6, color=mode_colour(one), marker=mode_marker(one), lw=0, label=name
            )
    unknown = (mode < 0).numpy()
    if unknown.any():
        axes.scatter(*plane[unknown].T, s=9, alpha=0.6, color=GREY, lw=0, label="unknown")
    first, second = (f"{share:.0f} % of variance" for share in shares[:2])
    finish(axes, x_label=f"first principal component ({first})", y_label=f"second ({second})")
    figure.legend(loc="outside upper center", ncols=3, fontsize=TICK_SIZE, frameon=False, markerscale=1.6)
    return figure


def _shares(axes: Axes, shares: np.ndarray, mode_names: tuple[str, ...]) -> None:
    """A matrix of percentages with their numbers."""
    axes.imshow(shares, cmap=SHADES, aspect="auto", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else INK
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=TICK_SIZE, color=colour)
    finish(axes, "summed by mode, %")
    axes.set_xticks(range(len(mode_names)), mode_names, rotation=35, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
