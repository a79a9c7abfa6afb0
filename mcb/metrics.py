"""Scores of predictions: first one number per task, then means over tasks with 95 % half-widths.

Intervals are over tasks, never over points or batches: points of one task share its curve.
"""

import math
from typing import NamedTuple, NotRequired, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcb.agreement import adjusted_rand_index, contingency, normalised_mutual_information
from mcb.limits import BayesReference
from mcb.predictive import GaussianMixture
from mcb.randomness import fold_in
from mcb.types import Task

Z_95 = 1.959963984540054  # 97.5 % point of the standard normal
COVERAGE_LEVELS = (0.5, 0.9)
NUM_RESAMPLES = 200


class TaskScores(NamedTuple):
    """Scores of `T` tasks, each a mean over the task's query points (and outputs)."""

    nll: Float[Tensor, "T"]
    """Negative log predictive density of a query point, nats."""
    squared_error: Float[Tensor, "T"]
    """Of the predictive mean, in squared units of y."""
    crps: Float[Tensor, "T"]
    """Continuous ranked probability score, in units of y."""
    pit: Float[Tensor, "T QO"]
    """Predictive cdf at every target, uniform when calibrated; NaN where a query point is masked."""
    mode: Int[Tensor, "T"]
    """True mode, -1 where it is not known."""
    code: Int[Tensor, "T"]
    """Code with the largest responsibility."""


class Paired(TypedDict):
    """Distance to the Bayes-optimal predictor over common tasks; a single task has no half-widths."""

    bayes: dict[str, float]
    """nll, mse, mode_accuracy of the Bayes-optimal predictor, each with `*_ci`, and num_tasks."""
    excess_nll: float
    """Nats per query point above Bayes."""
    excess_nll_ci: NotRequired[float]
    mse_ratio: float
    """Mean squared error over that of Bayes."""
    mse_ratio_ci: NotRequired[float]


@torch.no_grad()
def score(predictive: GaussianMixture, tasks: Task, responsibilities: Float[Tensor, "T K"]) -> TaskScores:
    """Score the predictive distributions at the query points of `tasks`.

    Raises:
        ValueError: a task has no query point.
    """
    y, mask = tasks.query_y, tasks.query_mask
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"task {empty[0]} of the batch has 0 query points: scoring needs at least 1 in every task")
    return TaskScores(
        nll=_masked_mean(-predictive.log_density(y), mask),
        squared_error=_masked_mean((predictive.expectation() - y).square().mean(-1), mask),
        crps=_masked_mean(predictive.crps(y), mask),
        pit=predictive.cdf(y).masked_fill(~mask.unsqueeze(-1), math.nan).flatten(1),
        mode=tasks.mode,
        code=responsibilities.argmax(-1),
    )


def concatenate(scores: list[TaskScores]) -> TaskScores:
    """One `TaskScores` of all tasks, in order."""
    return TaskScores(*(torch.cat(leaves) for leaves in zip(*scores, strict=True)))


def summarise(scores: TaskScores, code_to_mode: Int[Tensor, "K"] | None = None) -> dict[str, float]:
    """Means over tasks: nll, mse, mse_median, coverage_50, coverage_90, crps, each with its half-width `*_ci`.

    Where true modes are known also ari and nmi of the codes, and mode_accuracy if `code_to_mode` is given
    (see `majority_map`). A single task has no half-widths.

    Raises:
        ValueError: there is no task.
    """
    summary = _row(scores, code_to_mode)
    known = scores.mode >= 0
    return summary | _agreement(scores.code[known], scores.mode[known]) if known.any() else summary


def per_mode(
    scores: TaskScores, mode_names: tuple[str, ...], code_to_mode: Int[Tensor, "K"] | None = None
) -> dict[str, dict[str, float]]:
    """A row of means for every true mode that has tasks; keys of `summarise` without ari and nmi."""
    rows = {}
    for mode, name in enumerate(mode_names):
        members = scores.mode == mode
        if members.any():
            rows[name] = _row(TaskScores(*(leaf[members] for leaf in scores)), code_to_mode)
    return rows


def paired(scores: TaskScores, bayes: BayesReference) -> Paired:
    """Compare with the Bayes-optimal predictor on the tasks that both have: the first ones of the same stream.

    The half-width of `mse_ratio` is the delta method's for a ratio of paired means.

    Raises:
        ValueError: the tasks are not the same (their true modes differ), or there are none.
    """
    num_tasks = min(len(scores.nll), len(bayes.mode))
    if not num_tasks or not torch.equal(scores.mode[:num_tasks], bayes.mode[:num_tasks]):
        raise ValueError(f"the {num_tasks} tasks scored must be the first tasks of the Bayes reference, in its order")
    nll, squared_error = scores.nll[:num_tasks].double(), scores.squared_error[:num_tasks].double()
    bayes_nll, bayes_error = bayes.nll[:num_tasks].double(), bayes.squared_error[:num_tasks].double()
    row = _mean("nll", bayes_nll) | _mean("mse", bayes_error) | _mean("mode_accuracy", bayes.correct[:num_tasks])
    excess = _mean("excess_nll", nll - bayes_nll)
    ratio = squared_error.mean() / bayes_error.mean()
    spread = _mean("mse_ratio", (squared_error - ratio * bayes_error) / bayes_error.mean())
    result: Paired = {
        "bayes": row | {"num_tasks": num_tasks},
        "excess_nll": excess["excess_nll"],
        "mse_ratio": ratio.item(),
    }
    if num_tasks > 1:
        result["excess_nll_ci"] = excess["excess_nll_ci"]
        result["mse_ratio_ci"] = spread["mse_ratio_ci"]
    return result


