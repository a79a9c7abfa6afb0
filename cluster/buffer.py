"""Gradients that wait for their update, and their sum in an order that does not depend on who was fast."""

from collections.abc import Iterable, Sequence

import numpy as np

from cluster.errors import UserError
from cluster.shards import GradientKey
from cluster.wire import decode


class GradientBuffer:
    r"""Pushed gradients by key, and $((g_0 + g_1) + g_2) + \dots$ in float32 over the keys of an update."""

    def __init__(self, num_parameters: int) -> None:
        self._waiting: dict[GradientKey, np.ndarray] = {}
        self._sum = np.empty(num_parameters, dtype=np.float32)
        self._num_added = 0
        self._not_finite: int | None = None

    def push(self, key: GradientKey, gradient: np.ndarray) -> None:
        """Keep a gradient, as it travelled; one that is here already changes nothing.

        Raises `UserError` for a length that does not fit.
        """
        if gradient.shape != self._sum.shape:
            raise UserError(f"a gradient of shape {gradient.shape} does not fit {self._sum.shape}")
        self._waiting.setdefault(key, gradient)

    def add(self, keys: Sequence[GradientKey]) -> None:
        """Sum the gradients of an update's first `keys`; those that an earlier call summed are not summed again."""
        for key in keys[self._num_added :]:
            gradient = decode(self._waiting.pop(key))
            if self._num_added == 0:
                np.copyto(self._sum, gradient)
            else:
                with np.errstate(over="ignore", invalid="ignore"):
                    self._sum += gradient
            if self._not_finite is None and not np.isfinite(self._sum).all():
                self._not_finite = self._num_added
            self._num_added += 1

    def discard(self, keys: Iterable[GradientKey]) -> None:
        """Forget gradients that will never be summed."""
        for key in keys:
            self._waiting.pop(key, None)

    def reset(self) -> None:
        """Begin the sum of the next update."""
        self._num_added, self._not_finite = 0, None

    @property
    def gradient(self) -> np.ndarray:
        """The sum so far."""
        return self._sum

    @property
    def not_finite(self) -> int | None:
        """The place among the update's keys of the first gradient that made the sum not finite, if one did."""
        return self._not_finite

    @property
    def waiting(self) -> tuple[GradientKey, ...]:
        """Gradients that are kept and not summed yet."""
        return tuple(self._waiting)
