r"""The Bayes-optimal predictor of the regression families: what no learner can beat on average.

Given family m and its nonlinear parameters w, a curve is `offset(x; w) + b * slope(x; w)` with b uniform, so the
evidence of the support set, the posterior of b (a truncated Gaussian) and the predictive of a query point are exact.
What remains, one or two bounded parameters w, is integrated by self-normalised importance sampling under the true
prior, whose draws are here the midpoints of a lattice in the prior's quantiles:

$$p(y \mid x, D) = \frac{\sum_{m,w} p(D \mid m, w)\, p(y \mid x, D, m, w)}{\sum_{m,w} p(D \mid m, w)}.$$
"""

import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcb.randomness import fold_key
from mcb.tasks.regression import FAMILIES, Family, RegressionFamilies
from mcb.truncated import LinearLikelihood
from mcb.types import Task

REFERENCES = {
    "two-modes": RegressionFamilies.two_modes(),
    "three-modes": RegressionFamilies.three_modes(),
    "five-modes": RegressionFamilies.five_modes(),
}
REFERENCE_FOLDER = Path(__file__).parent / "reference"
NUM_REFERENCE_TASKS = {"two-modes": 4000, "three-modes": 4000, "five-modes": 20_000}  # whose MSE rests on few

_LATTICE = {1: (512,), 2: (160, 160)}  # midpoints along each of one or two nonlinear parameters
_VALUES_PER_CHUNK = 2**20  # tasks x lattice points x points of a task held at once: some tens of megabytes
_NEGLIGIBLE = 25.0  # nats below a task's best lattice point, where a point's share of the posterior is under 1e-10
_TOLERANCE = 1e-3  # between fingerprints of the same task on different machines; another task differs by about 10


class BayesReference(NamedTuple):
    """The optimal predictions for a batch of tasks, with the targets that score them."""

    mean: Float[Tensor, "T Q"]
    log_density: Float[Tensor, "T Q"]
    log_mode: Float[Tensor, "T F"]
    query_y: Float[Tensor, "T Q"]
    mode: Int[Tensor, "T"]

    @property
    def nll(self) -> Float[Tensor, "T"]:
        """Negative log predictive density of each task, nats per query point."""
        return -self.log_density.mean(1)

    @property
    def squared_error(self) -> Float[Tensor, "T"]:
        """Squared error of the predictive mean against the noisy targets, per task."""
        return (self.mean - self.query_y).square().mean(1)

    @property
    def correct(self) -> Bool[Tensor, "T"]:
        """Whether the most probable family is the true one."""
        return self.log_mode.argmax(1) == self.mode


def bayes_predict(source: RegressionFamilies, tasks: Task, refinement: int = 1) -> BayesReference:
    """The posterior predictive of `tasks` under `source`'s own prior and noise, float64.

    `refinement` multiplies the lattice points along every axis; doubling it changes the mean NLL by less than 1e-4.

    Raises:
        ValueError: the source has no noise, a point is masked, or `refinement` is below 1.
    """
    if source.noise_scale <= 0:
        raise ValueError(f"noise_scale={source.noise_scale} must be positive for the Bayes predictor.")
    if refinement < 1:
        raise ValueError(f"refinement={refinement} must be at least 1.")
    if not (tasks.support_mask.all() and tasks.query_mask.all()):
        raise ValueError("The Bayes predictor takes tasks of the regression families, which have no masked points.")
    leaves = (tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y)
    points = _Points(*(leaf.squeeze(-1).double() for leaf in leaves))
    answers = [_answer(FAMILIES[name], source.noise_scale, points, refinement) for name in source.families]
    log_evidence, log_density, mean = (torch.stack(leaves, dim=1) for leaves in zip(*answers, strict=True))
    log_mode = log_evidence.log_softmax(1)
    return BayesReference(
        mean=(log_mode.exp()[:, :, None] * mean).sum(1),
        log_density=(log_mode[:, :, None] + log_density).logsumexp(1),
        log_mode=log_mode,
        query_y=points.query_y,
        mode=tasks.mode,
    )


class _Points(NamedTuple):
    support_x: Float[Tensor, "T S"]
    support_y: Float[Tensor, "T S"]
    query_x: Float[Tensor, "T Q"]
    query_y: Float[Tensor, "T Q"]


class _Answer(NamedTuple):
    """What one family says of each task."""

    log_evidence: Float[Tensor, "T"]
    log_density: Float[Tensor, "T Q"]
    mean: Float[Tensor, "T Q"]


