"""Slots that are not in use: they compute as one that is, so that nothing they hold can reach a result."""

import torch
from jaxtyping import Float
from torch import Tensor


def stand_in(codes: Float[Tensor, "K code"], in_use: Float[Tensor, "K"]) -> Float[Tensor, "K code"]:
    """The codes with the first one in use, detached, in the place of each that is not.

    A gate of minus infinity gives a slot no weight, but 0 times an infinite or undefined gradient is undefined: what is
    computed for such a slot must be as finite as what is computed for the others.
    """
    first = codes.detach().index_select(0, in_use.argmax(0, keepdim=True))
    return torch.where(in_use[:, None] > 0, codes, first)
