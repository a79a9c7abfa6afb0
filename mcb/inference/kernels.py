"""Kernels between particles, with the two sums that SVGD takes of them; each rank has those of its own particles."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mcb.sharing import UNSHARED, Sharing

Kernel = Callable[[Tensor, Sharing], tuple[Tensor, Tensor]]


def squared_distances(rows: Float[Tensor, "share D"], particles: Float[Tensor, "P D"]) -> Float[Tensor, "share P"]:
    """Squared Euclidean distances, by differences: the expansion in inner products cancels for close particles."""
    return (rows[:, None] - particles[None]).square().sum(-1)


def median_bandwidth(distances: Float[Tensor, "P P"]) -> Float[Tensor, ""]:
    r"""$\mathrm{med}^2 / \log P$ over distinct pairs, a squared length (Liu & Wang 2016, section 5).

    1 for one particle and where the median is zero (most pairs coincide): no length is to be had there. Detached: the
    heuristic chooses a kernel, it is not differentiated through.
    """
    num_particles = distances.shape[0]
    if num_particles == 1:
        return distances.new_ones(())
    rows, columns = torch.triu_indices(num_particles, num_particles, offset=1).unbind()
    median = distances.detach()[rows, columns].sort().values[(rows.numel() - 1) // 2]
    return torch.where(median > 0, median / math.log(num_particles), 1.0)


def rbf(
    particles: Float[Tensor, "P D"], sharing: Sharing = UNSHARED
) -> tuple[Float[Tensor, "share P"], Float[Tensor, "share D"]]:
    r"""$k(z, z') = \exp(-|z - z'|^2 / h)$ and $\sum_j \nabla_{z_j} k(z_j, z_i)$, `h` the median bandwidth."""
    rows = sharing.share(particles)
    distances = squared_distances(rows, particles)
    bandwidth = median_bandwidth(sharing.gather(distances.detach(), particles.shape[0]))
    kernel = (-distances / bandwidth).exp()
    repulsion = (kernel.sum(1, keepdim=True) * rows - kernel @ particles) * (2 / bandwidth)
    return kernel, repulsion


def linear(
    particles: Float[Tensor, "P D"], sharing: Sharing = UNSHARED
) -> tuple[Float[Tensor, "share P"], Float[Tensor, "share D"]]:
    r"""$k(z, z') = 1 + z^\top z'$ and $\sum_j \nabla_{z_j} k(z_j, z_i) = P z_i$.

    At the fixed points of SVGD with it the particles have exactly the mean and covariance of a Gaussian target (Liu &
    Wang 2018, section 3), given more particles than dimensions.
    """
    rows = sharing.share(particles)
    return 1 + rows @ particles.T, particles.shape[0] * rows
