"""The true mode is told: an upper bound for every other definition, and Multi-MAML."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Oracle(nn.Module):
    """One learned code for each true mode, and a gate that is one for the task's own.

    Raises `ValueError` for fewer than one mode; the learner refuses tasks whose mode is not in `0..num_modes - 1`.
    """

    has_shared_codes = True
    needs_embedding = False
    needs_mode = True

    def __init__(self, num_modes: int, code_size: int) -> None:
        super().__init__()
        if num_modes < 1:
            raise ValueError(f"num_modes={num_modes} must be at least 1")
        self.num_modes = num_modes
        self.table = nn.Parameter(torch.randn(num_modes, code_size))

    def codes(self, embedding: Float[Tensor, "E"] | None) -> Float[Tensor, "K code"]:
        """All codes."""
        return self.table

    def log_gate(self, embedding: Float[Tensor, "E"] | None, mode: Int[Tensor, ""]) -> Float[Tensor, "K"]:
        """Zero for the true mode, minus infinity for the others."""
        candidates = torch.arange(self.num_modes, device=self.table.device)
        return torch.where(candidates == mode, 0.0, -torch.inf).to(self.table.dtype)
