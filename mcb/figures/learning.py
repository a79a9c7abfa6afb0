"""The learning curve of a run."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mcb.figures.style import ACCENT, COLUMN_WIDTH, INK, PRIMARY, TICK_SIZE, finish, new_figure

_TINT = "#BFDBED"  # of PRIMARY


def learning_curve(
    steps: Sequence[int], nll: Sequence[float], bayes_nll: float | None = None, smoothing: float = 0.02
) -> Figure:
    """Training NLL over meta-steps, raw and smoothed, with the Bayes limit where it is known.

    Smoothed by a centred running mean over the fraction `smoothing` of the steps, at least five. The y axis is fitted
    to what comes after the first twentieth, so the fall at the start of a long run leaves the plot. Values that are
    not finite are left out.

    Raises:
        ValueError: `steps` and `nll` differ in length, or hold no finite value.
    """
    raw = np.asarray(nll, dtype=float)
    finite = np.isfinite(raw)
    if len(steps) != len(raw) or not finite.any():
        raise ValueError(f"len(steps)={len(steps)} and len(nll)={len(raw)} must be equal, with a finite value in nll")
    step, raw = np.asarray(steps)[finite], raw[finite]
    smooth = running_mean(raw, max(5, round(smoothing * len(raw))))

    figure = new_figure(COLUMN_WIDTH, 2.3)
    axes = figure.subplots()
    axes.plot(step, raw, color=_TINT, linewidth=0.5, label="one meta-batch")
    axes.plot(step, smooth, color=PRIMARY, linewidth=1.4, label="running mean")
    if bayes_nll is not None:
        axes.axhline(bayes_nll, color=ACCENT, linewidth=1.1, dashes=(4, 2), label=f"Bayes-optimal, {bayes_nll:.3f}")
    settled = slice(len(raw) // 20 if len(raw) >= 100 else 0, None)
    values = np.concatenate([raw[settled], smooth[settled], [] if bayes_nll is None else [bayes_nll]])
    low, high = np.quantile(values, [0.002, 0.998])
    low, high = min(low, smooth.min(), values[-1]), max(high, smooth[settled].max(), values[-1])
    margin = 0.06 * (high - low) + 1e-6
    axes.set(xlim=(0, max(step.max(), 1)), ylim=(low - margin, high + margin))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.legend(fontsize=TICK_SIZE, loc="upper right", labelcolor=INK, edgecolor="none", framealpha=0.9)
    finish(axes, "", "meta-step", "training NLL, nats per query point")
    return figure


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of `values` in a window centred on each place, cut off at both ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first, last = np.maximum(place - window // 2, 0), np.minimum(place + window // 2, len(values) - 1)
    return (total[last + 1] - total[first]) / (last - first + 1)
