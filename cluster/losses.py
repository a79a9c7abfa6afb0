"""The errors by which Ray tells that an actor, or something that it held, is gone."""

from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError

DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError)  # the second: Ray killed it, its node being out of memory
LOSSES = (*DEATHS, ObjectLostError)


def never_began(error: Exception) -> bool:
    """Whether the actor died of an error in its constructor: another one would, too."""
    return isinstance(error, RayActorError) and bool(error.actor_init_failed)
