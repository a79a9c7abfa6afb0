"""The figures of a run, drawn into its folder."""

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import vmap

from jobs.evaluation import NOISE_KEY, TEST_SEED, Evaluation
from mcb.figures import (
    calibration,
    embeddings_by_mode,
    learning_curve,
    posterior_predictive,
    responsibilities_by_mode,
)
from mcb.learner import ModeConditionalBayesianMAML
from mcb.tasks.curves import CurveTasks
from mcb.tasks.regression import X_HIGH, X_LOW, RegressionFamilies
from mcb.types import Task

_NUM_PER_MODE = 2
_NUM_EMBEDDED = 2000
_GRID = 200


def draw(
    folder: Path,
    learner: ModeConditionalBayesianMAML,
    source: RegressionFamilies | CurveTasks,
    evaluation: Evaluation,
    steps: list[dict[str, float]],
    bayes_nll: float | None,
) -> None:
    """Write all figures of a run as PNG; `steps` are the rows of its step log (none: no learning curve)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in _figures(learner, source, evaluation, steps, bayes_nll).items():
        figure.savefig(folder / f"{name}.png")


def _figures(
    learner: ModeConditionalBayesianMAML,
    source: RegressionFamilies | CurveTasks,
    evaluation: Evaluation,
    steps: list[dict[str, float]],
    bayes_nll: float | None,
) -> Mapping[str, Figure]:
    scores, names = evaluation.scores, source.mode_names
    figures = {"posterior_predictive": _posterior(learner, source), "calibration": calibration(scores.pit)}
    if evaluation.responsibilities.shape[1] > 1:
        shown = evaluation.responsibilities
        figures["responsibilities"] = responsibilities_by_mode(shown, scores.mode[: len(shown)], names)
    if learner.task_encoder is not None and learner.modes.needs_embedding:
        figures["embeddings"] = _embeddings(learner, source)
    curve = [(int(row["step"]), row["train/nll"]) for row in steps if "train/nll" in row]
    if curve:
        figures["learning_curve"] = learning_curve(*zip(*curve, strict=True), bayes_nll=bayes_nll)
    return figures


@torch.no_grad()
def _posterior(learner: ModeConditionalBayesianMAML, source: RegressionFamilies | CurveTasks) -> Figure:
    """The first test tasks of every mode."""
    indices = torch.arange(_NUM_PER_MODE * len(source.mode_names))
    tasks = source.sample(TEST_SEED, indices)
    grid = _grid(source, tasks)
    x = grid if tasks.query_x.shape[-1] == 1 else _with_other_inputs(grid, tasks)
    present = torch.ones(grid.shape[:2], dtype=torch.bool)
    asked = tasks._replace(query_x=x, query_y=torch.zeros_like(grid), query_mask=present)
    predictive = learner(asked, learner.noise(NOISE_KEY, indices)).predictive
    grid, names = grid[..., 0], source.mode_names
    if isinstance(source, RegressionFamilies):
        truth = source.truth(TEST_SEED, indices, grid.double()).float()
        return posterior_predictive(predictive, tasks, grid, names, truth)
    return posterior_predictive(predictive, tasks, grid, names, None, "x1, standardised", "y, standardised")


def _grid(source: RegressionFamilies | CurveTasks, tasks: Task) -> Tensor:
    """`(T, G, 1)` values of the first input: the families' range, or what each task's own points span."""
    if isinstance(source, RegressionFamilies):
        return torch.linspace(X_LOW, X_HIGH, _GRID).expand(len(tasks.mode), -1)[..., None]
    x = torch.cat([tasks.support_x, tasks.query_x], dim=1)[..., 0]
    present = torch.cat([tasks.support_mask, tasks.query_mask], dim=1)
    low = x.masked_fill(~present, torch.inf).amin(1, keepdim=True)
    high = x.masked_fill(~present, -torch.inf).amax(1, keepdim=True)
    return (low + (high - low) * torch.linspace(0, 1, _GRID))[..., None]


def _with_other_inputs(grid: Tensor, tasks: Task) -> Tensor:
    """Inputs after the first at their mean over the task's support points."""
    mask = tasks.support_mask[..., None]
    mean = (tasks.support_x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return torch.cat([grid, mean[..., 1:].expand(-1, grid.shape[1], -1)], dim=-1)


@torch.no_grad()
def _embeddings(learner: ModeConditionalBayesianMAML, source: RegressionFamilies | CurveTasks) -> Figure:
    """The encoder's view of test tasks."""
    tasks = source.sample(TEST_SEED, torch.arange(_NUM_EMBEDDED))
    y = vmap(learner.likelihood.targets_as_inputs)(tasks.support_y)
    assert learner.task_encoder is not None
    embedding = vmap(learner.task_encoder)(tasks.support_x, y, tasks.support_mask)
    return embeddings_by_mode(embedding, tasks.mode, source.mode_names)