def majority_map(code: Int[Tensor, "T"], mode: Int[Tensor, "T"], num_codes: int) -> Int[Tensor, "{num_codes}"]:
    """The true mode that most tasks of each code belong to; -1 for a code without a task of known mode.

    Make it on tasks of their own: on the tasks that are scored it would flatter the accuracy.
    """
    known = mode >= 0
    if not known.any():
        return torch.full((num_codes,), -1)
    table = contingency(code[known], mode[known], num_codes, int(mode.max()) + 1)
    return torch.where(table.sum(1) > 0, table.argmax(1), -1)


def coverage(pit: Float[Tensor, "T QO"], level: float) -> Float[Tensor, "T"]:
    """Fraction of each task's targets inside the central interval that holds probability `level`."""
    inside = ((pit - 0.5).abs() <= 0.5 * level).double()
    return torch.where(pit.isnan(), math.nan, inside).nanmean(1)


def _row(scores: TaskScores, code_to_mode: Int[Tensor, "K"] | None) -> dict[str, float]:
    """All that is a mean or a median over tasks."""
    num_tasks = len(scores.nll)
    if not num_tasks:
        raise ValueError("num_tasks=0 must be at least 1: there is nothing to summarise")
    row = _mean("nll", scores.nll) | _mean("mse", scores.squared_error) | _median("mse_median", scores.squared_error)
    for level in COVERAGE_LEVELS:
        row |= _mean(f"coverage_{100 * level:.0f}", coverage(scores.pit, level))
    row |= _mean("crps", scores.crps)
    known = scores.mode >= 0
    if code_to_mode is not None and known.any():
        row |= _mean("mode_accuracy", code_to_mode[scores.code[known]] == scores.mode[known])
    return row | {"num_tasks": num_tasks}


def _masked_mean(values: Float[Tensor, "T Q"], mask: Bool[Tensor, "T Q"]) -> Float[Tensor, "T"]:
    return values.masked_fill(~mask, 0).sum(1) / mask.sum(1)


def _mean(name: str, values: Float[Tensor, "T"] | Bool[Tensor, "T"]) -> dict[str, float]:
    """Mean over tasks and the half-width `1.96 sd / sqrt(T)`."""
    values = values.double()
    row = {name: values.mean().item()}
    if len(values) > 1:
        row[f"{name}_ci"] = Z_95 * (values.std() / math.sqrt(len(values))).item()
    return row


def _median(name: str, values: Float[Tensor, "T"]) -> dict[str, float]:
    """Median over tasks; half the width of the order-statistic interval, ranks `T/2 -+ 1.96 sqrt(T)/2`, for any law."""
    values = values.double().sort().values
    num_tasks = len(values)
    row = {name: 0.5 * (values[(num_tasks - 1) // 2] + values[num_tasks // 2]).item()}
    if num_tasks > 1:
        offset = 0.5 * Z_95 * math.sqrt(num_tasks)
        low = max(math.floor(0.5 * num_tasks - offset), 0)
        high = min(math.ceil(0.5 * num_tasks + offset), num_tasks - 1)
        row[f"{name}_ci"] = 0.5 * (values[high] - values[low]).item()
    return row


def _agreement(code: Int[Tensor, "T"], mode: Int[Tensor, "T"]) -> dict[str, float]:
    """ARI and NMI of codes and true modes; half-widths from a bootstrap over tasks with a generator of its own."""
    num_codes, num_modes = int(code.max()) + 1, int(mode.max()) + 1
    generator = fold_in(0, "bootstrap")
    tables = [contingency(code, mode, num_codes, num_modes)]
    for _ in range(NUM_RESAMPLES if len(code) > 1 else 0):
        rows = torch.randint(len(code), (len(code),), generator=generator)
        tables.append(contingency(code[rows], mode[rows], num_codes, num_modes))
    summary = {}
    for name, measure in (("ari", adjusted_rand_index), ("nmi", normalised_mutual_information)):
        values = measure(torch.stack(tables))
        summary[name] = values[0].item()
        if len(values) > 1:
            summary[f"{name}_ci"] = Z_95 * values[1:].std().item()
    return summary
