"""The test tasks of a run one by one, kept with it, so that two runs can be compared on the very same tasks."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cluster.errors import UserError
from jobs.building.objects import Source
from jobs.evaluation.scores import TEST_SEED
from mcb.metrics import Z_95, TaskScores
from mcb.tasks.curves import CurveTasks

_TOLERANCE = 1e-3  # between mean targets of the same task on different machines; other tasks differ by about 1
_BATCH = 2000


class ScoredTasks(NamedTuple):
    """Scores of `T` test tasks; the weighted mean of `nll` is the test NLL that the run reports."""

    unit: Int[np.ndarray, "T"]
    """What is independent of all else: the measured curve that a task was drawn from, else the task itself."""
    weight: Float[np.ndarray, "T"]
    """Sums to 1; families of measured curves weigh equally."""
    target: Float[np.ndarray, "T"]
    """Mean of the task's query targets, by which the same task is known again."""
    nll: Float[np.ndarray, "T"]
    """Negative log predictive density of a query point, nats."""


class Comparison(NamedTuple):
    """Test NLL of two runs on the same tasks, and the mean of the tasks' differences with its 95 % half-width."""

    candidate: float
    champion: float
    half_width: float
    num_tasks: int

    @property
    def difference(self) -> float:
        """Nats per query point that the candidate is above the champion: positive where it is worse."""
        return self.candidate - self.champion


def scored_tasks(scores: TaskScores, source: Source, indices: Int[Tensor, "T"]) -> ScoredTasks:
    """The scores of the test tasks `indices` of `source`, with what tells which tasks these are."""
    targets = [_mean_target(source, batch) for batch in indices.split(_BATCH)]
    unit, weight = indices, torch.full((len(indices),), 1 / len(indices), dtype=torch.double)
    if isinstance(source, CurveTasks):
        unit = source.curve(TEST_SEED, indices)
        _, family, num = scores.mode.unique(return_inverse=True, return_counts=True)
        weight = 1 / (len(num) * num[family].double())
    leaves = (unit, weight, torch.cat(targets), scores.nll.double())
    return ScoredTasks(*(leaf.numpy() for leaf in leaves))


def compare(candidate: ScoredTasks, champion: ScoredTasks) -> Comparison | None:
    """Both on the tasks that both have, the first ones of the same stream; None where the tasks are not the same.

    Draws of one measured curve count as one. Measured curves must be the same in number as well.
    """
    num = min(len(candidate.nll), len(champion.nll))
    mine, its = (ScoredTasks(*(leaf[:num] for leaf in scored)) for scored in (candidate, champion))
    are_plain = all(_is_plain(scored) for scored in (candidate, champion))
    if not are_plain and len(candidate.nll) != len(champion.nll):
        return None
    if not np.array_equal(mine.unit, its.unit) or np.abs(mine.target - its.target).max() > _TOLERANCE:
        return None
    weight = its.weight / its.weight.sum()
    means = [float(weight @ scored.nll) for scored in (mine, its)]
    _, place = np.unique(its.unit, return_inverse=True)
    share = np.bincount(place, weight * (mine.nll - its.nll - (means[0] - means[1])))
    spread = math.sqrt((share**2).sum() * len(share) / max(1, len(share) - 1))
    return Comparison(means[0], means[1], Z_95 * spread, num)


def write_tasks(path: Path, scored: ScoredTasks) -> None:
    """Write a row for each task."""
    pq.write_table(pa.table(scored._asdict()), path)


def read_tasks(path: Path) -> ScoredTasks:
    """The inverse of `write_tasks`; raises `UserError` for another file."""
    try:
        table = pq.read_table(path, columns=list(ScoredTasks._fields))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"the test tasks {path} cannot be read: {str(error).partition(chr(10))[0]}") from error
    return ScoredTasks(*(column.to_numpy() for column in table.columns))


def _is_plain(scored: ScoredTasks) -> bool:
    """Whether every task counts as much as any other and is drawn once, so that the first of them are a sample too."""
    return len(np.unique(scored.unit)) == len(scored.unit) and np.ptp(scored.weight) == 0


def _mean_target(source: Source, indices: Tensor) -> Tensor:
    tasks = source.sample(TEST_SEED, indices)
    mask = tasks.query_mask[..., None]
    return (tasks.query_y * mask).double().flatten(1).sum(1) / mask.flatten(1).sum(1)
