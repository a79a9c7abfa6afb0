"""The central value types of the library, and the legend of axis letters.

Axis letters used in every annotation: `T` tasks, `S` support points, `Q` query points, `K` modes,
`P` particles, `D` adapted parameters, `C` conditional parameters, `E` embedding, `O` outputs of the base network.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


class Support(NamedTuple):
    """The labelled points of a task that a learner adapts to."""

    x: Float[Tensor, "S *x"]
    y: Shaped[Tensor, "S *y"]
    mask: Bool[Tensor, "S"]


class Task(NamedTuple):
    """One few-shot problem; a batch of tasks is a `Task` whose leaves gained a leading `T` axis.

    Masks are true where a point exists, so that tasks of different sizes share one batch; what stands in a masked
    place must be finite and is never read into a result. `mode` is the true mode, -1 where it is not known: only the
    oracle mode definition and evaluation read it. Regression targets are `(S, O)` floats, classes `(S,)` integers.
    """

    support_x: Float[Tensor, "S *x"]
    support_y: Shaped[Tensor, "S *y"]
    support_mask: Bool[Tensor, "S"]
    query_x: Float[Tensor, "Q *x"]
    query_y: Shaped[Tensor, "Q *y"]
    query_mask: Bool[Tensor, "Q"]
    mode: Int[Tensor, ""]

    @property
    def support(self) -> Support:
        """The support set alone: what adaptation may see."""
        return Support(self.support_x, self.support_y, self.support_mask)


class HasForm(Protocol):
    """What a learner must know of tasks before it sees one."""

    @property
    def mode_names(self) -> tuple[str, ...]:
        """Names of the true modes, in the order of `Task.mode`; empty where modes are not known."""
        ...

    @property
    def x_size(self) -> int:
        """Number of inputs of a point."""
        ...

    @property
    def y_size(self) -> int:
        """Number of targets of a point (of classes, where targets are classes)."""
        ...


@runtime_checkable
class TaskSource(HasForm, Protocol):
    """Where tasks come from: a pure function of a seed and global task indices.

    Task `i` of a seed is the same task whoever asks for it and in whatever batch, which is what lets any number of
    workers share a meta-batch.
    """

    def sample(self, seed: int, indices: Int[Tensor, "T"]) -> Task:
        """Tasks `indices` of the stream `seed`, with a leading `T` axis."""
        ...
