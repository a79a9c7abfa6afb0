"""Deep sets: a permutation-invariant encoder of support sets (Zaheer et al. 2017)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class DeepSet(nn.Module):
    r"""$\rho\big(\frac{1}{|S|}\sum_{i \in S} \phi(x_i, y_i),\ |S|^{-1}\big)$ over the points that the mask admits.

    Inputs of several axes (images) are flattened. An empty support set has the embedding of the zero mean.

    >>> encoder = DeepSet(x_size=1, y_size=1, embedding_size=32)
    >>> encoder(torch.zeros(5, 1), torch.zeros(5, 1), torch.ones(5, dtype=torch.bool)).shape
    torch.Size([32])
    """

    def __init__(self, x_size: int, y_size: int, embedding_size: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.point = nn.Sequential(nn.Linear(x_size + y_size, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.pooled = nn.Sequential(nn.Linear(hidden + 1, hidden), nn.SiLU(), nn.Linear(hidden, embedding_size))

    def forward(self, x: Float[Tensor, "S *x"], y: Float[Tensor, "S Y"], mask: Bool[Tensor, "S"]) -> Float[Tensor, "E"]:
        """The embedding of one support set; targets as floats (see `Likelihood.targets_as_inputs`)."""
        points = self.point(torch.cat([x.flatten(1), y], dim=-1))
        inverse_count = 1 / mask.sum().clamp(min=1)
        mean = torch.where(mask[:, None], points, 0).sum(0) * inverse_count
        return self.pooled(torch.cat([mean, inverse_count[None].to(mean.dtype)]))
