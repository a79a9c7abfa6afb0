"""What a shard's computation does for a refresh: it gives the learner its state, and surveys part of the reservoir."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from cluster.errors import UserError
from mcb.randomness import fold_key
from mcb.types import Support, Task, TaskSource

RESERVOIR = "reservoir"  # the name of its stream of tasks
_AT_ONCE = 256  # tasks surveyed in one batch: it bounds the memory


@runtime_checkable
class HoldsState(Protocol):
    """Modes whose state is refreshed."""

    def state(self) -> tuple[Tensor, ...]:
        """The live tensors that the state is made of, always of the same shapes and in the same order.

        The flat state is their numbers one after the other, as float32.
        """
        ...


@runtime_checkable
class SurveyedLearner(Protocol):
    """What the runtime asks of a learner with a state, beside `cluster.gradient.MetaLearner`."""

    @property
    def modes(self) -> object:
        """Its mode definition, which holds the state if there is one."""
        ...

    def noise(self, key: int, indices: Tensor) -> Tensor | None:
        """Noise of the tasks with these indices."""
        ...

    def survey(self, support: Support, mode: Tensor, noise: Tensor | None) -> Tensor:
        """A row `(R,)` for each task of a batch, without gradient."""
        ...


def state_of(learner: object) -> tuple[Tensor, ...]:
    """The live tensors of a learner's state; raises TypeError for a learner without one."""
    if not (isinstance(learner, SurveyedLearner) and isinstance(learner.modes, HoldsState)):
        raise TypeError(f"{type(learner).__name__} has no state: its modes need a method state(), itself survey(...)")
    return learner.modes.state()


def initial_state(learner: object) -> np.ndarray:
    """The learner's state as one flat float32 vector, a copy."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in state_of(learner)]).float().cpu().numpy()


def write_state(learner: object, state: np.ndarray) -> None:
    """Copy a flat vector, which may be a read-only view, into the learner's state.

    Raises `UserError` if the length is another.
    """
    tensors = state_of(learner)
    sizes = [tensor.numel() for tensor in tensors]
    if state.shape != (sum(sizes),):
        raise UserError(f"a vector of shape {state.shape} does not fit a state of {sum(sizes)} numbers")
    pieces = torch.from_numpy(np.array(state, dtype=np.float32)).split(sizes)
    with torch.no_grad():
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))


def sample_reservoir(source: TaskSource, seed: int, indices: Tensor) -> Task:
    """Tasks of the reservoir, which a run with this `seed` surveys and does not train on."""
    return source.sample(fold_key(seed, RESERVOIR), indices)


def survey(learner: object, source: TaskSource, seed: int, rows: range, device: torch.device) -> np.ndarray:
    """The rows of a survey for these tasks of the reservoir, float32.

    Raises `UserError` naming the first task whose row is not finite, TypeError for a learner without a state.
    """
    if not isinstance(learner, SurveyedLearner):
        raise TypeError(f"{type(learner).__name__} cannot be surveyed: give it a method survey(support, mode, noise)")
    found = [np.empty((0, 0), dtype=np.float32)]
    for start in range(rows.start, rows.stop, _AT_ONCE):
        indices = torch.arange(start, min(start + _AT_ONCE, rows.stop))
        tasks = Task(*(leaf.to(device) for leaf in sample_reservoir(source, seed, indices)))
        noise = learner.noise(fold_key(seed, RESERVOIR, "noise"), indices.to(device))
        batch = learner.survey(tasks.support, tasks.mode, noise).float().cpu().numpy()
        finite = np.isfinite(batch).all(axis=1)
        if not finite.all():
            raise UserError(
                f"task {start + int(finite.argmin())} of the reservoir has a representation that is not finite: remove "
                "it from the data, or lower the learning rate"
            )
        found.append(batch)
    return np.concatenate(found[1:]) if len(found) > 1 else found[0]
