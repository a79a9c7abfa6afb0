"""Inputs at which curves are drawn."""

import torch
from jaxtyping import Float
from torch import Tensor

from jobs.building.objects import Source
from mcb.tasks.regression import X_HIGH, X_LOW, RegressionFamilies
from mcb.types import Task


def grid(source: Source, tasks: Task, num_points: int = 200) -> Float[Tensor, "T G X"]:
    """`num_points` values of the first input: the families' range, or what each task's own points span.

    Inputs after the first stand at their mean over the task's support points.
    """
    level = torch.linspace(0, 1, num_points)
    if isinstance(source, RegressionFamilies):
        return (X_LOW + (X_HIGH - X_LOW) * level).expand(len(tasks.mode), -1)[..., None]
    x = torch.cat([tasks.support_x, tasks.query_x], dim=1)[..., 0]
    present = torch.cat([tasks.support_mask, tasks.query_mask], dim=1)
    low = x.masked_fill(~present, torch.inf).amin(1, keepdim=True)
    high = x.masked_fill(~present, -torch.inf).amax(1, keepdim=True)
    first = (low + (high - low) * level)[..., None]
    mask = tasks.support_mask[..., None]
    mean = (tasks.support_x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return torch.cat([first, mean[..., 1:].expand(-1, num_points, -1)], dim=-1)
