"""A unit: the actors that compute shards under one name, placed together and dead together."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayTaskError

from cluster.code_version import SameCode, code_version
from cluster.errors import ClusterError, GroupBroken, Superseded, last_line
from cluster.losses import DEATHS, LOSSES, never_began
from cluster.places import Place
from cluster.plan import TrainingPlan
from cluster.rank import Rank
from cluster.server import Address
from cluster.worker import Worker

_CAUSE_S = 1.0  # how long a broken group waits for the rank that broke it to say why


class LoopEnd(Enum):
    """Why an actor's loop ended, where it was nobody's mistake."""

    OVER = "the run is over, as far as the server that it followed could say"
    CUT_OFF = "the server that it followed, or a vector of it, is gone or goes on anew; the actor lives"
    DEAD = "the actor's process or node is gone"
    STARVED = "Ray killed the actor's process, because its node ran out of memory"
    BROKEN = "another rank of its group is gone, or hangs; the actor lives"


class Unit:
    """One worker, or the ranks of a group.

    `actors` live in `place`, whose resources Ray reserves all at once or, until there is room, not at all:
    `placed` is ready when it has. `follow` starts a loop in every actor, `run(name, address)`, which gives a reference
    for each; `loops` are those that have not ended, and first the `checks` of each actor's code. `address` is the last
    that it followed.
    """

    def __init__(
        self,
        place: Place,
        actors: Sequence[ActorHandle],
        checks: Sequence[ray.ObjectRef],
        run: Callable[[str, Address], Sequence[ray.ObjectRef]],
    ) -> None:
        self.actors = tuple(actors)
        self.placed: ray.ObjectRef = place.group.ready()
        self.name, self._cut_off = "", False
        self.address: Address | None = None
        self.loops = list(checks)
        self._place, self._run = place, run

    def follow(self, name: str, address: Address) -> None:
        """Have all actors compute for a server, which knows them by `name`; none of them may be in a loop."""
        self.name, self.address, self._cut_off = name, address, False
        self.loops += self._run(name, address)

    def ended(self, loop: ray.ObjectRef) -> LoopEnd | None:
        """Take note that a loop ended: how the unit did, or None while that waits for other loops to end.

        A unit is dead as soon as one of its actors is, or does not answer the others, all of which are then to be
        stopped. Raises as `loop_end`.
        """
        self.loops.remove(loop)
        end = loop_end(loop)
        if end is LoopEnd.BROKEN:
            for other in ray.wait(self.loops, num_returns=len(self.loops), timeout=_CAUSE_S)[0] if self.loops else ():
                loop_end(other)
            end = LoopEnd.DEAD
        self._cut_off = self._cut_off or end is LoopEnd.CUT_OFF
        if end in (LoopEnd.DEAD, LoopEnd.STARVED):
            return end
        if self.loops:
            return None
        return LoopEnd.CUT_OFF if self._cut_off else LoopEnd.OVER

    def stop(self) -> None:
        """End all actors, whatever they do, and give their place back."""
        for actor in self.actors:
            ray.kill(actor)
        self._place.give_back()


def start_unit(plan: TrainingPlan, place: Place) -> Unit:
    """A unit of one worker, or of a group's ranks, in `place` as soon as there is room for it."""
    group, wire = plan.group, plan.aggregation.gradient_wire
    if group is None:
        worker = _start(plan, place, 0, Worker)

        def run(name: str, address: Address) -> list[ray.ObjectRef]:
            return [worker.run.remote(name, address, plan.build_gradient, plan.threads_per_worker, wire)]

        return Unit(place, [worker], [worker.require_code.remote(code_version())], run)
    has_own_gpus = plan.gpus_per_worker == 1
    arguments = (SameCode(code_version()), group, plan.threads_per_worker, has_own_gpus)
    ranks = [_start(plan, place, index, Rank, *arguments) for index in range(group.num_ranks)]

    def run_group(name: str, address: Address) -> list[ray.ObjectRef]:
        port = ranks[0].listen.remote()
        return [
            ranks[0].lead.remote(name, address, wire),
            *(rank.follow.remote(index, port) for index, rank in enumerate(ranks) if index),
        ]

    return Unit(place, ranks, [rank.__ray_ready__.remote() for rank in ranks], run_group)


def _start(plan: TrainingPlan, place: Place, index: int, actor: type, *arguments: object) -> ActorHandle:
    """An actor in one bundle of a unit's place."""
    options = ray.remote(actor).options(
        num_cpus=plan.threads_per_worker, num_gpus=plan.gpus_per_worker, scheduling_strategy=place.strategy(index)
    )
    return cast(ActorHandle, options.remote(*arguments))


def loop_end(loop: ray.ObjectRef) -> LoopEnd:
    """Why a finished loop ended; raises what the shard computation raised, and `ClusterError` for a false start."""
    try:
        ray.get(loop)
    except RayTaskError as error:  # first: an actor's death that a loop ran into is of both classes
        if isinstance(error.cause, (*LOSSES, Superseded)):
            return LoopEnd.CUT_OFF
        if isinstance(error.cause, GroupBroken):
            return LoopEnd.BROKEN
        raise error.cause or error from error
    except DEATHS as error:
        if never_began(error):
            raise ClusterError(f"a worker could not start: {last_line(error)}") from error
        return LoopEnd.STARVED if isinstance(error, OutOfMemoryError) else LoopEnd.DEAD
    return LoopEnd.OVER
