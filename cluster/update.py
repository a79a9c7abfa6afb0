"""An update of the meta-parameters as a value: which gradients it sums, and what came of the sum."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cluster.blocks import norm
from cluster.errors import RefusedSteps
from cluster.shards import GradientKey, Shard


class Update(NamedTuple):
    """Update `number` of the parameters, in meta-step `version`: by `scale` times the sum over `keys`, in their order.

    Whoever keeps gradients forgets the `unused` ones, which arrived and are never summed. Of others it may never hear:
    their worker died before it reported. A gradient of this update's shards, or of a meta-batch before `front`, is of a
    shard that another gradient served, and one at fewer than `oldest_base` updates is too old.
    """

    number: int
    version: int
    keys: tuple[GradientKey, ...]
    scale: float
    unused: tuple[GradientKey, ...]
    oldest_base: int = 0
    front: int = 0

    def useless(self, keys: Iterable[GradientKey]) -> list[GradientKey]:
        """Which of the gradients that still wait once this update is summed are never to be summed."""
        served = {(key.version, key.index) for key in self.keys}
        return [
            key
            for key in keys
            if key.base < self.oldest_base or key.version < self.front or (key.version, key.index) in served
        ]

    def norm(self, squared_sums: np.ndarray) -> float:
        """Norm of the update's gradient, from its sum's `cluster.blocks.squared_sums`."""
        return self.scale * norm(squared_sums)


class Summed(NamedTuple):
    """Of a sum, or of a range of it: its `cluster.blocks.squared_sums`, and where it ceased to be finite.

    `not_finite` is the place among the update's keys of the first gradient that made it so, None if it is finite.
    """

    squared_sums: np.ndarray
    not_finite: int | None


class Made(NamedTuple):
    """What came of an update: the norm of its gradient (one that is not finite moved nothing), and `Summed`'s place."""

    norm: float
    not_finite: int | None


def too_many_refused(version: int, shard: Shard | None, num_refused: int, allowed: int) -> RefusedSteps:
    """What ends a run at meta-step `version`; `shard` is that whose gradient made the sum not finite, if one did."""
    where = f"shard {shard.index} (tasks {shard.start} to {shard.stop - 1})" if shard else "its norm"
    return RefusedSteps(
        f"the meta-gradient of meta-step {version} is not finite in {where}; {num_refused} steps were refused and "
        f"max_refused_steps={allowed}: lower the learning rate, clip the gradient, or allow more, and resume from the "
        "last checkpoint"
    )
