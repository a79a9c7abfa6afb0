"""What tasks look like without a learner."""

from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from mcb.modes.representations import SupportStatistics
from mcb.types import TaskSource


def support_statistics(source: TaskSource, seed: int, indices: Tensor) -> Float[Tensor, "T R"]:
    """The support statistics of tasks `indices` of a stream of numbers to be predicted."""
    support = source.sample(seed, indices).support
    return vmap(SupportStatistics(source.x_size, source.y_size))(support.x, support.y, support.mask)
