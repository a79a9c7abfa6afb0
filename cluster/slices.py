"""The server's vectors in actors of their own, each with a range: workers push to them without passing the server."""

import asyncio
import os
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from cluster.aggregation import WireType
from cluster.blocks import slice_bounds
from cluster.checkpoint import Checkpoint
from cluster.code_version import SameCode, require_code
from cluster.errors import ClusterError, last_line
from cluster.optimizer_plan import OptimizerPlan
from cluster.parameter_slice import ParameterSlice
from cluster.plan import ServerPlan
from cluster.server_state import ServerState
from cluster.shards import GradientKey
from cluster.slice_state import SliceState, cut, join
from cluster.update import Made, Summed, Update

if TYPE_CHECKING:
    from ray.actor import ActorProxy

Answer = TypeVar("Answer")


class Slice:
    """Runs as a Ray actor that the server owns; its methods run one at a time, on its event loop."""

    def __init__(self, code: str, plan: OptimizerPlan, num_steps: int, wire: WireType, state: SliceState) -> None:
        """Raises `ClusterError` unless this process runs `code`, the driver's `cluster.code_version`."""
        require_code(code)
        self._slice = ParameterSlice(plan, num_steps, wire, state)

    async def push(self, key: GradientKey, gradient: np.ndarray) -> None:
        """Keep this range of a gradient, as it travelled; once answered, the server may count on it."""
        self._slice.push(key, gradient)

    async def sum(self, update: Update) -> Summed:
        """Sum this range of an update's gradients."""
        return self._slice.sum(update)

    async def move(self, update: Update, norm: float) -> list[ray.ObjectRef]:
        """Take the optimiser's step, given the norm over all slices; a reference to the parameters after it."""
        self._slice.move(update, norm)
        return await self.published()

    async def published(self) -> list[ray.ObjectRef]:
        """A reference to the parameters as they travel."""
        return [ray.put(self._slice.published)]

    async def state(self) -> SliceState:
        """What another slice could continue from."""
        return self._slice.state()

    async def outlive(self) -> None:
        """Answer never: the question fails when this actor dies."""
        await asyncio.Event().wait()


class InSlices:
    """The vectors in `num_slices` actors, which end with the server that started them.

    The server without one of its slices is of no use, so it ends with each of them too: whoever replaces the server
    replaces all, from the newest checkpoint.
    """

    def __init__(self, plan: ServerPlan, checkpoint: Checkpoint, code: str) -> None:
        bounds = slice_bounds(plan.num_parameters, plan.aggregation.num_slices)
        whole = SliceState(checkpoint.parameters, checkpoint.optimizer_state, checkpoint.average)
        actor = ray.remote(Slice).options(num_cpus=0, scheduling_strategy="SPREAD")
        wire = plan.aggregation.parameter_wire
        self._slices: list[ActorProxy[Slice]] = [
            actor.remote(SameCode(code), plan.optimizer, plan.num_steps, wire, state) for state in cut(whole, bounds)
        ]
        self._published: list[ray.ObjectRef] = []
        self._starting: asyncio.Future[None] | None = None
        self._watches: list[asyncio.Future[list[None]]] = []

    @property
    def slices(self) -> tuple[ActorHandle, ...]:
        """The actors, in the order of their ranges."""
        return tuple(cast(ActorHandle, one) for one in self._slices)

    @property
    def published(self) -> list[ray.ObjectRef]:
        """A reference to each range, in order."""
        return self._published

    async def start(self) -> None:
        """Wait for the slices, and watch them from then on."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        await self._starting

    def keep(self, key: GradientKey, gradient: np.ndarray, state: ServerState) -> None:
        """Nothing to do: the worker gave the gradient to the slices before it reported."""

    async def make(self, update: Update) -> Made:
        """Sum in every slice, put the norm together, move in every slice: the bits of one slice."""
        summed = await self._ask([one.sum.remote(update) for one in self._slices])
        norm = update.norm(np.concatenate([part.squared_sums for part in summed]))
        moved = await self._ask([one.move.remote(update, norm) for one in self._slices])
        self._published = [reference for references in moved for reference in references]
        places = [part.not_finite for part in summed if part.not_finite is not None]
        return Made(norm, min(places, default=None))

    async def state(self) -> SliceState:
        """The ranges put together."""
        return join(await self._ask([one.state.remote() for one in self._slices]))

    async def _start(self) -> None:
        references = await self._ask([one.published.remote() for one in self._slices])
        self._published = [reference for own in references for reference in own]
        self._watches = [asyncio.ensure_future(self._ask([one.outlive.remote()])) for one in self._slices]

    async def _ask(self, questions: Sequence[Awaitable[Answer]]) -> list[Answer]:
        """All answers; if a slice has died, this process ends as one that was killed.

        Raises `ClusterError` for a slice that could not start: another one could not either.
        """
        try:
            return list(await asyncio.gather(*questions))
        except RayActorError as error:
            if error.actor_init_failed:
                raise ClusterError(f"a slice of the parameter server could not start: {last_line(error)}") from error
            os._exit(1)
