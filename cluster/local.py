"""Meta-training in this process: the server's state and the shard computation, without Ray between them."""

from collections.abc import Callable

from cluster.aggregation import WireType
from cluster.checkpoint import Checkpoint, save
from cluster.local_group import LocalGroup
from cluster.memory import keep_freed_memory
from cluster.parameter_slice import ParameterSlice
from cluster.plan import StepRecord, TrainingPlan
from cluster.refresh import Refreshes, refresh
from cluster.server_state import ServerState
from cluster.shards import ComputesMetaGradient, ShardReport, adopt_new
from cluster.slice_state import SliceState
from cluster.threads import threads
from cluster.wire import decode, encode

_ME = "local"


def train_locally(
    plan: TrainingPlan,
    start: Checkpoint,
    on_step: Callable[[StepRecord], None],
    should_stop: Callable[[], bool],
) -> Checkpoint:
    """Run the remaining meta-steps from `start`; returns the last checkpoint, which is also on disk.

    `should_stop` is asked after every meta-step. What would travel is rounded as if it did. Raises `RefusedSteps`, and
    whatever the shard computation raises.
    """
    keep_freed_memory()
    state, aggregation = ServerState(plan.server, start), plan.aggregation
    vectors = SliceState(start.parameters, start.optimizer_state, start.average)
    whole = ParameterSlice(plan.optimizer, plan.num_steps, aggregation.parameter_wire, vectors)
    compute = plan.build_gradient() if plan.group is None else LocalGroup(plan.group, plan.threads_per_worker)
    refreshes = None if plan.refresh is None else plan.refresh.build()
    saved, adopted = start.version, None
    with threads(plan.threads_per_worker):
        while not state.is_done:
            adopted = adopt_new(compute, state.refreshes.state_at(state.version), adopted)
            record = _compute(state, whole, compute, aggregation.gradient_wire, refreshes)
            if record is None:
                continue
            on_step(record)
            if state.is_checkpoint_due:
                save(state.checkpoint(whole.state()), plan.checkpoint_dir, plan.checkpoint_keep)
                saved = state.version
            if should_stop():
                break
    if state.failure is not None:
        raise state.failure
    last = state.checkpoint(whole.state())
    if state.version != saved:
        save(last, plan.checkpoint_dir, plan.checkpoint_keep)
    return last


def _compute(
    state: ServerState,
    whole: ParameterSlice,
    compute: ComputesMetaGradient,
    wire: WireType,
    refreshes: Refreshes | None,
) -> StepRecord | None:
    """Compute what is assigned and take it in; the record of the meta-step if that ends one."""
    record = None
    base, parameters = state.num_updates, decode(whole.published)
    for shard in state.assign(_ME):
        report = compute(parameters, shard)
        report = report._replace(gradient=encode(report.gradient, wire))
        record = _take_in(state, whole, base, report, refreshes)
    return record


def _take_in(
    state: ServerState, whole: ParameterSlice, base: int, report: ShardReport, refreshes: Refreshes | None
) -> StepRecord | None:
    """What the server does with a report; one worker's gradients are never late, so there is at most one update."""
    key = state.accept(_ME, base, report)
    if key is not None:
        whole.push(key, report.gradient)
    update = state.next_update()
    if update is None:
        return None
    survey = state.refreshes.survey
    if refreshes is not None and survey is not None:
        state.refreshes.deliver(refresh(refreshes, decode(whole.published), survey))
    return state.finish_update(whole.make(update))
