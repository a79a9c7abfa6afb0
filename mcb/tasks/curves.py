"""Few-shot regression tasks from measured curves: a family is a mode, a task one of its curves."""

from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcb.randomness import fold_key, uniforms
from mcb.tasks.long_form import LongForm, in_split, read_long_form, standardised, training_moments
from mcb.types import Task
from mcb.units import Units


@dataclass(frozen=True, eq=False)
class CurveTasks:
    """Tasks of one split of a long-form file: random support points, the rest (at most `num_query`) query points.

    Families take turns: task `i` of a stream belongs to the `i mod F`-th family that has tasks in the split. A family's
    tasks come in rounds: each round holds every one of them once, in an order of its own. So the first rounds are an
    enumeration (`every_task`), and a long stream visits all tasks equally often. Curves with no more than `num_support`
    points are left out.

    `x` and `y` are standardised per family on its training tasks, so errors of prediction are in their deviations;
    `units` leads back.
    """

    mode_names: tuple[str, ...]
    task_names: tuple[str, ...]
    mode: Int[Tensor, "N"]
    start: Int[Tensor, "N"]
    count: Int[Tensor, "N"]
    x: Float[Tensor, "R X"]
    y: Float[Tensor, "R 1"]
    num_support: int
    num_query: int
    units: Units

    @classmethod
    def from_parquet(
        cls, path: str | PathLike[str], split: str = "train", num_support: int = 10, num_query: int = 50
    ) -> "CurveTasks":
        """The tasks of `split` ("train", "validation" or "test") of the Parquet file at `path` (see `long_form`).

        Raises:
            ValueError: the file is not of that form, or no curve of the split has more than `num_support` points.
        """
        for name, value in (("num_support", num_support), ("num_query", num_query)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        measured = read_long_form(path)
        data = standardised(measured)
        chosen = in_split(data, split)
        if not chosen.any():
            raise ValueError(f"{path} has no {split} tasks (a task's name decides its split); add tasks")
        longest = data.count[chosen].max()
        chosen &= data.count > num_support
        if not chosen.any():
            raise ValueError(
                f"num_support={num_support} must be below {longest}, the points of the longest {split} task of {path}: "
                "at least one must be left for the query"
            )
        rows = np.repeat(chosen, data.count)
        count = torch.from_numpy(data.count[chosen])
        return cls(
            mode_names=data.families,
            task_names=tuple(name for name, keep in zip(data.names, chosen, strict=True) if keep),
            mode=torch.from_numpy(data.family[chosen]),
            start=count.cumsum(0) - count,
            count=count,
            x=torch.from_numpy(data.x[rows]).float(),
            y=torch.from_numpy(data.y[rows]).float(),
            num_support=num_support,
            num_query=num_query,
            units=_units(measured),
        )

    @property
    def x_size(self) -> int:
        """Number of x columns."""
        return self.x.shape[1]

    @property
    def y_size(self) -> int:
        """One target."""
        return 1

    def sample(self, seed: int, indices: Int[Tensor, "T"]) -> Task:
        """Tasks `indices` of the stream `seed`: which curve, and which of its points are support and query."""
        task = self.curve(seed, indices)
        num_points = self.num_support + self.num_query
        count = self.count[task]
        ranks = uniforms(fold_key(seed, "points"), indices, max(int(count.max()), num_points))
        absent = torch.arange(ranks.shape[1]) >= count[:, None]
        place = ranks.masked_fill(absent, 2.0).topk(num_points, largest=False).indices
        mask = place < count[:, None]
        rows = torch.where(mask, self.start[task, None] + place, 0)
        x, y = self.x[rows] * mask[..., None], self.y[rows] * mask[..., None]
        s = self.num_support
        return Task(x[:, :s], y[:, :s], mask[:, :s], x[:, s:], y[:, s:], mask[:, s:], self.mode[task])

    def curve(self, seed: int, indices: Int[Tensor, "T"]) -> Int[Tensor, "T"]:
        """Which curve each task of the stream is made from, an index into `task_names`."""
        _, num_curves = self.mode.unique_consecutive(return_counts=True)
        first = num_curves.cumsum(0) - num_curves
        turn, family = indices // len(num_curves), indices % len(num_curves)
        position = turn % num_curves[family]
        rounds, inverse = torch.unique(family + len(num_curves) * (turn // num_curves[family]), return_inverse=True)
        ranks = uniforms(fold_key(seed, "order"), rounds, int(num_curves.max()))
        absent = torch.arange(ranks.shape[1]) >= num_curves[rounds % len(num_curves), None]
        order = ranks.masked_fill(absent, 2.0).argsort(dim=1)
        return first[family] + order[inverse, position]

    def every_task(self, num_rounds: int = 1) -> Int[Tensor, "I"]:
        """Indices, ascending, at which a stream of any seed visits every curve exactly `num_rounds` times."""
        _, num_curves = self.mode.unique_consecutive(return_counts=True)
        slots = [f + len(num_curves) * torch.arange(num_rounds * int(num)) for f, num in enumerate(num_curves)]
        return torch.cat(slots).sort().values


def _units(data: LongForm) -> Units:
    """By which `standardised` leads back to the units of the file."""
    mean, scale = (torch.from_numpy(moment) for moment in training_moments(data))
    return Units(data.families, mean[:, :-1], scale[:, :-1], mean[:, -1:], scale[:, -1:])
