"""One mode: an unconditional prior. MAML, BMAML and Bayesian linear heads fall out of it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Single(nn.Module):
    """One learned code for every task."""

    has_shared_codes = True
    needs_embedding = False
    needs_mode = False
    num_modes = 1

    def __init__(self, code_size: int) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(1, code_size))

    def codes(self, embedding: Float[Tensor, "E"] | None) -> Float[Tensor, "1 code"]:
        """The code."""
        return self.code

    def log_gate(self, embedding: Float[Tensor, "E"] | None, mode: Int[Tensor, ""]) -> Float[Tensor, "1"]:
        """Zero."""
        return self.code.new_zeros(1)
