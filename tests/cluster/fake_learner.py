"""Test doubles that workers import by name: a tiny learner and task source, and shard computations that misbehave."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cluster.gradient import MetaGradient, initial_parameters, parameter_shapes
from cluster.optimizer_plan import OptimizerPlan
from cluster.plan import TrainingPlan
from cluster.shards import ComputesMetaGradient, Shard, ShardReport
from mcb.randomness import normals, uniforms
from mcb.types import Task


class FakeLosses(NamedTuple):
    loss: Tensor
    nll: Tensor
    squared_error: Tensor


class FakeSource:
    """Lines and parabolas by parity of the task index: three support and three query points."""

    mode_names = ("line", "parabola")
    x_size = 1
    y_size = 1

    def sample(self, seed: int, indices: Tensor) -> Task:
        draws = uniforms(seed, indices, 8).float()
        x = 2 * draws[:, :6, None] - 1
        mode = indices % 2
        y = draws[:, 6, None, None] * torch.where(mode[:, None, None] == 0, x, x.square()) + draws[:, 7, None, None]
        mask = torch.ones(len(indices), 3, dtype=torch.bool)
        return Task(x[:, :3], y[:, :3], mask, x[:, 3:], y[:, 3:], mask, mode)


class FakeLearner(nn.Module):
    """A small network of the query point and the support means; noise shifts its prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
        generator = torch.Generator().manual_seed(3)
        for parameter in self.net.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 3
        self.unused = nn.Parameter(torch.ones(2))

    def noise(self, key: int, indices: Tensor) -> Tensor | None:
        return normals(key, indices, 1)

    def losses(self, tasks: Task, noise: Tensor | None, meta_objective: object = None) -> FakeLosses:
        assert noise is not None
        means = torch.cat([tasks.support_x.mean(1), tasks.support_y.mean(1)], -1)[:, None].expand(-1, 3, -1)
        inputs = torch.cat([tasks.query_x, means], -1).to(self.unused.dtype)
        prediction = self.net(inputs) + 0.1 * noise[:, None]
        error = (prediction - tasks.query_y).square().mean((1, 2))
        return FakeLosses(error, 0.5 * error.detach(), error.detach())


def build_gradient(seed: int = 0) -> MetaGradient:
    return MetaGradient(FakeLearner(), FakeSource(), seed)


class Slow:
    """Takes at least `seconds` for each shard."""

    def __init__(self, seconds: float) -> None:
        self.inner, self.seconds = build_gradient(), seconds

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        time.sleep(self.seconds)
        return self.inner(parameters, shard)


class HeldUp:
    """Whoever computes the first shard of `version` first waits there until `released` exists; up to two minutes."""

    def __init__(self, version: int, begun: Path, released: Path) -> None:
        self.inner, self.version = build_gradient(), version
        self.begun, self.released = begun, released

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        if (shard.version, shard.index) == (self.version, 0) and not self.begun.exists():
            self.begun.touch()
            for _ in range(1200):
                if self.released.exists():
                    break
                time.sleep(0.1)
            else:
                raise TimeoutError("nobody took the shard over")
        return self.inner(parameters, shard)


class KilledOnce:
    """Its process dies by SIGKILL at the first shard of `version`, unless `marker` says that one has died."""

    def __init__(self, version: int, marker: Path) -> None:
        self.inner, self.version, self.marker = build_gradient(), version, marker

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        if shard.version == self.version and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(parameters, shard)


class Dying:
    """Its process dies by SIGKILL at every shard."""

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Gated:
    """From `version` on it computes only once `gate` exists."""

    def __init__(self, version: int, gate: Path) -> None:
        self.inner, self.version, self.gate = build_gradient(), version, gate

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        while shard.version >= self.version and not self.gate.exists():
            time.sleep(0.01)
        return self.inner(parameters, shard)


class NotFinite:
    """The gradient of one shard of each of `versions` has a NaN."""

    def __init__(self, versions: frozenset[int], index: int) -> None:
        self.inner, self.versions, self.index = build_gradient(), versions, index

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        report = self.inner(parameters, shard)
        if shard.version in self.versions and shard.index == self.index:
            report.gradient[4] = np.nan
        return report


class Failing:
    """Raises as a learner's own mistake would."""

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        raise ValueError(f"shard {shard.index} of a learner with a mistake")


class Renamed(dict[str, object]):
    """A task form, or what builds a rank's computation, of a class that no other process finds."""

    def __call__(self, sharing: object) -> ComputesMetaGradient:
        return Failing()

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _not_found, ()


def _not_found() -> None:
    raise AttributeError("Can't get attribute 'Renamed'")


class HeldUpForm(Mapping[str, object]):
    """An empty task form, which every checkpoint holds: the first process but this one that writes it is held up.

    It says so by `begun`, and goes on once there is `released`.
    """

    def __init__(self, begun: Path, released: Path) -> None:
        self.begun, self.released, self.home = begun, released, os.getpid()

    def __iter__(self) -> Iterator[str]:
        if os.getpid() != self.home and not self.begun.exists():
            self.begun.touch()
            give_up_at = time.monotonic() + 120
            while not self.released.exists():
                if time.monotonic() > give_up_at:
                    raise TimeoutError("nobody killed or released the process")
                time.sleep(0.01)
        return iter(())

    def __len__(self) -> int:
        return 0

    def __getitem__(self, name: str) -> object:
        raise KeyError(name)


def training_plan(
    folder: str | Path,
    *,
    num_steps: int = 12,
    num_workers: int = 0,
    resume: bool = False,
    build: Callable[[], ComputesMetaGradient] = build_gradient,
    checkpoint_every: int = 5,
    max_refused_steps: int = 10,
) -> TrainingPlan:
    """A run that uses everything that could break its bits: Adam, cosine with warm-up, clipping, uneven shards."""
    learner = FakeLearner()
    return TrainingPlan(
        build_gradient=build,
        parameters=initial_parameters(learner),
        parameter_shapes=parameter_shapes(learner),
        num_steps=num_steps,
        meta_batch=10,
        num_shards=4,
        num_workers=num_workers,
        optimizer=OptimizerPlan(learning_rate=1e-2, warmup=3, clip_norm=0.5, max_refused_steps=max_refused_steps),
        checkpoint_dir=folder,
        checkpoint_every=checkpoint_every,
        settings_yaml="recipe: fake\n",
        resume=resume,
    )


slow_gradient = partial(Slow, 0.02)
