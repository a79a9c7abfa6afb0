r"""An axis of particles or modes shared out over the ranks of a group.

Every rank runs the same program on the same tasks and computes its share of the rows where rows are expensive (the
network's passes); `gather` then gives every rank all rows, and the rest is computed by each of them alike.

The adjoint of a gather is a sum over ranks, so reverse mode on all ranks together differentiates the *sum* of what they
each seed. Where all `R` of them seed their common loss, their gradients therefore add up to `R` times the gradient of
that loss, whatever was shared out and whatever was computed alike: the meta-gradient is the mean of the ranks'.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

AllToAll = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]
"""`(rows, sent, received)`: the first `sent[0]` rows go to rank 0, the next `sent[1]` to rank 1, and so on; what comes
back are `received[0]` rows from rank 0, then `received[1]` from rank 1. All ranks call it in the same order."""


@runtime_checkable
class Sharing(Protocol):
    """How the rows of a tensor are shared out; the same on all ranks of a group but for `rank`."""

    @property
    def rank(self) -> int:
        """Which share is this rank's."""
        ...

    @property
    def size(self) -> int:
        """Ranks in the group."""
        ...

    def share(self, whole: Shaped[Tensor, "N *rest"]) -> Shaped[Tensor, "share *rest"]:
        """This rank's rows."""
        ...

    def gather(self, share: Shaped[Tensor, "share *rest"], num_rows: int) -> Shaped[Tensor, "N *rest"]:
        """All ranks' rows, `num_rows` of them, in order; differentiable once and under `vmap`."""
        ...


class Unshared:
    """One rank that has every row."""

    rank = 0
    size = 1

    def share(self, whole: Shaped[Tensor, "N *rest"]) -> Shaped[Tensor, "N *rest"]:
        """All of them."""
        return whole

    def gather(self, share: Shaped[Tensor, "N *rest"], num_rows: int) -> Shaped[Tensor, "N *rest"]:
        """The same rows."""
        return share


UNSHARED = Unshared()


class SharedAxes(NamedTuple):
    """What a group shares out: the particles of every mode, or the modes."""

    particles: Sharing = UNSHARED
    modes: Sharing = UNSHARED


def share_out(sharing: Sharing, num_particles: int, num_modes: int) -> SharedAxes:
    """The particles if there is one for every rank, else the modes; raises `ValueError` if neither are enough."""
    if sharing.size <= num_particles:
        return SharedAxes(particles=sharing)
    if sharing.size <= num_modes:
        return SharedAxes(modes=sharing)
    raise ValueError(
        f"{sharing.size} ranks are more than the {num_particles} particles and than the {num_modes} modes: "
        f"share them out over at most {max(num_particles, num_modes)}"
    )


@dataclass(frozen=True)
class SharedByRanks:
    """One of `size` ranks that exchange rows by `all_to_all`; shares differ by one row at most."""

    rank: int
    size: int
    all_to_all: AllToAll

    def share(self, whole: Shaped[Tensor, "N *rest"]) -> Shaped[Tensor, "share *rest"]:
        """This rank's rows: contiguous, in the order of ranks."""
        return whole.split(shares(whole.shape[0], self.size))[self.rank]

    def gather(self, share: Shaped[Tensor, "share *rest"], num_rows: int) -> Shaped[Tensor, "N *rest"]:
        """All rows; their gradients from all ranks are added in the order of ranks, so that sums round alike always."""
        return cast(Tensor, _Gather.apply(share, num_rows, self))


def shares(num_rows: int, size: int) -> list[int]:
    """Rows of each rank.

    >>> shares(10, 3)
    [3, 3, 4]
    """
    return [(rank + 1) * num_rows // size - rank * num_rows // size for rank in range(size)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(share: Tensor, num_rows: int, ranks: SharedByRanks) -> Tensor:
        copies = share.repeat(ranks.size, *(1 for _ in share.shape[1:]))
        return ranks.all_to_all(copies, [share.shape[0]] * ranks.size, shares(num_rows, ranks.size))

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, int, SharedByRanks], output: Tensor) -> None:
        ctx.ranks = inputs[2]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        ranks: SharedByRanks = ctx.ranks
        sent = shares(grad.shape[0], ranks.size)
        own = sent[ranks.rank]
        pieces = ranks.all_to_all(grad.contiguous(), sent, [own] * ranks.size)
        return pieces.unflatten(0, (ranks.size, own)).sum(0), None, None

    @staticmethod
    def vmap(
        info, in_dims: tuple[int, None, None], share: Tensor, num_rows: int, ranks: SharedByRanks
    ) -> tuple[Tensor, int]:
        return cast(Tensor, _Gather.apply(share.movedim(in_dims[0], 1), num_rows, ranks)), 1
