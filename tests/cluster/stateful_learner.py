"""Test doubles for refreshes, which workers import by name: a tiny learner with a state, and what refreshes it."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from fake_learner import FakeLearner, FakeLosses, FakeSource, training_plan
from torch import Tensor

from cluster.gradient import MetaGradient, initial_parameters, parameter_shapes
from cluster.plan import TrainingPlan
from cluster.refresh import Refreshed, Refreshes, RefreshPlan
from cluster.shards import ComputesMetaGradient, Shard, ShardReport
from cluster.survey import initial_state
from mcb.sharing import Sharing
from mcb.types import Support, Task

NUM_SURVEYED = 17  # no multiple of the shards or of the meta-batch


class Centres:
    """Three centres in a plane, and how many tasks are near each."""

    def __init__(self) -> None:
        self.centres, self.counts = torch.tensor([[0.0, 0.0], [0.5, 0.1], [-0.5, 0.3]]), torch.zeros(3)

    def state(self) -> tuple[Tensor, ...]:
        return self.centres, self.counts


class StatefulLearner(FakeLearner):
    """Its loss depends on which centre is near, its survey on its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.modes = Centres()

    def survey(self, support: Support, mode: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        means = torch.cat([support.x.mean(1), support.y.mean(1)], -1)
        return means * next(self.net.parameters()).detach().mean() + 0.01 * noise

    def losses(self, tasks: Task, noise: Tensor | None, meta_objective: object = None) -> FakeLosses:
        plain = super().losses(tasks, noise)
        rows = torch.cat([tasks.support_x.mean(1), tasks.support_y.mean(1)], -1)
        near = torch.cdist(rows, self.modes.centres).min(-1).values * (1 + self.modes.counts.sum())
        return FakeLosses(plain.loss * (1 + near), plain.nll, plain.squared_error)


class MovesCentres:
    """One step of k-means, and a trace of everything that it was given; at least `seconds` long."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self, version: int, parameters: np.ndarray, state: np.ndarray, survey: np.ndarray) -> Refreshed:
        time.sleep(self.seconds)
        centres = state[:6].reshape(3, 2)
        labels = np.square(survey[:, None] - centres).sum(-1).argmin(1)
        moved = [survey[labels == k].mean(0) if (labels == k).any() else centres[k] for k in range(3)]
        counts = np.bincount(labels, minlength=3) / (10 + version) + np.abs(parameters).mean()
        new = np.concatenate([np.concatenate(moved), counts]).astype(np.float32)
        return Refreshed(new, {"num_modes": float(len(set(labels))), "version": float(version)})


class KilledRefresh(MovesCentres):
    """Its process dies by SIGKILL at the refresh of `version`, unless `marker` says that one has died."""

    def __init__(self, version: int, marker: Path) -> None:
        super().__init__()
        self.version, self.marker = version, marker

    def __call__(self, version: int, parameters: np.ndarray, state: np.ndarray, survey: np.ndarray) -> Refreshed:
        if version == self.version and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(version, parameters, state, survey)


class GatedRefresh(MovesCentres):
    """It ends only once `gate` exists; it says by `begun` that it waits."""

    def __init__(self, begun: Path, gate: Path) -> None:
        super().__init__()
        self.begun, self.gate = begun, gate

    def __call__(self, version: int, parameters: np.ndarray, state: np.ndarray, survey: np.ndarray) -> Refreshed:
        self.begun.touch()
        while not self.gate.exists():
            time.sleep(0.01)
        return super().__call__(version, parameters, state, survey)


class DyingRefresh:
    """Its process dies by SIGKILL at every refresh."""

    def __call__(self, version: int, parameters: np.ndarray, state: np.ndarray, survey: np.ndarray) -> Refreshed:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class FailingRefresh:
    """Raises as a clustering's own mistake would."""

    def __call__(self, version: int, parameters: np.ndarray, state: np.ndarray, survey: np.ndarray) -> Refreshed:
        raise ValueError(f"the refresh after meta-step {version} has a mistake")


def build_stateful() -> MetaGradient:
    return MetaGradient(StatefulLearner(), FakeSource(), 0)


def build_stateful_share(sharing: Sharing) -> MetaGradient:
    return build_stateful()


class KilledAtSurvey:
    """Its process dies by SIGKILL after it computed a shard that surveys, unless `marker` says that one has died."""

    def __init__(self, version: int, marker: Path) -> None:
        self.inner, self.version, self.marker = build_stateful(), version, marker

    def adopt(self, state: np.ndarray) -> None:
        self.inner.adopt(state)

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        report = self.inner(parameters, shard)
        if shard.num_surveyed and shard.version == self.version and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return report


class SlowStateful(KilledAtSurvey):
    """Takes at least so long for each shard."""

    def __init__(self, seconds: float = 0.02) -> None:
        super().__init__(-1, Path("never"))
        self._seconds = seconds

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        time.sleep(self._seconds)
        return super().__call__(parameters, shard)


def refreshed_plan(
    folder: str | Path,
    *,
    every: int = 4,
    lag: int = 2,
    num_steps: int = 14,
    num_workers: int = 0,
    resume: bool = False,
    checkpoint_every: int = 5,
    build: Callable[[], ComputesMetaGradient] = build_stateful,
    refreshes: Callable[[], Refreshes] = MovesCentres,
) -> TrainingPlan:
    """The plan of `training_plan`, of a learner with a state."""
    learner = StatefulLearner()
    plan = training_plan(
        folder, num_steps=num_steps, num_workers=num_workers, resume=resume, checkpoint_every=checkpoint_every
    )
    return replace(
        plan,
        build_gradient=build,
        parameters=initial_parameters(learner),
        parameter_shapes=parameter_shapes(learner),
        refresh=RefreshPlan(every, lag, NUM_SURVEYED, initial_state(learner), refreshes),
    )
