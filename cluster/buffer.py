"""What a server keeps of a meta-step while its shards come in: sums in shard order, whatever the order of arrival."""

from collections.abc import Sequence

import numpy as np

from cluster.errors import UserError
from cluster.shards import Shard, ShardReport


class GradientBuffer:
    r"""$((g_0 + g_1) + g_2) + \dots$ in float32, and the statistics' sums, over the shards of one version.

    A report that comes early waits for those before it, so the rounding does not depend on who was fast. A shard
    reported twice counts once.
    """

    def __init__(self, shards: Sequence[Shard], num_parameters: int) -> None:
        self._shards = tuple(shards)
        self._gradient = np.empty(num_parameters, dtype=np.float32)
        self._statistics: dict[str, float] = {}
        self._early: dict[int, ShardReport] = {}
        self._num_added = 0
        self._not_finite: Shard | None = None

    def add(self, report: ShardReport) -> bool:
        """Take `report` in; false if its shard is already here.

        Raises `UserError` for a shard or a gradient length that is not of this meta-step.
        """
        shard = report.shard
        if not 0 <= shard.index < len(self._shards) or self._shards[shard.index] != shard:
            raise UserError(f"{shard} is not a shard of this meta-step")
        if report.gradient.shape != self._gradient.shape:
            raise UserError(f"a gradient of shape {report.gradient.shape} does not fit {self._gradient.shape}")
        if shard.index < self._num_added or shard.index in self._early:
            return False
        self._early[shard.index] = report
        while self._num_added in self._early:
            self._add_next(self._early.pop(self._num_added))
        return True

    @property
    def is_complete(self) -> bool:
        """Whether every shard is in."""
        return self._num_added == len(self._shards)

    @property
    def gradient(self) -> np.ndarray:
        """The sum so far; the whole meta-gradient once complete."""
        return self._gradient

    @property
    def statistics(self) -> dict[str, float]:
        """Sums over the tasks of the shards so far."""
        return self._statistics

    @property
    def not_finite(self) -> Shard | None:
        """The first shard that made the sum not finite, if one did."""
        return self._not_finite

    def _add_next(self, report: ShardReport) -> None:
        if self._num_added == 0:
            np.copyto(self._gradient, report.gradient)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                self._gradient += report.gradient
        for name, value in report.statistics.items():
            self._statistics[name] = self._statistics.get(name, 0.0) + value
        if self._not_finite is None and not np.isfinite(self._gradient).all():
            self._not_finite = report.shard
        self._num_added += 1
