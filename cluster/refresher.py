"""The actor that computes refreshes: beside the server, so that training goes on meanwhile."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.code_version import SameCode, require_code
from cluster.errors import ClusterError, last_line
from cluster.losses import DEATHS
from cluster.refresh import Refreshed, Refreshes, Survey, refresh
from cluster.vectors import Published, fetch

if TYPE_CHECKING:
    from ray.actor import ActorProxy

_MAX_RETRIES = 3  # of one refresh, when the process that computes it dies


class Refresher:
    """Runs as a Ray actor that the server owns; holds nothing that another one could not make again."""

    def __init__(self, code: str, build: Callable[[], Refreshes]) -> None:
        """Raises `ClusterError` unless this process runs `code`, the driver's `cluster.code_version`."""
        require_code(code)
        self._build = build
        self._refreshes: Refreshes | None = None

    def refresh(self, published: Published, survey: Survey) -> Refreshed:
        """The refresh of a survey at the parameters that were published for it; raises what the computation raises."""
        if self._refreshes is None:
            self._refreshes = self._build()
        return refresh(self._refreshes, fetch(published), survey)


class Elsewhere:
    """The server's hold on its `Refresher`, which starts at once, so that it is there for the first survey."""

    def __init__(self, build: Callable[[], Refreshes], code: str) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(Refresher).options(
            num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=_MAX_RETRIES
        )
        self._actor: ActorProxy[Refresher] = actor.remote(SameCode(code), build)

    async def refresh(self, published: Published, survey: Survey) -> Refreshed:
        """The refresh of a survey; raises what the computation raises, `ClusterError` if its process always dies."""
        try:
            return await self._actor.refresh.remote(published, survey)
        except RayTaskError as error:
            raise error.cause or error from error
        except DEATHS as error:
            raise ClusterError(
                f"the process of the refresh after meta-step {survey.version} could not start, or died "
                f"{_MAX_RETRIES + 1} times ({last_line(error)}): look for the cause in Ray's logs, then resume"
            ) from error
