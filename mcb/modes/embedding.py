"""A continuous mode: the task's own embedding is its code."""

from jaxtyping import Float, Int
from torch import Tensor, nn


class Embedding(nn.Module):
    """`K = 1` code per task, the encoder's embedding; the gradient flows through it into the encoder."""

    has_shared_codes = False
    needs_embedding = True
    needs_mode = False
    num_modes = 1

    def codes(self, embedding: Float[Tensor, "E"] | None) -> Float[Tensor, "1 E"]:
        """The embedding."""
        assert embedding is not None  # `needs_embedding` says so
        return embedding[None]

    def log_gate(self, embedding: Float[Tensor, "E"] | None, mode: Int[Tensor, ""]) -> Float[Tensor, "1"]:
        """Zero."""
        assert embedding is not None  # `needs_embedding` says so
        return embedding.new_zeros(1)
