"""The server's vectors in actors of their own, each with a range: workers push to them without passing the server."""

import asyncio
from collections.abc import Sequence

import numpy as np
import ray
from ray.actor import ActorHandle

from cluster.aggregation import WireType
from cluster.blocks import slice_bounds
from cluster.checkpoint import Checkpoint
from cluster.code_version import require_code
from cluster.errors import Superseded
from cluster.optimizer_plan import OptimizerPlan
from cluster.parameter_slice import ParameterSlice
from cluster.plan import ServerPlan
from cluster.server_state import ServerState
from cluster.shards import GradientKey
from cluster.slice_state import SliceState, cut, join
from cluster.update import Made, Summed, Update


class Slice:
    """Runs as a Ray actor of the supervisor's; its methods run one at a time, on its event loop.

    It belongs to one generation of the server at a time: what comes late from one before raises `Superseded`.
    """

    def __init__(self, code: str, plan: OptimizerPlan, num_steps: int, wire: WireType) -> None:
        """Raises `ClusterError` unless this process runs `code`, the driver's `cluster.code_version`."""
        require_code(code)
        self._plan, self._num_steps = plan, num_steps
        self._wire: WireType = wire
        self._slice: ParameterSlice | None = None
        self._generation = -1

    async def restore(self, generation: int, state: SliceState) -> list[ray.ObjectRef]:
        """Go on from `state` for another generation; a reference to the parameters."""
        if generation < self._generation:  # overtaken on the way
            raise Superseded
        self._slice, self._generation = None, generation
        self._slice = ParameterSlice(self._plan, self._num_steps, self._wire, state)
        return _put(self._slice)

    async def push(self, generation: int, key: GradientKey, gradient: np.ndarray) -> None:
        """Keep this range of a gradient, as it travelled; once answered, the server may count on it."""
        self._of(generation).push(key, gradient)

    async def sum(self, generation: int, update: Update) -> Summed:
        """Sum this range of an update's gradients."""
        return self._of(generation).sum(update)

    async def move(self, generation: int, update: Update, norm: float) -> list[ray.ObjectRef]:
        """Take the optimiser's step, given the norm over all slices; a reference to the parameters after it."""
        mine = self._of(generation)
        mine.move(update, norm)
        return _put(mine)

    async def state(self, generation: int) -> SliceState:
        """What another slice could continue from."""
        return self._of(generation).state()

    async def outlive(self) -> None:
        """Answer never: the question fails when this actor dies."""
        await asyncio.Event().wait()

    def _of(self, generation: int) -> ParameterSlice:
        if generation != self._generation or self._slice is None:
            raise Superseded
        return self._slice


class InSlices:
    """The vectors in several actors, for one `generation` of the server, which goes on from `checkpoint`."""

    def __init__(
        self, plan: ServerPlan, checkpoint: Checkpoint, generation: int, slices: Sequence[ActorHandle]
    ) -> None:
        bounds = slice_bounds(plan.num_parameters, len(slices))
        whole = SliceState(checkpoint.parameters, checkpoint.optimizer_state, checkpoint.average)
        self._generation, self._slices = generation, tuple(slices)
        self._ranges = cut(whole, bounds)
        self._published: list[ray.ObjectRef] = []
        self._starting: asyncio.Future[None] | None = None

    @property
    def slices(self) -> tuple[ActorHandle, ...]:
        """The actors, in the order of their ranges."""
        return self._slices

    @property
    def published(self) -> list[ray.ObjectRef]:
        """A reference to each range, in order."""
        return self._published

    async def start(self) -> None:
        """Give each slice its range of the checkpoint; raises Ray's error, as the others do, if one is lost."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        await self._starting

    def keep(self, key: GradientKey, gradient: np.ndarray, state: ServerState) -> None:
        """Nothing to do: the worker gave the gradient to the slices before it reported."""

    async def make(self, update: Update) -> Made:
        """Sum in every slice, put the norm together, move in every slice: the bits of one slice."""
        summed = await asyncio.gather(*[one.sum.remote(self._generation, update) for one in self._slices])
        norm = update.norm(np.concatenate([part.squared_sums for part in summed]))
        self._published = _joined(
            await asyncio.gather(*[one.move.remote(self._generation, update, norm) for one in self._slices])
        )
        places = [part.not_finite for part in summed if part.not_finite is not None]
        return Made(norm, min(places, default=None))

    async def state(self) -> SliceState:
        """The ranges put together."""
        return join(await asyncio.gather(*[one.state.remote(self._generation) for one in self._slices]))

    async def _start(self) -> None:
        restored = [
            one.restore.remote(self._generation, part) for one, part in zip(self._slices, self._ranges, strict=True)
        ]
        self._ranges = []
        self._published = _joined(await asyncio.gather(*restored))


def _put(one: ParameterSlice) -> list[ray.ObjectRef]:
    """A reference to its parameters as they travel, in a list: a bare one would be fetched by who asked."""
    return [ray.put(one.published)]


def _joined(published: Sequence[list[ray.ObjectRef]]) -> list[ray.ObjectRef]:
    return [reference for own in published for reference in own]
