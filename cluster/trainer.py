"""The Ray Train side of a collective run: the actor that fits a `TorchTrainer`, and what each of its ranks is given."""

import tempfile
from typing import cast

import ray
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from ray.util.placement_group import get_current_placement_group

from cluster.checkpoint import Checkpoint
from cluster.errors import ClusterError
from cluster.memory import keep_freed_memory
from cluster.placement import bundles
from cluster.plan import StepRecord, TrainingPlan
from cluster.replica import Replica
from cluster.ring import TorchRing

_RESIZE_EVERY_S = 30.0  # how often Ray Train looks whether the cluster could hold more ranks


class Trainer:
    """Runs as a Ray actor on the driver's node, so that killing it ends the trainer and all that it started."""

    def fit(self, plan: TrainingPlan, journal: ActorHandle, code: str) -> None:
        """Fit until the journal says that the run is over; Ray Train restarts the ranks when one dies.

        Checkpoints go to the journal, so Ray Train's own storage stays empty. How often ranks may die is the journal's
        decision, because it knows of meta-steps. Raises `ClusterError` where Ray Train gives up all the same.
        """
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError  # four seconds to import
        from ray.train.torch import TorchConfig, TorchTrainer

        (bundle,) = bundles(plan)
        with tempfile.TemporaryDirectory() as folder:
            trainer = TorchTrainer(
                lambda: run_replica(plan, journal, code),
                torch_config=TorchConfig("nccl" if plan.gpus_per_worker == 1 else "gloo"),  # nccl wants whole GPUs
                scaling_config=ScalingConfig(
                    num_workers=(plan.min_to_go_on, plan.max_workers),
                    use_gpu=bundle.get("GPU", 0.0) > 0,
                    resources_per_worker=bundle,
                    elastic_resize_monitor_interval_s=_RESIZE_EVERY_S,
                ),
                run_config=RunConfig(
                    name="collective", storage_path=folder, failure_config=FailureConfig(max_failures=-1)
                ),
            )
            try:
                trainer.fit()
            except TrainingFailedError as error:
                cause = " ".join(str(error).splitlines()[:2])
                raise ClusterError(f"Ray Train gave up ({cause}): resume from the last checkpoint") from error


def run_replica(plan: TrainingPlan, journal: ActorHandle, code: str) -> None:
    """What every rank does, if it runs the driver's `code`."""
    from ray.train import get_context
    from ray.train.torch import get_device

    keep_freed_memory()
    diary = RayDiary(journal)
    is_first = get_context().get_world_rank() == 0
    start = diary.begin() if is_first else None
    ring = TorchRing(get_device() if dist.get_backend() == "nccl" else torch.device("cpu"))
    start = ring.share(start)
    if start is not None:
        Replica(plan, start, ring, diary, code).run()
        diary.flush()


class RayDiary:
    """Writes to the journal actor with at most one message of meta-steps under way; later ones wait and go together."""

    def __init__(self, journal: ActorHandle) -> None:
        self._journal = journal
        self._waiting: list[StepRecord] = []
        self._sent: ray.ObjectRef | None = None
        self._is_stopping = False

    @property
    def is_stopping(self) -> bool:
        """Whether the run is to end, as the last answer said."""
        return self._is_stopping

    def begin(self) -> Checkpoint | None:
        """What to go on from; None if the run is over."""
        place = get_current_placement_group()
        return cast(Checkpoint | None, ray.get(self._journal.begin.remote(place)))

    def add(self, record: StepRecord) -> None:
        """Take a meta-step in; it goes on its way once the message before it has arrived."""
        self._waiting.append(record)
        if self._sent is not None and ray.wait([self._sent], timeout=0)[0]:
            self._receive()
        if self._sent is None:
            self._send()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint once every meta-step before it is taken in."""
        self.flush()
        self._is_stopping |= cast(bool, ray.get(self._journal.save.remote(checkpoint)))

    def fail(self, error: Exception) -> None:
        """End the run with an error."""
        ray.get(self._journal.fail.remote(error))

    def flush(self) -> None:
        """Wait until all meta-steps have arrived."""
        self._receive()
        if self._waiting:
            self._send()
            self._receive()

    def _send(self) -> None:
        self._sent, self._waiting = self._journal.add.remote(self._waiting), []

    def _receive(self) -> None:
        """Wait for the answer to the message under way, if there is one."""
        if self._sent is not None:
            self._is_stopping |= cast(bool, ray.get(self._sent))
            self._sent = None
