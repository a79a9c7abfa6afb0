"""A learned codebook: K discrete modes that training discovers without labels."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Gate = Literal["weights", "encoder", "both"]


class Codebook(nn.Module):
    r"""`K` learned codes and a gate: learned weights $\log\pi$, the encoder's softmax, or the sum of both, normalised.

    The responsibilities are Bayes' rule on top of the gate, which the learner applies:
    $r_k \propto \exp(\text{log gate}_k + \text{log evidence}_k)$.

    Raises `ValueError` for fewer than one mode, an unknown gate, or a gate that reads an encoder without its
    `embedding_size`.
    """

    has_shared_codes = True
    needs_mode = False

    def __init__(
        self, num_modes: int, code_size: int, gate: Gate = "weights", embedding_size: int | None = None
    ) -> None:
        super().__init__()
        if num_modes < 1:
            raise ValueError(f"num_modes={num_modes} must be at least 1")
        if gate not in ("weights", "encoder", "both"):
            raise ValueError(f"gate={gate!r} must be one of weights, encoder, both")
        if gate != "weights" and embedding_size is None:
            raise ValueError(f"gate={gate!r} reads the task encoder: give its embedding_size")
        self.num_modes = num_modes
        self.needs_embedding = gate != "weights"
        self.table = nn.Parameter(torch.randn(num_modes, code_size))
        self.log_weights = nn.Parameter(torch.zeros(num_modes)) if gate != "encoder" else None
        self.from_embedding = nn.Linear(embedding_size or 0, num_modes) if self.needs_embedding else None

    def codes(self, embedding: Float[Tensor, "E"] | None) -> Float[Tensor, "K code"]:
        """All codes."""
        return self.table

    def log_gate(self, embedding: Float[Tensor, "E"] | None, mode: Int[Tensor, ""]) -> Float[Tensor, "K"]:
        """Normalised log gate."""
        scores = self.table.new_zeros(self.num_modes)
        if self.log_weights is not None:
            scores = scores + self.log_weights
        if self.from_embedding is not None:
            scores = scores + self.from_embedding(embedding)
        return scores.log_softmax(-1)
