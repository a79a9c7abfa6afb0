"""Meta-training in this process: the server's state and the shard computation, without Ray between them."""

from collections.abc import Callable

from cluster.checkpoint import Checkpoint, save
from cluster.local_group import LocalGroup
from cluster.plan import StepRecord, TrainingPlan
from cluster.server_state import ServerState
from cluster.threads import threads


def train_locally(
    plan: TrainingPlan,
    start: Checkpoint,
    on_step: Callable[[StepRecord], None],
    should_stop: Callable[[], bool],
) -> Checkpoint:
    """Run the remaining meta-steps from `start`; returns the last checkpoint, which is also on disk.

    `should_stop` is asked after every meta-step. Raises `RefusedSteps`, and whatever the shard computation raises.
    """
    state = ServerState(plan.server, start)
    compute = plan.build_gradient() if plan.group is None else LocalGroup(plan.group, plan.threads_per_worker)
    saved = start.version
    with threads(plan.threads_per_worker):
        while not state.is_done:
            for shard in state.assign("local"):
                record = state.accept("local", compute(state.parameters, shard))
                if record is not None:
                    on_step(record)
            if state.is_checkpoint_due and state.version != saved:
                save(state.checkpoint(), plan.checkpoint_dir, plan.checkpoint_keep)
                saved = state.version
            if should_stop():
                break
    if state.failure is not None:
        raise state.failure
    last = state.checkpoint()
    if state.version != saved:
        save(last, plan.checkpoint_dir, plan.checkpoint_keep)
    return last
