"""The entry point: a whole meta-training run, in this process or over Ray, from its beginning or from a checkpoint."""

import hashlib
from collections.abc import Callable

import numpy as np

from cluster.checkpoint import Checkpoint, paths, place, save, take_up
from cluster.checkpoint_fit import require_fit, require_open_shards_fit, require_refresh_fit
from cluster.errors import CheckpointError, UserError
from cluster.interruption import interruption
from cluster.local import train_locally
from cluster.lock import Held, locked
from cluster.plan import StepRecord, TrainingPlan, TrainingResult
from cluster.storage import sweep


def run_meta_training(
    plan: TrainingPlan,
    on_step: Callable[[StepRecord], None],
    stop: Callable[[], bool],
    lock: Held | None = None,
) -> TrainingResult:
    """Meta-train to `plan.num_steps`; the parameters do not depend on the number of workers, nor on a resume.

    `on_step` sees every meta-step once, in order. The run stops early, with a checkpoint, when `stop()` is true after
    a step or when SIGINT or SIGTERM comes; it says so by `interrupted`. It holds the checkpoint folder's `lock`, its
    own if the caller holds none. Raises `UserError`: a folder that another run writes, a checkpoint that does not fit
    or cannot be written, too many refused steps, a cluster that cannot hold the run.
    """
    if lock is None:
        with locked(plan.checkpoint_dir) as held:
            return run_meta_training(plan, on_step, stop, held)
    start = _starting_point(plan)
    if start.version >= plan.num_steps:
        return _result(plan, start)
    with interruption() as interrupted:

        def should_stop() -> bool:
            lock.require()
            return bool(interrupted) or stop()

        if plan.num_workers == 0:
            last = train_locally(plan, start, on_step, should_stop)
        elif plan.strategy == "collective":
            from cluster.collective import train_collectively  # ray is slow to import and not needed above

            last = train_collectively(plan, start, on_step, should_stop, after_ray_starts=interrupted.install)
        else:
            from cluster.supervisor import train_with_workers  # ray is slow to import and not needed above

            last = train_with_workers(plan, start, on_step, should_stop, after_ray_starts=interrupted.install)
    return _result(plan, last)


def params_sha256(parameters: np.ndarray) -> str:
    """sha256 of the little-endian float32 bytes of a flat vector."""
    return hashlib.sha256(parameters.astype("<f4").tobytes()).hexdigest()


def _starting_point(plan: TrainingPlan) -> Checkpoint:
    """The checkpoint that the run starts from; a new run writes its initial parameters as one, so a bad disk shows."""
    sweep(plan.checkpoint_dir)
    if plan.resume:
        start = take_up(plan.checkpoint_dir)
        require_fit(start, plan.parameter_shapes, plan.optimizer.name)
        require_refresh_fit(start, plan.refresh)
        require_open_shards_fit(start, plan)
        if start.version > plan.num_steps:
            raise UserError(f"num_steps={plan.num_steps} must be at least {start.version}, the meta-steps already done")
        return start
    if paths(plan.checkpoint_dir):
        raise CheckpointError(
            f"{plan.checkpoint_dir} already holds checkpoints of a run: resume it, or choose another folder"
        )
    mode_state = None if plan.refresh is None else plan.refresh.state
    start = Checkpoint(
        version=0,
        parameters=plan.parameters,
        parameter_shapes=plan.parameter_shapes,
        optimizer=plan.optimizer.name,
        optimizer_state={},
        settings_yaml=plan.settings_yaml,
        mode_state=mode_state,
        task_form=plan.task_form,
    )
    save(start, plan.checkpoint_dir, plan.checkpoint_keep)
    return start


def _result(plan: TrainingPlan, last: Checkpoint) -> TrainingResult:
    return TrainingResult(
        parameters=last.parameters,
        params_sha256=params_sha256(last.parameters),
        num_steps=last.version,
        num_tasks=last.num_tasks,
        train_seconds=last.train_seconds,
        num_refused=last.num_refused,
        checkpoint=place(plan.checkpoint_dir, last.version),
        interrupted=last.version < plan.num_steps,
        mode_state=last.mode_state,
    )
