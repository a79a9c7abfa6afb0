"""What every mode definition offers: codes, and a gate over them."""

from typing import Protocol, runtime_checkable

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
