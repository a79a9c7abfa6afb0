"""Layer and head of many modes as one operation against the same one after the other, and its nestings of `vmap`."""

import math
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from mcb.inference import mode_heads_cpu
from mcb.inference.lanes import LANES
from mcb.inference.linear_head import HeadPrior
from mcb.inference.linear_head import answer as head_answer
from mcb.inference.mode_heads import answer
from mcb.networks.functional import BaseNetwork
from mcb.networks.generated_layer import GeneratedLayer, generated_layer
from mcb.networks.mlp import MLP

S, Q, H, WIDTH, RECTIFIED = 4, 3, 5, 6, 2


def draws(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_modes(count: int, num_combined: int = 0) -> list[Tensor]:
    """Mean, scale, bias mean, bias variance, noise variance; weight, bias and combinations of the layer."""
    return [
        draws(count, num_combined or H, seed=0),
        draws(count, num_combined or H, seed=1).exp(),
        draws(count, seed=2),
        draws(count, seed=3).square() + 0.1,
        draws(count, seed=4).square() + 0.1,
        draws(count, H, WIDTH, seed=5),
        draws(count, H, seed=6),
        draws(count, num_combined, H, seed=9),
    ]


def of_tasks(count: int) -> list[Tensor]:
    """Hidden values of support and query points, targets."""
    return [draws(count, S + Q, WIDTH, seed=7), draws(count, S, seed=8)]


def masks(count: int) -> Tensor:
    return torch.tensor([True, True, False, True]).expand(count, S)


def fast(*inputs: Tensor, gram_dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """The operation for one task under one mode: what is of a mode, then hidden values, targets and mask."""
    *prior, noise_variance, weight, bias, combine, hidden, y, mask = inputs
    layer = GeneratedLayer(weight, bias, combine, RECTIFIED)
    return tuple(answer(HeadPrior(*prior), noise_variance, layer, hidden, y, mask, gram_dtype))


def slow(*inputs: Tensor, gram_dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    *prior, noise_variance, weight, bias, combine, hidden, y, mask = inputs
    features = GeneratedLayer(weight, bias, combine, RECTIFIED).features(hidden)
    return tuple(head_answer(HeadPrior(*prior), features, y, mask, noise_variance, gram_dtype))


def over_tasks_then_modes(function):
    """Mapped as the learner maps it: tasks inside modes."""
    inner = vmap(function, in_dims=(*[None] * 8, 0, 0, 0))
    return vmap(inner, in_dims=(*[0] * 8, None, None, None))


def total(results: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([result.cos().sum() for result in results]).sum()


def assert_same_values_and_gradients(results, expected, leaves, **tolerances) -> None:
    torch.testing.assert_close(results, expected, **tolerances)
    used = [leaf for leaf in leaves if leaf.numel()]
    gradients, expected_gradients = (torch.autograd.grad(total(values), used) for values in (results, expected))
    torch.testing.assert_close(gradients, expected_gradients, **tolerances)


@pytest.mark.parametrize("num_combined", [0, 3, 7])
@pytest.mark.parametrize("num_tasks", [0, 1, LANES, 2 * LANES + 3])
def test_values_and_gradients_are_those_of_layer_and_head(num_tasks, num_combined, monkeypatch):
    monkeypatch.setattr(mode_heads_cpu, "_CACHED", 2 * H * (S + Q) * LANES * 8)  # so that modes come in several parts
    leaves = [leaf.requires_grad_() for leaf in (*of_modes(5, num_combined), *of_tasks(num_tasks))]
    inputs = (*leaves, masks(num_tasks))
    assert_same_values_and_gradients(over_tasks_then_modes(fast)(*inputs), over_tasks_then_modes(slow)(*inputs), leaves)


def test_a_gram_matrix_in_single_precision_gives_the_same_to_that_precision():
    leaves = [leaf.float().requires_grad_() for leaf in (*of_modes(3, 4), *of_tasks(10))]
    inputs = (*leaves, masks(10))
    mapped = [
        over_tasks_then_modes(lambda *one, f=function: f(*one, gram_dtype=torch.float32)) for function in (fast, slow)
    ]
    assert_same_values_and_gradients(mapped[0](*inputs), mapped[1](*inputs), leaves, rtol=5e-3, atol=5e-3)
    exact = over_tasks_then_modes(fast)(*(leaf.double() for leaf in leaves), masks(10))
    torch.testing.assert_close(mapped[0](*inputs), exact, rtol=1e-3, atol=1e-4)


def test_an_output_that_is_not_used_has_no_gradient():
    leaves = [leaf.requires_grad_() for leaf in (*of_modes(2, 3), *of_tasks(3))]
    inputs = (*leaves, masks(3))
    gradients = [
        torch.autograd.grad(over_tasks_then_modes(function)(*inputs)[0].sum(), leaves) for function in (fast, slow)
    ]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("what", [math.nan, math.inf, 1e200])
def test_what_stands_in_a_masked_place_never_reaches_a_value_or_a_gradient(what):
    leaves = [*of_modes(2), *of_tasks(3)]
    garbage = [leaf.clone() for leaf in leaves]
    garbage[8][:, 2], garbage[9][:, 2] = what, what
    results = [
        over_tasks_then_modes(fast)(*(leaf.requires_grad_() for leaf in given), masks(3)) for given in (leaves, garbage)
    ]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    gradients = [
        torch.autograd.grad(total(result), given) for result, given in zip(results, (leaves, garbage), strict=True)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


OVER_MODES, OVER_TASKS = (*[0] * 8, None, None, None), (*[None] * 8, 0, 0, 0)
NESTINGS = {
    "neither": (lambda f: f, (), ()),
    "tasks": (lambda f: vmap(f, OVER_TASKS), (), (2,)),
    "modes": (lambda f: vmap(f, OVER_MODES), (2,), ()),
    "modes inside tasks": (lambda f: vmap(vmap(f, OVER_MODES), OVER_TASKS), (2,), (3,)),
    "both at once": (lambda f: vmap(f), (3,), (3,)),
    "a mode of its own for each task": (lambda f: vmap(vmap(f, OVER_MODES)), (2, 3), (2,)),
    "tasks inside tasks": (lambda f: vmap(vmap(f, OVER_TASKS), OVER_TASKS), (), (2, 3)),
}


@pytest.mark.parametrize("num_combined", [0, 3])
@pytest.mark.parametrize(("nested", "modes", "tasks"), NESTINGS.values(), ids=NESTINGS)
def test_every_nesting_of_vmap_gives_values_and_gradients_of_layer_and_head(nested, modes, tasks, num_combined):
    count_modes, count_tasks = math.prod(modes), math.prod(tasks)
    leaves = [leaf.reshape((*modes, *leaf.shape[1:])).requires_grad_() for leaf in of_modes(count_modes, num_combined)]
    leaves += [leaf.reshape((*tasks, *leaf.shape[1:])).requires_grad_() for leaf in of_tasks(count_tasks)]
    inputs = (*leaves, masks(count_tasks).reshape((*tasks, S)))
    assert_same_values_and_gradients(nested(fast)(*inputs), nested(slow)(*inputs), leaves)


def test_each_task_may_have_a_gradient_of_its_own_in_what_all_share():
    inputs = (*(leaf[0] for leaf in of_modes(1)), *of_tasks(3), masks(3))
    gradients = [
        vmap(grad(lambda *one, f=function: total(f(*one)), argnums=tuple(range(10))), in_dims=OVER_TASKS)(*inputs)
        for function in (fast, slow)
    ]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0][5].shape == (3, H, WIDTH)


def test_a_second_derivative_is_refused():
    leaves = [leaf.requires_grad_() for leaf in (*of_modes(1), *of_tasks(1))]
    results = over_tasks_then_modes(fast)(*leaves, masks(1))
    slope = torch.autograd.grad(results[0].sum(), leaves[5], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiable once"):
        slope.square().sum().backward()


@pytest.mark.parametrize("bottleneck", [0, 3])
@pytest.mark.parametrize(("activation", "num_rectified"), [("tanh", 0), ("tanh", 2), ("relu", 0)])
def test_the_last_layer_of_an_mlp_is_taken_apart_where_modes_generate_it(activation, num_rectified, bottleneck):
    mlp = MLP(1, 1, (4, 3, H), activation, num_rectified, bottleneck)
    network = BaseNetwork(mlp, "head", r"^layers\.2\.|^combine")
    conditional, x = draws(network.num_conditional, seed=1).float(), draws(7, 1, seed=2).float()
    layer = generated_layer(network, conditional)
    assert layer is not None
    torch.testing.assert_close(layer.features(cast(MLP, network.module).hidden(x)), network.features(conditional, x))


@pytest.mark.parametrize(
    ("activation", "bottleneck", "conditional"),
    [
        ("silu", 0, r"^layers\.2\."),
        ("tanh", 0, "rest"),
        ("tanh", 0, r"^layers\.2\.weight"),
        ("tanh", 0, "none"),
        ("tanh", 3, r"^layers\.2\."),
    ],
)
def test_any_other_network_is_left_whole(activation, bottleneck, conditional):
    network = BaseNetwork(MLP(1, 1, (4, 3, H), activation, bottleneck=bottleneck), "head", conditional)
    assert generated_layer(network, torch.zeros(network.num_conditional)) is None


def test_a_task_has_the_same_bits_whichever_others_it_comes_with():
    modes, tasks = of_modes(2), of_tasks(5)
    together = over_tasks_then_modes(fast)(*modes, *tasks, masks(5))
    alone = over_tasks_then_modes(fast)(*modes, *(leaf[3:4] for leaf in tasks), masks(1))
    torch.testing.assert_close(tuple(result[:, 3:4] for result in together), alone, rtol=0, atol=0)