def _answer(family: Family, noise_scale: float, points: _Points, refinement: int) -> _Answer:
    sizes = [refinement * size for size in _LATTICE[len(family.others)]]
    axes = [prior.quantile((torch.arange(n).double() + 0.5) / n) for prior, n in zip(family.others, sizes, strict=True)]
    lattice = [axis.reshape(-1, 1) for axis in torch.meshgrid(*axes, indexing="ij")]
    num_points = points.support_x.shape[1] + points.query_x.shape[1]
    num_tasks = max(1, _VALUES_PER_CHUNK // (math.prod(sizes) * num_points))
    chunks = zip(*(leaf.split(num_tasks) for leaf in points), strict=True)
    answers = [_chunk_answer(family, noise_scale, lattice, _Points(*chunk)) for chunk in chunks]
    return _Answer(*(torch.cat(leaves) for leaves in zip(*answers, strict=True)))


def _chunk_answer(family: Family, noise_scale: float, lattice: list[Tensor], points: _Points) -> _Answer:
    bounds = (family.linear.low, family.linear.high)
    offset, slope = family.basis(points.support_x[:, None], *lattice)
    support = LinearLikelihood.of_points(points.support_y[:, None] - offset, slope, noise_scale)
    largest = support.log_largest(*bounds)
    peak = LinearLikelihood(*(leaf.gather(1, largest.argmax(1, keepdim=True)) for leaf in support))
    task, point = (largest > peak.log_evidence(*bounds) - _NEGLIGIBLE).nonzero(as_tuple=True)

    support = LinearLikelihood(*(leaf[task, point][:, None] for leaf in support))
    offset, slope = family.basis(points.query_x[task], *(axis[point] for axis in lattice))
    query = LinearLikelihood.of_points((points.query_y[task] - offset)[..., None], slope[..., None], noise_scale)
    both = LinearLikelihood(*(a + b for a, b in zip(support, query, strict=True)))
    log_weight = support.log_evidence(*bounds)
    log_total = _logsumexp_by_task(log_weight, task, len(largest))
    log_share = log_weight - log_total[task]
    mean = offset + slope * support.posterior_mean(*bounds)
    return _Answer(
        log_evidence=log_total[:, 0] - math.log(largest.shape[1]),
        log_density=_logsumexp_by_task(log_share + both.log_evidence(*bounds) - log_weight, task, len(largest)),
        mean=torch.zeros_like(points.query_y).index_add(0, task, log_share.exp() * mean),
    )


def _logsumexp_by_task(values: Float[Tensor, "N Q"], task: Int[Tensor, "N"], num_tasks: int) -> Float[Tensor, "T Q"]:
    empty = values.new_full((num_tasks, values.shape[1]), -math.inf)
    largest = empty.scatter_reduce(0, task[:, None].expand_as(values), values, "amax")
    return largest + torch.zeros_like(empty).index_add(0, task, (values - largest[task]).exp()).log()


def reference_tasks(source: RegressionFamilies, num_tasks: int) -> Task:
    """The first tasks of the test stream, which is the same for every run."""
    return source.sample(fold_key(0, "test"), torch.arange(num_tasks))


def save_reference(
    name: str,
    folder: Path,
    num_tasks: int | None = None,
    on_progress: Callable[[int], None] = lambda num_done: None,
) -> Path:
    """Write the Bayes predictions for the first test tasks of `REFERENCES[name]` to `folder/name.npz`.

    Without `num_tasks` they are as many as are shipped, `NUM_REFERENCE_TASKS[name]`.
    `on_progress` is told the number of tasks done, every 100 tasks.

    Raises:
        ValueError: `name` is not in `REFERENCES`.
    """
    source = _source(name)
    num_tasks = NUM_REFERENCE_TASKS[name] if num_tasks is None else num_tasks
    tasks = reference_tasks(source, num_tasks)
    chunks: list[BayesReference] = []
    for rows in torch.arange(num_tasks).split(100):
        chunks.append(bayes_predict(source, Task(*(leaf[rows] for leaf in tasks))))
        on_progress(int(rows[-1]) + 1)
    leaves = BayesReference(*(torch.cat(leaves).float() for leaves in zip(*chunks, strict=True)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.npz"
    np.savez_compressed(
        path,
        mean=leaves.mean.numpy(),
        log_density=leaves.log_density.numpy(),
        log_mode=leaves.log_mode.numpy(),
        fingerprint=_fingerprint(tasks).float().numpy(),
    )
    return path


def load_reference(name: str, folder: Path = REFERENCE_FOLDER) -> BayesReference:
    """The stored Bayes predictions of `REFERENCES[name]`, float32, with their targets drawn anew.

    Raises:
        ValueError: `name` is not in `REFERENCES`, the file cannot be read, or it was made for other tasks than the
            generator gives now.
    """
    source = _source(name)
    path = folder / f"{name}.npz"
    remedy = f"make it again with `mcb limits {name} --out {folder}`."
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            keys = ("mean", "log_density", "log_mode", "fingerprint")
            mean, log_density, log_mode, stored = (torch.from_numpy(arrays[key]) for key in keys)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"The reference {path} cannot be read ({error}): {remedy}") from error
    tasks = reference_tasks(source, len(stored))
    differs = (_fingerprint(tasks) - stored).abs() > _TOLERANCE
    if differs.any():
        first = int(differs.int().argmax())
        raise ValueError(f"The reference {path} was made for other tasks, of which task {first} is the first: {remedy}")
    return BayesReference(mean, log_density, log_mode, tasks.query_y.squeeze(-1), tasks.mode)


def _source(name: str) -> RegressionFamilies:
    if name not in REFERENCES:
        raise ValueError(f"name={name!r} must be one of {tuple(REFERENCES)}.")
    return REFERENCES[name]


def _fingerprint(tasks: Task) -> Float[Tensor, "T"]:
    """One weighted sum of a task's numbers: unlike a hash it can be compared where last bits differ by machine."""
    leaves = (tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y, tasks.mode[:, None])
    values = torch.cat([leaf.flatten(1) for leaf in leaves], dim=1).double()
    return values @ torch.arange(1, values.shape[1] + 1).double().cos()
