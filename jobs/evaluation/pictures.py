"""The figures of a run, drawn into its folder."""

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.func import vmap

from jobs.evaluation.found_modes import find_modes
from jobs.evaluation.grids import grid
from jobs.evaluation.mode_pictures import mode_figures
from jobs.evaluation.scores import NOISE_KEY, TEST_SEED, Evaluation
from mcb.figures import (
    calibration,
    embeddings_by_mode,
    learning_curve,
    posterior_predictive,
    responsibilities_by_mode,
)
from mcb.learner import ModeConditionalBayesianMAML
from mcb.tasks.curves import CurveTasks
from mcb.tasks.regression import RegressionFamilies

_NUM_PER_MODE = 2
_NUM_EMBEDDED = 2000
_NUM_CLUSTERED = 1000


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
    if learner.modes.has_shared_codes and learner.modes.num_modes > 1 and not learner.modes.needs_mode:
        figures |= mode_figures(learner, source, find_modes(learner, source, _NUM_CLUSTERED))
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
    x = grid(source, tasks)
    first, names = x[..., 0], source.mode_names
    present = torch.ones(first.shape, dtype=torch.bool)
    asked = tasks._replace(query_x=x, query_y=torch.zeros_like(x[..., :1]), query_mask=present)
    predictive = learner(asked, learner.noise(NOISE_KEY, indices)).predictive
    if isinstance(source, RegressionFamilies):
        truth = source.truth(TEST_SEED, indices, first.double()).float()
        return posterior_predictive(predictive, tasks, first, names, truth)
    return posterior_predictive(predictive, tasks, first, names, None, "x1, standardised", "y, standardised")


@torch.no_grad()
def _embeddings(learner: ModeConditionalBayesianMAML, source: RegressionFamilies | CurveTasks) -> Figure:
    """The encoder's view of test tasks."""
    tasks = source.sample(TEST_SEED, torch.arange(_NUM_EMBEDDED))
    y = vmap(learner.likelihood.targets_as_inputs)(tasks.support_y)
    assert learner.task_encoder is not None
    embedding = vmap(learner.task_encoder)(tasks.support_x, y, tasks.support_mask)
    return embeddings_by_mode(embedding, tasks.mode, source.mode_names)
