"""Groups that tests start: small learners of the library on the fake tasks, and ranks that misbehave."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fake_learner import FakeSource, training_plan
from torch import nn

from cluster.errors import GroupBroken
from cluster.gradient import MetaGradient, initial_parameters, parameter_shapes
from cluster.group import LeadsGroup, connect, follow, leading, process_group
from cluster.group_plan import GroupPlan
from cluster.plan import TrainingPlan
from cluster.shards import ComputesMetaGradient, Shard, ShardReport, plan
from mcb.hypernetwork import PriorHypernetwork
from mcb.inference.conjugate import Conjugate
from mcb.inference.gradient import GradientDescent
from mcb.inference.problem import Inference
from mcb.inference.svgd import SVGD
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Gaussian
from mcb.modes.codebook import Codebook
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.sharing import UNSHARED, Sharing

INFERENCES: dict[str, Inference] = {
    "svgd": SVGD(num_steps=2, step_size=0.1, num_particles=5),
    "gradient": GradientDescent(num_steps=2, step_size=0.05, num_particles=4),
    "conjugate": Conjugate(),
}


def make_learner(inference: str) -> ModeConditionalBayesianMAML:
    """Five particles for SVGD, four for gradient steps, and four modes."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = BaseNetwork(MLP(1, 1, hidden=(4, 3)), "head", "none")
        hypernetwork = PriorHypernetwork(3, model, num_offsets=1, hidden=(4,), init_scale=0.5)
        return ModeConditionalBayesianMAML(
            None, hypernetwork, model, modes=Codebook(4, 3), inference=INFERENCES[inference], likelihood=Gaussian(0.7)
        )


class DoubleSource(FakeSource):
    """The fake tasks in float64."""

    def sample(self, seed: int, indices: torch.Tensor):
        tasks = super().sample(seed, indices)
        return type(tasks)(*(leaf.double() if leaf.is_floating_point() else leaf for leaf in tasks))


def build_share(inference: str, sharing: Sharing = UNSHARED) -> MetaGradient:
    learner = make_learner(inference)
    learner.share_out(sharing)
    return MetaGradient(learner, FakeSource(), 0)


class SignalledRank:
    """Rank `victim` sends its own process a signal at a shard of `version`, once for each `marker`."""

    def __init__(self, number: signal.Signals, version: int, marker: Path, victim: int, sharing: Sharing) -> None:
        self.inner, self.version, self.marker = build_share("svgd", sharing), version, marker
        self.number, self.is_victim = number, sharing.rank == victim

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        if self.is_victim and shard.version == self.version:
            with suppress(FileExistsError):  # another group's victim was first
                self.marker.touch(exist_ok=False)
                os.kill(os.getpid(), self.number)
        return self.inner(parameters, shard)


class FailingRank:
    """Rank 1 raises as a learner's own mistake would; the others wait for it."""

    def __init__(self, sharing: Sharing) -> None:
        self.inner, self.rank = build_share("svgd", sharing), sharing.rank

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        if self.rank == 1:
            raise ValueError(f"shard {shard.index} of a rank with a mistake")
        return self.inner(parameters, shard)


def group_plan_of(
    folder: Path, inference: str = "svgd", num_ranks: int = 2, num_workers: int = 0, num_steps: int = 8
) -> TrainingPlan:
    """A short run whose workers are groups."""
    learner: nn.Module = make_learner(inference)
    return replace(
        training_plan(folder, num_steps=num_steps, num_workers=num_workers),
        build_gradient=partial(build_share, inference),
        group=GroupPlan(num_ranks, partial(build_share, inference)),
        parameters=initial_parameters(learner),
        parameter_shapes=parameter_shapes(learner),
    )


def with_ranks(
    plan: TrainingPlan, build: Callable[[Sharing], ComputesMetaGradient], timeout_s: float = 300.0
) -> TrainingPlan:
    """The plan with another computation in its ranks."""
    assert plan.group is not None
    return replace(plan, group=replace(plan.group, build_share=build, timeout_s=timeout_s))


def double_gradient(inference: str, sharing: Sharing = UNSHARED, device: str = "cpu") -> torch.Tensor:
    """The gradient of the mean loss of ten tasks as one rank sees it, flat, in float64, computed on a device."""
    learner = make_learner(inference).double().to(device)
    learner.share_out(sharing)
    indices = torch.arange(10)
    tasks = DoubleSource().sample(1, indices)
    tasks = type(tasks)(*(leaf.to(device) for leaf in tasks))
    losses = learner.losses(tasks, learner.noise(2, indices.to(device)))
    losses.loss.mean().backward()
    pieces = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in learner.parameters()]
    return torch.cat(pieces).cpu()


def in_a_process(
    rank: int, ports: dict[int, int], device: str = "cpu", nccl: bool = False
) -> dict[tuple[str, int], np.ndarray]:
    """As one rank of every group that it belongs to, one after the other: gradients by inference and size of group.

    `device` may hold a place for the rank: `cuda:{rank}`.
    """
    torch.set_num_threads(1)
    found = {}
    for num_ranks, port in ports.items():
        if rank < num_ranks:
            with process_group(rank, num_ranks, connect(port, 60.0), 60.0, nccl) as group:
                for inference in INFERENCES:
                    gradient = double_gradient(inference, group.sharing, device.format(rank=rank))
                    found[inference, num_ranks] = gradient.numpy()
    return found


def lead_a_rank_that_leaves(rank: int, port: int) -> str:
    """Rank 1 goes after the first shard; rank 0 finds out at the second, long before the timeout."""
    torch.set_num_threads(1)
    with process_group(rank, 2, connect(port, 600.0), 600.0, nccl=False) as group:
        compute = build_share("svgd", group.sharing)
        if rank == 1:
            told = group.hear()
            assert told is not None and told[0] is not None
            group.add_up(compute(told[1], told[0]).gradient)
            return "gone after one shard"
        first, second = plan(0, 10, 2)
        parameters = initial_parameters(make_learner("svgd"))
        lead = LeadsGroup(group, compute)
        together = lead(parameters, first)
        np.testing.assert_allclose(together.gradient, build_share("svgd")(parameters, first).gradient, 1e-3, 1e-6)
        try:
            lead(parameters, second)
        except GroupBroken as error:
            return str(error)
    return "nobody went away"


def lead_and_fail(rank: int, port: int) -> int:
    """The leader ends by an error of its own after two shards; returns how many shards a rank computed."""
    num_computed = 0

    def compute(parameters: np.ndarray, shard: Shard) -> ShardReport:
        nonlocal num_computed
        num_computed += 1
        return ShardReport(shard, np.full(3, rank, dtype=np.float32) + parameters, {}, 0.0)

    with process_group(rank, 2, connect(port, 600.0), 600.0, nccl=False) as group:
        if rank:
            follow(group, compute)
            return num_computed
        with suppress(ZeroDivisionError), leading(group):
            for shard in plan(0, 4, 2):
                gradient = LeadsGroup(group, compute)(np.full(3, 7, dtype=np.float32), shard).gradient
                np.testing.assert_array_equal(gradient, [7.5, 7.5, 7.5])
            raise ZeroDivisionError
    return num_computed
