"""How a unit understands the errors of Ray, which has several for a process that is gone."""

import pytest
import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    OwnerDiedError,
    RayTaskError,
)

from cluster.errors import GroupBroken, Superseded
from cluster.unit import LoopEnd, loop_end

OF_AN_OBJECT = OwnerDiedError("00" * 28, None, "the slice that published it died")


def within(cause: Exception) -> RayTaskError:
    """What Ray raises for an actor's method that raised `cause`."""
    return RayTaskError("run", "its traceback", cause)


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ActorDiedError(), LoopEnd.DEAD),
        (NodeDiedError("gone"), LoopEnd.DEAD),
        (OutOfMemoryError("its node ran low"), LoopEnd.STARVED),
        (within(ActorDiedError()), LoopEnd.CUT_OFF),
        (within(ActorUnavailableError("the connection broke", None)), LoopEnd.CUT_OFF),
        (within(OutOfMemoryError("the server's node ran low")), LoopEnd.CUT_OFF),
        (within(OF_AN_OBJECT), LoopEnd.CUT_OFF),
        (within(Superseded()), LoopEnd.CUT_OFF),
        (within(GroupBroken("a rank went away")), LoopEnd.BROKEN),
    ],
    ids=lambda value: "" if isinstance(value, LoopEnd) else repr(value)[:60],
)
def test_whoever_is_gone_is_told_from_who_lost_somebody(
    monkeypatch: pytest.MonkeyPatch, error: Exception, end: LoopEnd
):
    def fail(reference: ray.ObjectRef) -> None:
        raise error

    monkeypatch.setattr(ray, "get", fail)
    assert loop_end(ray.ObjectRef.nil()) is end


def test_what_the_computation_raised_is_raised(monkeypatch: pytest.MonkeyPatch):
    def fail(reference: ray.ObjectRef) -> None:
        raise within(ZeroDivisionError("a mistake"))

    monkeypatch.setattr(ray, "get", fail)
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        loop_end(ray.ObjectRef.nil())
