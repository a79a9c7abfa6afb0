"""Places server and workers, watches them, replaces dead workers, and passes on every meta-step."""

from collections.abc import Callable
from typing import cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.checkpoint import Checkpoint
from cluster.embedded import ray_cluster
from cluster.errors import ClusterError
from cluster.plan import StepRecord, TrainingPlan
from cluster.policies import may_replace_worker
from cluster.server import Server
from cluster.unit import LoopEnd, Unit, last_line, loop_end, start_worker

_POLL_S = 0.25  # how soon a signal is noticed


def train_with_workers(
    plan: TrainingPlan,
    start: Checkpoint,
    on_step: Callable[[StepRecord], None],
    should_stop: Callable[[], bool],
    after_ray_starts: Callable[[], None],
) -> Checkpoint:
    """Run the remaining meta-steps over Ray from `start`, the newest on disk; returns the last, which is on disk too.

    A stop abandons the meta-step at hand; a few more may be done before it reaches the server. `after_ray_starts` is
    called once Ray has taken the process's signal handlers. Raises `UserError` and what the shard computation raises.
    """
    num_workers = min(plan.num_workers, plan.num_shards)
    num_cpus = num_workers * plan.threads_per_worker
    with ray_cluster(plan.checkpoint_dir, num_cpus, len(plan.parameters)):
        after_ray_starts()
        if should_stop():
            return start
        _require_cpus(num_workers, plan.threads_per_worker)
        fleet = Fleet(plan, num_workers)
        try:
            return fleet.run(on_step, should_stop)
        except RayTaskError as error:
            raise error.cause or error from error
        finally:
            fleet.stop()


class Fleet:
    """The actors of one run."""

    def __init__(self, plan: TrainingPlan, num_workers: int) -> None:
        self._plan, self._num_workers = plan, num_workers
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        server = ray.remote(Server).options(num_cpus=0, scheduling_strategy=here).remote(plan.server)
        self._server = cast(ActorHandle, server)
        self._units: list[Unit] = []
        self._num_started = 0
        self._deaths_since_step = 0
        self._version = 0
        for _ in range(num_workers):
            self._start_unit()

    def run(self, on_step: Callable[[StepRecord], None], should_stop: Callable[[], bool]) -> Checkpoint:
        """Watch until the run is over or stopped."""
        progress = self._server.progress.remote(self._version)
        is_over = False
        while not is_over and not should_stop():
            loops = {loop: unit for unit in self._units for loop in unit.loops}
            ready, _ = ray.wait([progress, *loops], num_returns=1, timeout=_POLL_S)
            for reference in ready:
                if reference != progress:
                    self._see_off(loops[reference], loop_end(reference))
                    continue
                records, is_over = self._ask(progress)
                self._pass_on(records, on_step)
                progress = self._server.progress.remote(self._version)
        records, last = self._ask(self._server.finish.remote(self._version))
        self._pass_on(records, on_step)
        return last

    def stop(self) -> None:
        """End every actor."""
        for unit in self._units:
            unit.stop()
        ray.kill(self._server)

    def _start_unit(self) -> None:
        unit = start_worker(self._plan, f"worker-{self._num_started}")
        self._num_started += 1
        unit.follow(self._server)
        self._units.append(unit)

    def _see_off(self, unit: Unit, end: LoopEnd) -> None:
        """A unit's loop ended: nothing more to do if the run is over, another unit if this one died."""
        self._units.remove(unit)
        unit.stop()
        if end is LoopEnd.OVER:
            return
        self._deaths_since_step += 1
        if not may_replace_worker(self._deaths_since_step, self._num_workers):
            raise ClusterError(
                f"{self._deaths_since_step} workers died since meta-step {self._version} and none was done in "
                "between: look for the cause in Ray's logs, then resume"
            )
        self._ask(self._server.release.remote(unit.unit_id))
        self._start_unit()

    def _ask(self, reference: ray.ObjectRef):
        """The server's answer; raises `ClusterError` if it died."""
        try:
            return ray.get(reference)
        except RayActorError as error:
            if error.actor_init_failed:
                raise ClusterError(f"the parameter server could not start: {last_line(error)}") from error
            raise ClusterError(
                f"the parameter server died after meta-step {self._version}: resume from the last checkpoint in "
                f"{self._plan.checkpoint_dir}"
            ) from error

    def _pass_on(self, records: list[StepRecord], on_step: Callable[[StepRecord], None]) -> None:
        for record in records:
            self._version = record.version
            self._deaths_since_step = 0
            on_step(record)


def _require_cpus(num_workers: int, threads_per_worker: int) -> None:
    """Raise `ClusterError` if the cluster could not hold the workers even when empty: Ray would wait for ever."""
    asked, held = num_workers * threads_per_worker, ray.cluster_resources().get("CPU", 0)
    if asked > held:
        raise ClusterError(
            f"num_workers={num_workers} with threads_per_worker={threads_per_worker} ask for {asked} CPUs, but the "
            f"Ray cluster has {held:g}: ask for fewer or add nodes"
        )
