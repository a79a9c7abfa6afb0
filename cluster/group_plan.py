"""A worker of several ranks, which share out the particles or modes of every shard that it computes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import UserError
from cluster.shards import ComputesMetaGradient
from mcb.sharing import Sharing


@dataclass(frozen=True)
class GroupPlan:
    """What each worker's ranks are asked to do; the number of ranks is part of a result's last bits.

    `build_share` makes a rank's computation, whose gradient is that of the whole loss as far as the rank's own rows
    and its part of the sums go (`mcb.sharing`); it must be picklable. A rank that waits `timeout_s` for another gives
    the group up.
    """

    num_ranks: int
    build_share: Callable[[Sharing], ComputesMetaGradient]
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        """Raise `UserError` for a value out of its range."""
        if self.num_ranks < 2:
            raise UserError(f"ranks_per_worker={self.num_ranks} make no group: give at least 2")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise UserError(f"rank_timeout_s={self.timeout_s} must be a positive number of seconds")


def mean_over_ranks(gradients: Sequence[np.ndarray]) -> np.ndarray:
    r"""$\frac1R ((g_0 + g_1) + g_2 + \dots)$: the meta-gradient, where every rank's gradient is of the whole loss."""
    total = gradients[0].copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for gradient in gradients[1:]:
            total += gradient
    total /= np.float32(len(gradients))
    return total
