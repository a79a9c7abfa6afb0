"""Are the predictive distributions calibrated: observed against nominal coverage, and the PIT histogram."""

import math

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mcb.figures.style import ACCENT, GREY, INK, PRIMARY, TICK_SIZE, finish, new_figure
from mcb.metrics import Z_95, coverage

_LEVELS = np.linspace(0.02, 0.98, 49)
_MARKED = (0.5, 0.9)
_NUM_BINS = 20


def calibration(pit: Float[Tensor, "T QO"]) -> Figure:
    """Left: share of targets inside central intervals against the nominal level; right: histogram of `pit`.

    `pit` is the predictive cdf at the targets, NaN where a point is masked. Bands are 95 % half-widths over tasks,
    on the left around the observed share, on the right around the flat histogram of a calibrated predictor.

    Raises:
        ValueError: there is no task.
    """
    if not len(pit):
        raise ValueError("num_tasks=0 must be at least 1: there is nothing to draw")
    figure = new_figure(5.2, 2.35)
    left, right = figure.subplots(1, 2)
    _coverage_curve(left, pit)
    _histogram(right, pit)
    return figure


def _coverage_curve(axes: Axes, pit: Tensor) -> None:
    observed, half_width = _over_tasks(torch.stack([coverage(pit, level) for level in _LEVELS.tolist()], dim=1))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, dashes=(4, 2))
    axes.fill_between(_LEVELS, observed - half_width, observed + half_width, color=PRIMARY, alpha=0.25, linewidth=0)
    axes.plot(_LEVELS, observed, color=PRIMARY, linewidth=1.5)
    shares = [coverage(pit, level).mean().item() for level in _MARKED]
    axes.plot(_MARKED, shares, "o", color=ACCENT, markersize=4.5)
    told = "\n".join(f"{100 * m:.0f} % intervals hold {100 * s:.1f} %" for m, s in zip(_MARKED, shares, strict=True))
    axes.text(0.98, 0.04, told, ha="right", va="bottom", fontsize=TICK_SIZE, color=INK, transform=axes.transAxes)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    finish(axes, "coverage of central intervals", "nominal level", "share of targets inside")


def _histogram(axes: Axes, pit: Tensor) -> None:
    bins = (pit.clamp(0, 1) * _NUM_BINS).floor().clamp(max=_NUM_BINS - 1)
    inside = (bins.unsqueeze(-1) == torch.arange(_NUM_BINS)).double().sum(1) / (~pit.isnan()).sum(1, keepdim=True)
    density, half_width = (_NUM_BINS * values for values in _over_tasks(inside))
    edges = np.linspace(0, 1, _NUM_BINS + 1)
    axes.bar(
        edges[:-1], density, 1 / _NUM_BINS, align="edge", color=PRIMARY, alpha=0.55, edgecolor="white", linewidth=0.5
    )
    band = np.append(half_width, half_width[-1])
    axes.fill_between(
        edges, 1 - band, 1 + band, step="post", color=GREY, alpha=0.45, linewidth=0, label="95 % if calibrated"
    )
    axes.axhline(1, color=INK, linewidth=0.9, dashes=(4, 2))
    axes.set(xlim=(0, 1), ylim=(0, max(1.5, 1.25 * density.max())))
    axes.legend(loc="upper center", fontsize=TICK_SIZE, frameon=False, labelcolor=INK)
    finish(axes, "probability integral transform", "predictive cdf at the target", "density")


def _over_tasks(values: Float[Tensor, "T n"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over tasks and its 95 % half-width, 0 for a single task."""
    spread = values.std(0, correction=min(1, len(values) - 1))
    return values.mean(0).numpy(), (Z_95 * spread / math.sqrt(len(values))).numpy()
