"""Scores of a trained learner on the test tasks, which are the same for every run and never training tasks."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from jobs.building.bayes import shipped_reference
from jobs.building.objects import Source, build_source
from jobs.settings.tree import Evaluation as EvaluationPlan
from jobs.settings.tree import Settings
from mcb.family_scores import POOLED, family_rows
from mcb.learner import ModeConditionalBayesianMAML
from mcb.limits import BayesReference, bayes_predict
from mcb.metrics import TaskScores, concatenate, majority_map, paired, per_mode, score, summarise
from mcb.randomness import fold_key
from mcb.tasks.curves import CurveTasks
from mcb.tasks.regression import RegressionFamilies

TEST_SEED = fold_key(0, "test")
MAPPING_SEED = fold_key(0, "mapping")
NOISE_KEY = fold_key(0, "test", "noise")
_NUM_SHOWN = 2000  # tasks whose responsibilities are kept for a figure
_NUM_FITTING = 512  # training tasks that the baselines are fitted to

Progress = Callable[[str, int, int], None]  # what, number done, number in all


class Evaluation(NamedTuple):
    """`figures` are the numbers by name (half-widths `*_ci`), rows by mode and by baseline among them."""

    figures: dict[str, object]
    scores: TaskScores
    responsibilities: Tensor


@torch.no_grad()
def evaluate(learner: ModeConditionalBayesianMAML, settings: Settings, progress: Progress) -> Evaluation:
    """All figures of a learner; raises ValueError where the source of tasks does not fit the settings."""
    plan = settings.evaluation
    test, training = build_source(settings, "test"), build_source(settings, "train")
    num_codes = learner.modes.num_modes
    mapping, _ = score_tasks(
        learner, training, MAPPING_SEED, torch.arange(plan.num_mapping_tasks), plan.batch_size, "mapping", progress
    )
    code_to_mode = majority_map(mapping.code, mapping.mode, num_codes)
    indices = evaluated_indices(test, plan)
    scores, responsibilities = score_tasks(learner, test, TEST_SEED, indices, plan.batch_size, "evaluating", progress)
    figures: dict[str, object] = dict(summarise(scores, code_to_mode))
    figures["num_codes_used"] = len(mapping.code.unique())
    figures["modes"] = per_mode(scores, test.mode_names, code_to_mode)
    if isinstance(test, CurveTasks) and isinstance(training, CurveTasks):
        figures |= _beside_baselines(scores, test, training, indices, progress)
    elif isinstance(test, RegressionFamilies):
        bayes = _bayes(test, plan.num_bayes_tasks)
        figures |= paired(scores, bayes) if bayes is not None else {}
    return Evaluation(figures, scores, responsibilities)


def evaluated_indices(test: Source, plan: EvaluationPlan) -> Tensor:
    """Which tasks of the stream `TEST_SEED` are the test tasks: of measured curves, every one."""
    return test.every_task(plan.num_rounds) if isinstance(test, CurveTasks) else torch.arange(plan.num_tasks)


@torch.no_grad()
def score_tasks(
    learner: ModeConditionalBayesianMAML,
    source: Source,
    seed: int,
    indices: Tensor,
    batch_size: int,
    what: str,
    progress: Progress,
) -> tuple[TaskScores, Tensor]:
    """Scores of the tasks `indices` of a stream, and the first tasks' responsibilities."""
    batches: list[TaskScores] = []
    responsibilities: list[Tensor] = []
    for batch in indices.split(batch_size):
        tasks = source.sample(seed, batch)
        prediction = learner(tasks, learner.noise(NOISE_KEY, batch))
        batches.append(score(prediction.predictive, tasks, prediction.responsibilities))
        responsibilities.append(prediction.responsibilities)
        progress(what, sum(len(one.nll) for one in batches), len(indices))
    return concatenate(batches), torch.cat(responsibilities)[:_NUM_SHOWN]


def _bayes(source: RegressionFamilies, num_tasks: int) -> BayesReference | None:
    """The shipped reference of a benchmark, or one computed for another source; None where there is no limit."""
    shipped = shipped_reference(source)
    if shipped is not None:
        return shipped
    if num_tasks == 0 or source.noise_scale == 0:
        return None
    return bayes_predict(source, source.sample(TEST_SEED, torch.arange(num_tasks)))


def _beside_baselines(
    scores: TaskScores, test: CurveTasks, training: CurveTasks, indices: Tensor, progress: Progress
) -> dict[str, object]:
    """Rows by family and pooled, of the learner and of every baseline on the same tasks.

    The pooled row, which weighs families equally, takes the place of the means over tasks.
    """
    from mcb.baselines import fit_baselines  # scikit-learn is slow to import, and other recipes do without

    curve = test.curve(TEST_SEED, indices)
    tasks = test.sample(TEST_SEED, indices)
    families = family_rows(scores, test.mode_names, curve)
    num_fitting = min(_NUM_FITTING, 4 * len(training.task_names))
    baselines = fit_baselines(training.sample(MAPPING_SEED, torch.arange(num_fitting)))
    rows: dict[str, object] = {}
    for number, (name, predict) in enumerate(baselines.items()):
        progress("baselines", number, len(baselines))
        own = score(predict(tasks), tasks, torch.ones(len(indices), 1))
        rows[name] = family_rows(own, test.mode_names, curve)
    progress("baselines", len(baselines), len(baselines))
    pooled = families[POOLED]
    squared = {"mse": pooled["rmse"] ** 2, "mse_ci": 2 * pooled["rmse"] * pooled.get("rmse_ci", math.nan)}
    shared = {name: value for name, value in pooled.items() if name not in ("nll_median", "num_tasks")}
    return {**shared, **squared, "families": families, "baselines": rows}
