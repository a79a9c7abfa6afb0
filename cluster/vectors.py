"""The server's hold on the meta-parameters: one interface, whether they are in the server itself or in slices."""

from typing import Protocol

import numpy as np
import ray
from ray.actor import ActorHandle

from cluster.checkpoint import Checkpoint
from cluster.parameter_slice import ParameterSlice
from cluster.plan import ServerPlan
from cluster.server_state import ServerState
from cluster.shards import GradientKey
from cluster.slice_state import SliceState
from cluster.update import Made, Update
from cluster.wire import DIRECT_BYTES, decode

Published = np.ndarray | list[ray.ObjectRef]


def fetch(published: Published) -> np.ndarray:
    """The parameters from what was published, a read-only view of shared memory if they came by one reference."""
    parts = [published] if isinstance(published, np.ndarray) else ray.get(published)
    return decode(parts[0] if len(parts) == 1 else np.concatenate(parts))


class Vectors(Protocol):
    """Parameters, optimiser and waiting gradients of a run."""

    @property
    def slices(self) -> tuple[ActorHandle, ...]:
        """Who takes gradients in place of the server, each a range; none where the server itself does."""
        ...

    @property
    def published(self) -> Published:
        """The present parameters as they travel: themselves, or references to their ranges in order."""
        ...

    async def start(self) -> None:
        """Be ready for the rest; called more than once."""
        ...

    def keep(self, key: GradientKey, gradient: np.ndarray, state: ServerState) -> None:
        """Take an accepted gradient, where it came with its report."""
        ...

    async def make(self, update: Update) -> Made:
        """Make an update; when it returns, `published` is the parameters after it."""
        ...

    async def state(self) -> SliceState:
        """The whole, to continue from."""
        ...


class InServer:
    """The vectors in the server's own memory."""

    slices: tuple[ActorHandle, ...] = ()

    def __init__(self, plan: ServerPlan, checkpoint: Checkpoint) -> None:
        state = SliceState(checkpoint.parameters, checkpoint.optimizer_state, checkpoint.average)
        self._whole = ParameterSlice(plan.optimizer, plan.num_steps, plan.aggregation.parameter_wire, state)
        self._put: tuple[np.ndarray | None, list[ray.ObjectRef]] = (None, [])

    @property
    def published(self) -> Published:
        """The vector, or one reference to it if it is large: put once for all workers of a node."""
        vector = self._whole.published
        if vector.nbytes <= DIRECT_BYTES:
            return vector
        if self._put[0] is not vector:
            self._put = (vector, [ray.put(vector)])
        return self._put[1]

    async def start(self) -> None:
        """Nothing to wait for."""

    def keep(self, key: GradientKey, gradient: np.ndarray, state: ServerState) -> None:
        """Keep a gradient, and sum those of the next update whose turn has come, so that few are kept at once."""
        self._whole.push(key, gradient)
        self._whole.add(state.summable)

    async def make(self, update: Update) -> Made:
        """Make an update at once."""
        return self._whole.make(update)

    async def state(self) -> SliceState:
        """A copy."""
        return self._whole.state()
