"""The collective strategy: the ranks of one Ray Train `TorchTrainer` all-reduce their gradients; there is no server."""

import time
from collections.abc import Callable, Mapping
from typing import cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.checkpoint import Checkpoint
from cluster.code_version import code_version
from cluster.embedded import ray_cluster
from cluster.errors import ClusterError, last_line
from cluster.journal import Journal
from cluster.losses import DEATHS
from cluster.placement import bundles, shortage
from cluster.plan import StepRecord, TrainingPlan
from cluster.trainer import Trainer

_POLL_S = 0.25  # how soon a signal is noticed and a meta-step shown
_STOP_S = 60.0  # how long ranks that were asked to stop may take over their meta-step
_START_S = 60.0  # how long processes that have a place may take to begin, beside the time to find one
# Read by Ray Train alone. Ranks stay in the driver's folder, so that relative paths of data mean the same there.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",  # for a place; then fewer ranks are tried
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def train_collectively(
    plan: TrainingPlan,
    start: Checkpoint,
    on_step: Callable[[StepRecord], None],
    should_stop: Callable[[], bool],
    after_ray_starts: Callable[[], None],
) -> Checkpoint:
    """Run the remaining meta-steps over Ray Train from `start`, the newest on disk; returns the last, on disk too.

    `after_ray_starts` is called once Ray has taken the process's signal handlers. Raises `UserError` and what the
    computation raises on any rank.
    """
    with ray_cluster(plan.checkpoint_dir, plan.max_workers * plan.threads_per_worker, len(plan.parameters)):
        after_ray_starts()
        if should_stop():
            return start
        require_room(plan)
        run = CollectiveRun(plan, start)
        try:
            return run.watch(on_step, should_stop)
        finally:
            run.end()


def require_room(plan: TrainingPlan) -> None:
    """Raise `ClusterError` unless the cluster has room for enough ranks within `start_timeout_s`.

    The room is reserved to make sure, and given back; `CollectiveRun` notices if another job takes it then.
    """
    places = [placement_group(bundles(plan)) for _ in range(plan.max_workers)]
    try:
        ready = [place.ready() for place in places]
        placed, _ = ray.wait(ready, num_returns=plan.min_to_start, timeout=plan.start_timeout_s)
    finally:
        for place in places:
            remove_placement_group(place)
    if len(placed) < plan.min_to_start:
        asked = shortage(plan, len(placed), plan.min_to_start, _nodes(), ray.available_resources())
        raise ClusterError(f"{asked} (waited {plan.start_timeout_s:.0f} s)")


class CollectiveRun:
    """The driver's side: the journal and the trainer, two actors on the driver's node."""

    def __init__(self, plan: TrainingPlan, start: Checkpoint) -> None:
        self._plan, self._version = plan, start.version
        self._placed_at = time.monotonic()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        journal = ray.remote(Journal).options(num_cpus=0, scheduling_strategy=here)
        self._journal = cast(ActorHandle, journal.remote(plan.server))
        trainer = ray.remote(Trainer).options(
            num_cpus=0, scheduling_strategy=here, runtime_env={"env_vars": _ENVIRONMENT}
        )
        self._trainer = cast(ActorHandle, trainer.remote())
        self._fit = self._trainer.fit.remote(plan, self._journal, code_version())

    def watch(self, on_step: Callable[[StepRecord], None], should_stop: Callable[[], bool]) -> Checkpoint:
        """Pass on every meta-step until the run is over or stopped."""
        give_up_at: float | None = None
        is_over = False
        while not is_over and (give_up_at is None or time.monotonic() < give_up_at):
            is_over = bool(ray.wait([self._fit], timeout=_POLL_S)[0])
            for record in self._ask(self._journal.read.remote(self._version)):
                self._version = record.version
                on_step(record)
            if not is_over:
                self._require_place()
            if give_up_at is None and should_stop():
                self._ask(self._journal.stop.remote())
                give_up_at = time.monotonic() + _STOP_S
        last = self._ask(self._journal.finish.remote())
        if is_over:
            self._ask(self._fit)
        return last

    def end(self) -> None:
        """End both actors, and with the trainer all that it started."""
        for actor in (self._trainer, self._journal):
            ray.kill(actor)

    def _require_place(self) -> None:
        """Raise `ClusterError` when the ranks have had no place for too long: Ray Train would wait for ever.

        Too few nodes may be left, or another job may have taken what the ranks had, or were to have.
        """
        now = time.monotonic()
        if _is_there(self._ask(self._journal.place.remote())):
            self._placed_at = now
        waited_s = now - self._placed_at
        if waited_s > self._plan.regrow_timeout_s + _START_S:
            free = ray.available_resources()
            asked = shortage(self._plan, 0, self._plan.min_to_go_on, _nodes(), free, has_begun=True)
            raise ClusterError(f"{asked} (waited {waited_s:.0f} s)")

    def _ask(self, reference: ray.ObjectRef):
        """An actor's answer; raises what made the run fail."""
        try:
            return ray.get(reference)
        except RayTaskError as error:
            raise error.cause or error from error
        except DEATHS as error:
            raise ClusterError(
                f"the collective run's journal or trainer died after meta-step {self._version} ({last_line(error)}): "
                "resume from the last checkpoint"
            ) from error


def _is_there(place: PlacementGroup | None) -> bool:
    """Whether a placement group has its resources: Ray takes them back, or looks for others, when a node dies."""
    return place is not None and placement_group_table(place).get("state") == "CREATED"


def _nodes() -> list[Mapping[str, float]]:
    """What each living node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
