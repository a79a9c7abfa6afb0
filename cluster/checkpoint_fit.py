"""Whether a run can continue from a checkpoint: its parameters, optimiser, state, refreshes and open shards."""

from collections.abc import Mapping

import numpy as np

from cluster.checkpoint import Checkpoint
from cluster.errors import CheckpointError
from cluster.plan import TrainingPlan
from cluster.refresh import RefreshPlan


def require_fit(checkpoint: Checkpoint, parameter_shapes: Mapping[str, tuple[int, ...]], optimizer: str) -> None:
    """Raise `CheckpointError` naming the first difference if a run with these parameters cannot continue from it."""
    mine, its = dict(parameter_shapes), dict(checkpoint.parameter_shapes)
    for name in [*mine, *its]:
        if mine.get(name) != its.get(name):
            raise CheckpointError(
                f"the checkpoint of meta-step {checkpoint.version} is of another learner: {name} has shape "
                f"{its.get(name, 'none')} there and {mine.get(name, 'none')} in this run: give the settings it was "
                "made with, or another folder"
            )
    if list(mine) != list(its):
        raise CheckpointError(f"the checkpoint of meta-step {checkpoint.version} orders its parameters differently")
    if checkpoint.optimizer != optimizer:
        raise CheckpointError(
            f"the checkpoint of meta-step {checkpoint.version} was made with optimizer={checkpoint.optimizer}, "
            f"not {optimizer}: give the settings it was made with"
        )


def require_state_fit(checkpoint: Checkpoint, state: np.ndarray | None) -> None:
    """Raise `CheckpointError` if the learner's state is not like `state`, or if it has one and `state` is None."""
    its, mine = (0 if vector is None else len(vector) for vector in (checkpoint.mode_state, state))
    if its != mine:
        raise CheckpointError(
            f"the checkpoint of meta-step {checkpoint.version} is of other modes: their state is {its} numbers there "
            f"and {mine} in this run: give the settings it was made with, or another folder"
        )


def require_refresh_fit(checkpoint: Checkpoint, plan: RefreshPlan | None) -> None:
    """Raise `CheckpointError` if a run that refreshes its state so, or that has none, cannot continue from it."""
    require_state_fit(checkpoint, None if plan is None else plan.state)
    waits = None if checkpoint.pending is None else checkpoint.pending.version
    if plan is not None and waits is not None and waits != (due := plan.waiting_at(checkpoint.version)):
        raise CheckpointError(
            f"the checkpoint of meta-step {checkpoint.version} holds a refresh for meta-step {waits}, but with "
            f"refresh_every={plan.every} and refresh_lag={plan.lag} this run has "
            f"{'none waiting there' if due is None else f'one for meta-step {due}'}: give the settings it was made "
            "with, or another folder"
        )


def require_open_shards_fit(checkpoint: Checkpoint, plan: TrainingPlan) -> None:
    """Raise `CheckpointError` if shards of several meta-batches are open that this run would read or use otherwise."""
    shards, policy = checkpoint.open_shards, plan.aggregation.policy
    of = f"the checkpoint of meta-step {checkpoint.version}"
    if shards is None:
        return
    if policy.is_ordered:
        raise CheckpointError(
            f"{of} is of a stale or asynchronous run, which has shards of several meta-batches open: resume it with "
            "the server strategy and the policy that it was made with"
        )
    cuts = {"num_shards": (shards.num_shards, plan.num_shards), "meta_batch": (shards.meta_batch, plan.meta_batch)}
    for name, (its, mine) in cuts.items():
        if its not in (None, mine):
            raise CheckpointError(
                f"{of} has shards of several meta-batches open, cut with {name}={its}, not {mine}: resume it with "
                f"{name}={its}"
            )
    num_steps, num_more = divmod(shards.num_counted, plan.num_shards)
    if num_steps != checkpoint.version:
        raise CheckpointError(
            f"{of} has {shards.num_counted} shards done, which are not {checkpoint.version} meta-steps of "
            f"num_shards={plan.num_shards}: resume it with the num_shards that it was made with"
        )
    if num_more and policy.updates_per_step(plan.num_shards) == 1:
        raise CheckpointError(
            f"{of} is of an asynchronous run, {num_more} of num_shards={plan.num_shards} shards into its next "
            f"meta-step, which policy={policy} makes in one update: resume it with the policy that it was made with"
        )
