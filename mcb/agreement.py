"""How well codes recover the true modes: a contingency table and the scores made of it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def contingency(
    code: Int[Tensor, "T"], mode: Int[Tensor, "T"], num_codes: int, num_modes: int
) -> Int[Tensor, "{num_codes} {num_modes}"]:
    """Number of tasks of every (code, true mode)."""
    cells = torch.bincount(code * num_modes + mode, minlength=num_codes * num_modes)
    return cells.reshape(num_codes, num_modes)


def adjusted_rand_index(table: Int[Tensor, "*n K F"]) -> Float[Tensor, "*n"]:
    """Rand index corrected for chance (Hubert & Arabie 1985): 1 for equal partitions, 0 on average by chance."""
    table = table.double()
    num_tasks = table.sum((-2, -1))
    together = _num_pairs(table).sum((-2, -1))
    by_code = _num_pairs(table.sum(-1)).sum(-1)
    by_mode = _num_pairs(table.sum(-2)).sum(-1)
    expected = by_code * by_mode / _num_pairs(num_tasks).clamp(min=1)
    largest = (by_code + by_mode) / 2
    return torch.where(largest == expected, 1.0, (together - expected) / (largest - expected))


def normalised_mutual_information(table: Int[Tensor, "*n K F"]) -> Float[Tensor, "*n"]:
    """Mutual information over the arithmetic mean of the two entropies; 1 where both partitions are a single block."""
    joint = table.double() / table.sum((-2, -1), keepdim=True)
    by_code, by_mode = _entropy(joint.sum(-1)), _entropy(joint.sum(-2))
    information = by_code + by_mode - _entropy(joint.flatten(-2))
    mean_entropy = (by_code + by_mode) / 2
    return torch.where(mean_entropy == 0, 1.0, information.clamp(min=0) / mean_entropy)


def _num_pairs(count: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return count * (count - 1) / 2


def _entropy(probability: Float[Tensor, "*n C"]) -> Float[Tensor, "*n"]:
    return torch.special.entr(probability).sum(-1)
