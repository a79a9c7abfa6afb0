"""The meta-gradient of a shard: a pure function of the flat parameters and the shard, the same on any machine."""

import time
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cluster.denormals import flushed_denormals
from cluster.errors import UserError
from cluster.shards import Shard, ShardReport
from cluster.survey import survey, write_state
from mcb.objectives import MetaObjective, predictive_nll
from mcb.randomness import fold_key
from mcb.types import Task, TaskSource


class TaskLosses(Protocol):
    """Per-task values of a batch of tasks, each of shape (T,); `loss` alone is differentiable."""

    @property
    def loss(self) -> Tensor:
        """What the meta-gradient descends, nats."""
        ...

    @property
    def nll(self) -> Tensor:
        """Negative log predictive density, nats per query point."""
        ...

    @property
    def squared_error(self) -> Tensor:
        """Squared error of the predictive mean, per query point."""
        ...


class MetaLearner(Protocol):
    """What the runtime asks of a learner (`mcb.learner.ModeConditionalBayesianMAML`)."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """The meta-parameters, in the order of the flat vector."""
        ...

    def noise(self, key: int, indices: Tensor) -> Tensor | None:
        """Noise of the tasks with these global indices, a pure function of key and index."""
        ...

    def losses(self, tasks: Task, noise: Tensor | None, meta_objective: MetaObjective) -> TaskLosses:
        """Losses of a batch of tasks; `loss` is the meta-objective."""
        ...


def initial_parameters(learner: nn.Module) -> np.ndarray:
    """The learner's meta-parameters as one flat float32 vector, a copy."""
    vector = torch.cat([parameter.detach().reshape(-1) for parameter in learner.parameters()])
    return vector.cpu().numpy().astype(np.float32)


def parameter_shapes(learner: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of each entry of the flat vector, in its order."""
    return {name: tuple(parameter.shape) for name, parameter in learner.named_parameters()}


class FlatParameters:
    """Writes a flat vector into a learner's parameters through one preallocated buffer."""

    def __init__(self, learner: MetaLearner) -> None:
        self._parameters = list(learner.parameters())
        self._buffer = torch.empty(sum(parameter.numel() for parameter in self._parameters))
        pieces = self._buffer.split([parameter.numel() for parameter in self._parameters])
        self._pieces = [piece.view_as(parameter) for piece, parameter in zip(pieces, self._parameters, strict=True)]

    def write(self, vector: np.ndarray) -> None:
        """Copy `vector`, which may be a read-only view, into the parameters and forget their gradients.

        Raises `UserError` if the length is another.
        """
        if vector.shape != tuple(self._buffer.shape):
            raise UserError(f"a vector of shape {vector.shape} does not fit {len(self._buffer)} meta-parameters")
        np.copyto(self._buffer.numpy(), vector)
        with torch.no_grad():
            for parameter, piece in zip(self._parameters, self._pieces, strict=True):
                parameter.copy_(piece)
                parameter.grad = None

    def gradient(self) -> np.ndarray:
        """The parameters' gradients as one new flat float32 vector; 0 where a parameter took no part."""
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        return torch.cat([piece.reshape(-1).float().cpu() for piece in pieces]).numpy()


class MetaGradient:
    r"""$\nabla_\theta \frac{1}{B} \sum_{t \in \text{shard}} L_t(\theta)$ over a shard of a meta-batch of $B$ tasks.

    Task `i` of the run comes from the stream `fold_key(seed, "train")`, its noise from `fold_key(seed, "noise")`.
    The statistics are sums over the shard's tasks: `loss`, `nll`, `squared_error`, and for each true mode with tasks
    in the shard `nll/NAME`, `squared_error/NAME` and `count/NAME`. A gradient that is not finite is returned as it
    is: the server refuses it. Threads are the caller's business (`cluster.threads`).

    A shard of a meta-step that surveys also has its part of the survey, which `cluster.survey` asks of the learner.
    """

    def __init__(
        self,
        learner: MetaLearner,
        source: TaskSource,
        seed: int,
        meta_objective: MetaObjective = predictive_nll,
    ) -> None:
        self._learner, self._source, self._seed, self._meta_objective = learner, source, seed, meta_objective
        self._task_seed, self._noise_key = fold_key(seed, "train"), fold_key(seed, "noise")
        self._flat = FlatParameters(learner)
        self._device = next(iter(learner.parameters())).device

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        """Report of `shard` at `parameters`; raises `UserError` naming the task whose data are not finite."""
        with flushed_denormals():
            return self._report(parameters, shard)

    def adopt(self, state: np.ndarray) -> None:
        """Compute under the flat `state` from here on; raises TypeError for a learner without a state."""
        write_state(self._learner, state)

    def _report(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        started = time.perf_counter()
        self._flat.write(parameters)
        indices = torch.arange(shard.start, shard.stop)
        tasks = self._source.sample(self._task_seed, indices)
        _check_finite(tasks, shard.start)
        tasks = Task(*(leaf.to(self._device) for leaf in tasks))
        noise = self._learner.noise(self._noise_key, indices.to(self._device))
        losses = self._learner.losses(tasks, noise, self._meta_objective)
        (losses.loss.sum() / shard.meta_batch).backward()
        statistics = _sums(losses, tasks.mode, self._source.mode_names)
        rows = None
        if shard.num_surveyed:
            rows = survey(self._learner, self._source, self._seed, shard.surveyed, self._device)
        return ShardReport(shard, self._flat.gradient(), statistics, time.perf_counter() - started, rows)


def _check_finite(tasks: Task, first_index: int) -> None:
    """Raise `UserError` for the first task with a value that is not finite."""
    for name in ("support_x", "support_y", "query_x", "query_y"):
        finite = torch.isfinite(getattr(tasks, name))
        if not finite.all():
            row = int((~finite.flatten(1).all(1)).nonzero()[0])
            raise UserError(
                f"task {first_index + row} of the training stream has a value in {name} that is not finite: "
                "remove it from the data"
            )


def _sums(losses: TaskLosses, mode: Tensor, mode_names: tuple[str, ...]) -> dict[str, float]:
    """Sums over tasks, in float64, overall and by true mode."""
    modes = mode.cpu().numpy()
    rows = {name: getattr(losses, name).detach().double().cpu().numpy() for name in ("loss", "nll", "squared_error")}
    sums = {name: float(values.sum()) for name, values in rows.items()}
    for index, mode_name in enumerate(mode_names):
        of_mode = modes == index
        if of_mode.any():
            sums[f"count/{mode_name}"] = float(of_mode.sum())
            sums[f"nll/{mode_name}"] = float(rows["nll"][of_mode].sum())
            sums[f"squared_error/{mode_name}"] = float(rows["squared_error"][of_mode].sum())
    return sums
