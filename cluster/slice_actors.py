"""The slices as their supervisor holds them: started, watched, and replaced one by one."""

from typing import cast

import ray
from ray.actor import ActorHandle

from cluster.code_version import SameCode, code_version
from cluster.errors import ClusterError, last_line
from cluster.losses import DEATHS, never_began
from cluster.plan import ServerPlan
from cluster.slices import Slice

_NOTICE_S = 1.0  # how much later than the server the supervisor may hear of a slice's death


class SliceActors:
    """The actors of a plan's slices, in the order of their ranges; none where the server itself has the vectors."""

    def __init__(self, plan: ServerPlan) -> None:
        self._plan = plan
        num_slices = plan.aggregation.num_slices
        self._actors = [self._start() for _ in range(num_slices if num_slices > 1 else 0)]
        self._watches = [_watch(actor) for actor in self._actors]

    @property
    def actors(self) -> tuple[ActorHandle, ...]:
        """Those that were alive when it was looked last."""
        return tuple(self._actors)

    @property
    def watches(self) -> list[ray.ObjectRef]:
        """A reference for each, which is ready when that slice is dead."""
        return self._watches

    def replace_dead(self, one_is: bool) -> None:
        """Start another for each that is dead, and wait a moment for the news if `one_is`.

        Raises `ClusterError` for a slice that could not start: another one could not either.
        """
        if not self._watches:
            return
        if one_is:
            ray.wait(self._watches, timeout=_NOTICE_S)
        dead, _ = ray.wait(self._watches, num_returns=len(self._watches), timeout=0)
        for watch in dead:
            _require_started(watch)
            index = self._watches.index(watch)
            ray.kill(self._actors[index])  # it may only be out of reach
            self._actors[index] = self._start()
            self._watches[index] = _watch(self._actors[index])

    def stop(self) -> None:
        """End all of them."""
        for actor in self._actors:
            ray.kill(actor)

    def _start(self) -> ActorHandle:
        plan = self._plan
        actor = ray.remote(Slice).options(num_cpus=0, scheduling_strategy="SPREAD")
        arguments = (plan.optimizer, plan.num_steps, plan.aggregation.parameter_wire)
        return cast(ActorHandle, actor.remote(SameCode(code_version()), *arguments))


def _watch(actor: ActorHandle) -> ray.ObjectRef:
    return actor.outlive.remote()


def _require_started(watch: ray.ObjectRef) -> None:
    try:
        ray.get(watch)
    except DEATHS as error:
        if never_began(error):
            raise ClusterError(f"a slice of the parameter server could not start: {last_line(error)}") from error
