r"""The linear heads of many modes on features of which each mode has generated the last layer, for many tasks at once.

With hidden values $z$ that all modes share, a mode's features are $\phi = a(W z + b)$, its head is that of
`mcb.inference.linear_head`, and layer and head are one node of the autograd graph. Features are the largest tensor
there is, modes times tasks times points times features: a few modes at a time, from hidden values to the answer and
back again, stay in the cache, where layer by layer all of them would go through memory a dozen times.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import vjp, vmap

from mcb.inference import linear_head
from mcb.inference.linear_head import ROUNDING, HeadAnswer, HeadPrior, batched, without_masked
from mcb.networks.generated_layer import GeneratedLayer

_MODE, _TASK = slice(0, 8), slice(8, 11)  # what `_Answer` takes of a mode and of a task, before its two settings


def answer(
    prior: HeadPrior,
    noise_variance: Float[Tensor, ""],
    layer: GeneratedLayer,
    hidden: Float[Tensor, "N I"],
    y: Float[Tensor, "S"],
    mask: Bool[Tensor, "S"],
    gram_dtype: torch.dtype,
) -> HeadAnswer:
    """`linear_head.answer` on the features of `layer`, for one task under one mode; on a CPU. Differentiable once.

    Made for a `vmap` over tasks and one over modes, outside of which derivatives are taken. Where a task has weights or
    a derivative of its own, layer and head are computed one after the other.
    """
    tensors = (*prior, noise_variance, layer.weight, layer.bias, layer.combine, hidden, y, mask)
    inputs = (*tensors, layer.num_rectified, gram_dtype)
    return HeadAnswer(*cast("tuple[Tensor, ...]", _Answer.apply(*inputs))[:3])


class _Answer(torch.autograd.Function):
    """The three of `HeadAnswer`, led by modes and then tasks where these are mapped over, and `mode_heads_cpu.Kept`."""

    @staticmethod
    def forward(*inputs):
        axes = _Axes.of(inputs)
        of_mode, (hidden, y, mask) = axes.added(inputs)
        y, hidden = without_masked(y, hidden, mask)
        rounding = ROUNDING * torch.finfo(inputs[-1]).eps
        *results, kept = _cpu().forward(of_mode, inputs[-2], hidden, y, mask, inputs[-1], rounding)
        return *(axes.removed(result) for result in results), *kept

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *tensors, ctx.num_rectified, ctx.gram_dtype = inputs
        ctx.save_for_backward(*tensors, *output[3:])
        ctx.mark_non_differentiable(*output[3:])
        ctx.set_materialize_grads(False)  # of what is kept they would be as large
        ctx.shapes = [result.shape for result in output[:3]]

    @staticmethod
    def backward(ctx, *to_all):
        to_results = [
            torch.zeros(shape, dtype=torch.float64) if gradient is None else gradient
            for gradient, shape in zip(to_all, ctx.shapes, strict=False)
        ]
        given = (*ctx.saved_tensors, *to_results, ctx.num_rectified, ctx.gram_dtype)
        return *cast("tuple[Tensor, ...]", _Gradients.apply(*given)), None, None, None

    @staticmethod
    def vmap(info, in_dims: tuple[int | None, ...], *inputs: Any):
        axes = _Axes.of(inputs, in_dims)
        over_modes, over_tasks = (any(axis is not None for axis in in_dims[group]) for group in (_MODE, _TASK))
        if over_tasks and not (over_modes or axes.tasks):
            group, place = _TASK, int(axes.modes)
        elif over_modes and not (over_tasks or axes.modes):
            group, place = _MODE, 0
        else:
            results = vmap(axes.one_after_the_other, in_dims)(*inputs)
            kept = [results[0].new_empty(0)] * 2  # the operations that it is made of keep their own
            return (*results, *kept), (0, 0, 0, None, None)
        mapped = list(inputs)
        mapped[group] = batched(info.batch_size, in_dims[group], inputs[group])
        return _Answer.apply(*mapped), (place, place, place, None, None)


class _Gradients(torch.autograd.Function):
    """The derivative of `_Answer` as an operation of its own, so that it may be mapped too."""

    @staticmethod
    def forward(*inputs):
        *tensors, num_rectified, gram_dtype = inputs
        axes = _Axes.of(tensors)
        of_mode, (hidden, y, mask) = axes.added(tensors)
        _, hidden = without_masked(y, hidden, mask)
        kept, to_results = _cpu().Kept(*tensors[11:13]), [axes.with_both(gradient) for gradient in tensors[13:]]
        to_mode, to_hidden, to_y = _cpu().backward(of_mode, num_rectified, hidden, kept, gram_dtype, *to_results)
        without_modes = [gradient if axes.modes else gradient[0] for gradient in to_mode]
        return *without_modes, *(gradient if axes.tasks else gradient[0] for gradient in (to_hidden, to_y))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError("the exact head is differentiable once: use GradientDescent for second derivatives")

    @staticmethod
    def vmap(info, in_dims: tuple[int | None, ...], *inputs: Any):
        """A derivative for each of what is mapped over, not their sum."""
        axes = _Axes.of(inputs, in_dims)

        def gradients(*one: Any) -> tuple[Tensor, ...]:
            differentiable, mask = one[: _TASK.stop - 1], one[_TASK.stop - 1]
            pull = vjp(lambda *leaves: axes.one_after_the_other(*leaves, mask, *one[-2:]), *differentiable)[1]
            return pull(HeadAnswer(*one[13:16]))

        return vmap(gradients, in_dims)(*inputs), (0,) * 10


class _Axes(NamedTuple):
    """Which axes inputs of `_Answer` have been given: modes lead what is of a mode, tasks what is of a task."""

    modes: bool
    tasks: bool

    @classmethod
    def of(cls, inputs: Sequence[Any], in_dims: Sequence[int | None] | None = None) -> "_Axes":
        """Of inputs with one more axis where `in_dims` names the place of one that is being mapped over."""
        mean, hidden = (
            inputs[i].ndim - (in_dims is not None and in_dims[i] is not None) for i in (_MODE.start, _TASK.start)
        )
        return cls(mean == 2, hidden == 3)

    def added(self, inputs: Sequence[Any]) -> tuple[Any, list[Tensor]]:
        """What is of a mode and what is of a task, with the axes."""
        of_mode = [value if self.modes else value[None] for value in inputs[_MODE]]
        return _cpu().ModeHeads(*of_mode), [value if self.tasks else value[None] for value in inputs[_TASK]]

    def with_both(self, result: Tensor) -> Tensor:
        """A result led by modes and tasks."""
        led_by_tasks = result if self.tasks else result.unsqueeze(int(self.modes))
        return led_by_tasks if self.modes else led_by_tasks[None]

    def removed(self, result: Tensor) -> Tensor:
        """The way back."""
        without_tasks = result if self.tasks else result[:, 0]
        return without_tasks if self.modes else without_tasks[0]

    def one_after_the_other(self, *inputs: Any) -> HeadAnswer:
        """The same by `linear_head`, whatever is mapped over."""
        function: Callable = _one_after_the_other
        if self.tasks:
            function = vmap(function, (*[None] * 8, 0, 0, 0, None, None))
        if self.modes:
            function = vmap(function, (*[0] * 8, None, None, None, None, None))
        return function(*inputs)


def _one_after_the_other(*inputs: Any) -> HeadAnswer:
    *prior, noise_variance, weight, bias, combine, hidden, y, mask, num_rectified, gram_dtype = inputs
    features = GeneratedLayer(weight, bias, combine, num_rectified).features(hidden)
    return linear_head.answer(HeadPrior(*prior), features, y, mask, noise_variance, gram_dtype)


def _cpu() -> Any:
    from mcb.inference import mode_heads_cpu  # its compiler is slow to import, and not needed on other devices

    return mode_heads_cpu
