"""What every mode definition offers, codes and a gate over them, and what those offer that are refreshed."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class ModeDefinition(Protocol):
    """What counts as a mode: `K` codes, and how likely each is before the support set's evidence is weighed.

    `has_shared_codes` says that the codes are the same for every task, so that they are generated once per meta-batch;
    `needs_embedding` that the task encoder has to run; `needs_mode` that every task must come with its true mode.
    """

    has_shared_codes: bool
    needs_embedding: bool
    needs_mode: bool
    num_modes: int

    def codes(self, embedding: Float[Tensor, "E"] | None) -> Float[Tensor, "K code"]:
        """The codes of one task's candidate modes; `embedding` is None where codes are shared."""
        ...

    def log_gate(self, embedding: Float[Tensor, "E"] | None, mode: Int[Tensor, ""]) -> Float[Tensor, "K"]:
        """Log probability of each mode before the evidence, nats."""
        ...


class Refresh(NamedTuple):
    """What a refresh found: the state to go on with, and how good it is, told without the true modes.

    `state` has the shapes of `RefreshedModes.state()`. `labels` are the slots of the surveyed tasks under the new
    state, but none is a slot that a split has just filled. `metrics` always has `num_modes`; `silhouette` where tasks
    were clustered; `stability`, the adjusted Rand index of the labels under the old state and under the new one, where
    the old state told tasks apart.
    """

    state: tuple[Tensor, ...]
    labels: Int[Tensor, "N"]
    metrics: Mapping[str, float]


@runtime_checkable
class RefreshedModes(ModeDefinition, Protocol):
    """Modes with a *state* that no gradient changes: a refresh makes a new one from a *survey* of many tasks.

    The `K` codes are slots of fixed shape; which of them are in use is state. `surveys` says what the rows of a survey
    are: the tasks' representations (the embedding that the gate reads, of length `R`) or the responsibilities of the
    slots (`R` is `K`).
    """

    surveys: Literal["representations", "responsibilities"]

    def state(self) -> tuple[Tensor, ...]:
        """The buffers themselves, always of the same shapes and in the same order."""
        ...

    def refresh(self, survey: Float[Tensor, "N R"], seed: int) -> Refresh:
        """The next state, from a survey made at this state and these parameters; nothing here is changed."""
        ...
