"""Whether a run can continue from a checkpoint: its parameters, its optimiser, its learner's state and refreshes."""

from collections.abc import Mapping

import numpy as np

from cluster.checkpoint import Checkpoint
from cluster.errors import CheckpointError
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
