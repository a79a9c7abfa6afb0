"""Scores of unlike families side by side: a row for each, and one that weights families equally."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcb.metrics import Z_95, TaskScores, coverage

POOLED = "pooled"


def family_rows(
    scores: TaskScores, mode_names: tuple[str, ...], curve: Int[Tensor, "T"] | None = None
) -> dict[str, dict[str, float]]:
    """A row for every family that has tasks, and `pooled`: rmse, nll, nll_median, coverage_50, coverage_90, num_tasks.

    `curve` says which tasks are draws of one measured curve. These are averaged first, so that the 95 % half-widths
    (`*_ci`) are over curves, not flattered by repeats, and `num_tasks` counts curves. rmse is the root of the mean
    squared error over tasks, pooled the root of the families' mean; nll_median is the median over curves, pooled the
    mean of the families', without half-width. A family of one curve has no half-widths; then the pooled row has none.

    Raises:
        ValueError: no task has a known mode.
    """
    columns = [scores.squared_error, scores.nll, coverage(scores.pit, 0.5), coverage(scores.pit, 0.9)]
    values, mode = torch.stack([column.double() for column in columns], dim=1), scores.mode
    if curve is not None:
        values, mode = _average_repeats(values, mode, curve)
    members = {name: values[mode == index] for index, name in enumerate(mode_names) if (mode == index).any()}
    if not members:
        raise ValueError(f"none of {len(mode)} tasks belongs to a known family; family rows need the true mode of each")
    means = torch.stack([rows.mean(0) for rows in members.values()])
    variances = torch.stack([rows.var(0, correction=0) / (len(rows) - 1) for rows in members.values()])
    medians = torch.stack([rows[:, 1].quantile(0.5) for rows in members.values()])
    table = {
        name: _row(mean, variance, median, len(rows))
        for (name, rows), mean, variance, median in zip(members.items(), means, variances, medians, strict=True)
    }
    table[POOLED] = _row(means.mean(0), variances.mean(0) / len(means), medians.mean(), len(values))
    return table


def _average_repeats(
    values: Float[Tensor, "T C"], mode: Int[Tensor, "T"], curve: Int[Tensor, "T"]
) -> tuple[Float[Tensor, "U C"], Int[Tensor, "U"]]:
    """Mean over the tasks of each curve, and the curve's mode."""
    distinct, place, num_repeats = curve.unique(return_inverse=True, return_counts=True)
    totals = values.new_zeros(len(distinct), values.shape[1]).index_add(0, place, values)
    return totals / num_repeats.unsqueeze(1), mode.new_zeros(len(distinct)).index_copy(0, place, mode)


def _row(
    mean: Float[Tensor, "4"], variance: Float[Tensor, "4"], median: Float[Tensor, ""], num_tasks: int
) -> dict[str, float]:
    """Squared error becomes rmse, its half-width by the delta method; no half-widths where the variance is unknown."""
    mse, nll, coverage_50, coverage_90 = mean.tolist()
    row = {
        "rmse": mse**0.5,
        "nll": nll,
        "nll_median": median.item(),
        "coverage_50": coverage_50,
        "coverage_90": coverage_90,
    }
    row["num_tasks"] = num_tasks
    half_widths = Z_95 * variance.sqrt()
    if half_widths.isfinite().all():
        half_widths[0] = half_widths[0] / (2 * mse**0.5) if mse > 0 else 0.0
        row |= zip(("rmse_ci", "nll_ci", "coverage_50_ci", "coverage_90_ci"), half_widths.tolist(), strict=True)
    return row
