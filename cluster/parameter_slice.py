"""A range of the meta-parameters with its part of the optimiser: what a slice of the server owns, or a whole one."""

from collections.abc import Sequence

import numpy as np

from cluster.aggregation import WireType
from cluster.blocks import squared_sums
from cluster.buffer import GradientBuffer
from cluster.optimizer import FlatOptimizer
from cluster.optimizer_plan import OptimizerPlan
from cluster.shards import GradientKey
from cluster.slice_state import SliceState
from cluster.update import Made, Summed, Update
from cluster.wire import encode


class ParameterSlice:
    """Takes gradients in, sums those of an update, and moves its parameters: all of it elementwise but the norm."""

    def __init__(self, plan: OptimizerPlan, num_steps: int, wire: WireType, state: SliceState) -> None:
        self._plan = plan
        self._wire: WireType = wire
        self._optimizer = FlatOptimizer(plan, num_steps, state.parameters)
        if state.optimizer_state:
            self._optimizer.load(state.optimizer_state)
        self._buffer = GradientBuffer(len(state.parameters))
        self._parameters = self._optimizer.parameters
        self._average = state.average
        if plan.average_decay is not None and state.average is None:
            self._average = self._parameters
        self._published: np.ndarray | None = None

    @property
    def parameters(self) -> np.ndarray:
        """The present values: read-only, and another array after every update."""
        return self._parameters

    @property
    def published(self) -> np.ndarray:
        """The parameters as they travel."""
        if self._published is None:
            self._published = encode(self._parameters, self._wire)
        return self._published

    def push(self, key: GradientKey, gradient: np.ndarray) -> None:
        """Keep a gradient, as it travelled, until its update; raises `UserError` for a length that does not fit."""
        self._buffer.push(key, gradient)

    @property
    def waiting(self) -> tuple[GradientKey, ...]:
        """Gradients that are kept and not summed yet."""
        return self._buffer.waiting

    def add(self, keys: Sequence[GradientKey]) -> None:
        """Sum the first gradients of the update at hand, as far as they are known."""
        self._buffer.add(keys)

    def make(self, update: Update) -> Made:
        """The whole of an update, where this is the only slice."""
        summed = self.sum(update)
        norm = update.norm(summed.squared_sums)
        self.move(update, norm)
        return Made(norm, summed.not_finite)

    def sum(self, update: Update) -> Summed:
        """Sum what is left of the update's gradients and forget those that no update will sum."""
        self._buffer.discard(update.unused)
        self._buffer.add(update.keys)
        self._buffer.discard(update.useless(self._buffer.waiting))
        return Summed(squared_sums(self._buffer.gradient), self._buffer.not_finite)

    def move(self, update: Update, norm: float) -> None:
        """Take the optimiser's step for an update that was summed; nothing moves if its norm is not finite."""
        if np.isfinite(norm):
            gradient = self._buffer.gradient
            self._optimizer.step(
                gradient if update.scale == 1 else gradient * np.float32(update.scale), norm, update.version
            )
            self._parameters = self._optimizer.parameters
            self._published = None
            if self._average is not None:
                decay = np.float32(self._plan.average_decay_at(update.number))
                self._average = decay * self._average + (1 - decay) * self._parameters
        self._buffer.reset()

    def state(self) -> SliceState:
        """A copy of what another needs to continue."""
        return SliceState(self._parameters, self._optimizer.state(), self._average)
