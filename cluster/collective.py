"""The collective strategy: the ranks of one Ray Train `TorchTrainer` all-reduce their gradients; there is no server."""

import time
from collections.abc import Callable

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.checkpoint import Checkpoint
from cluster.embedded import ray_cluster
from cluster.errors import ClusterError
from cluster.journal import Journal
from cluster.plan import StepRecord, TrainingPlan
from cluster.supervisor import _require_cpus
from cluster.trainer import Trainer

_POLL_S = 0.25  # how soon a signal is noticed and a meta-step shown
_STOP_S = 60.0  # how long ranks that were asked to stop may take over their meta-step
# Read by Ray Train alone. Ranks stay in the driver's folder, so that relative paths of data mean the same there.
_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_CHDIR_TO_TRIAL_DIR": "0"}


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
    num_cpus = num_ranks(plan) * plan.threads_per_worker
    with ray_cluster(plan.checkpoint_dir, num_cpus, len(plan.parameters)):
        after_ray_starts()
        if should_stop():
            return start
        _require_cpus(num_ranks(plan), plan.threads_per_worker)
        run = CollectiveRun(plan, start)
        try:
            return run.watch(on_step, should_stop)
        finally:
            run.end()


def num_ranks(plan: TrainingPlan) -> int:
    """How many ranks at most: each has at least one task of a meta-batch."""
    return min(plan.num_workers, plan.meta_batch)


class CollectiveRun:
    """The driver's side: the journal and the trainer, two actors on the driver's node."""

    def __init__(self, plan: TrainingPlan, start: Checkpoint) -> None:
        self._version = start.version
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._journal = ray.remote(Journal).options(num_cpus=0, scheduling_strategy=here).remote(plan.server)
        environment = {"env_vars": _ENVIRONMENT}
        self._trainer = (
            ray.remote(Trainer).options(num_cpus=0, scheduling_strategy=here, runtime_env=environment).remote()
        )
        self._fit = self._trainer.fit.remote(plan, self._journal)

    def watch(self, on_step: Callable[[StepRecord], None], should_stop: Callable[[], bool]) -> Checkpoint:
        """Pass on every meta-step until the run is over or stopped."""
        give_up_at: float | None = None
        is_over = False
        while not is_over:
            is_over = bool(ray.wait([self._fit], timeout=_POLL_S)[0])
            for record in self._ask(self._journal.read.remote(self._version)):
                self._version = record.version
                on_step(record)
            if give_up_at is None and should_stop():
                self._ask(self._journal.stop.remote())
                give_up_at = time.monotonic() + _STOP_S
            if give_up_at is not None and time.monotonic() > give_up_at:
                break
        last = self._ask(self._journal.finish.remote())
        if is_over:
            self._ask(self._fit)
        return last

    def end(self) -> None:
        """End both actors, and with the trainer all that it started."""
        for actor in (self._trainer, self._journal):
            ray.kill(actor)

    def _ask(self, reference: ray.ObjectRef):
        """An actor's answer; raises what made the run fail."""
        try:
            return ray.get(reference)
        except RayTaskError as error:
            raise error.cause or error from error
        except RayActorError as error:
            raise ClusterError(
                f"the process that kept the collective run died after meta-step {self._version} "
                f"({str(error).strip().splitlines()[-1].strip()}): resume from the last checkpoint"
            ) from error
