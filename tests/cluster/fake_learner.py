"""Test doubles that workers import by name: a tiny learner and task source, and shard computations that misbehave."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cluster.shards import Shard, ShardReport
from mcb.randomness import normals, uniforms
from mcb.types import Task


class FakeLosses(NamedTuple):
    """Per-task losses."""

    loss: Tensor
    nll: Tensor
    squared_error: Tensor


class FakeSource:
    """Lines and parabolas by parity of the task index."""

    mode_names = ("line", "parabola")
    x_size = 1
    y_size = 1

    def sample(self, seed: int, indices: Tensor) -> Task:
        """Six points of each task, three for support."""
        draws = uniforms(seed, indices, 8).float()
        x = 2 * draws[:, :6, None] - 1
        mode = indices % 2
        y = draws[:, 6, None, None] * torch.where(mode[:, None, None] == 0, x, x.square()) + draws[:, 7, None, None]
        mask = torch.ones(len(indices), 3, dtype=torch.bool)
        return Task(x[:, :3], y[:, :3], mask, x[:, 3:], y[:, 3:], mask, mode)


class FakeLearner(nn.Module):
    """A small network that sees support means; its noise shifts the prediction."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
        for parameter in self.net.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 3
        self.unused = nn.Parameter(torch.ones(2))

    def noise(self, key: int, indices: Tensor) -> Tensor | None:
        """One normal draw a task."""
        return normals(key, indices, 1)

    def losses(self, tasks: Task, noise: Tensor | None) -> FakeLosses:
        """Mean squared error as loss and as nll."""
        assert noise is not None
        means = torch.cat([tasks.support_x.mean(1), tasks.support_y.mean(1)], -1)[:, None].expand(-1, 3, -1)
        prediction = self.net(torch.cat([tasks.query_x, means], -1)) + 0.1 * noise[:, None]
        error = (prediction - tasks.query_y).square().mean((1, 2))
        return FakeLosses(error, error.detach(), error.detach())
