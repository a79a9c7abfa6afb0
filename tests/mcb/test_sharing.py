"""A group's meta-gradient is that of one process, whatever is shared out, and the gather's derivatives are exact."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from small_learners import draws, make_learner, make_tasks, meta_gradient
from threaded_ranks import on_ranks
from torch import Tensor
from torch.func import vmap

from mcb.inference.gradient import GradientDescent
from mcb.inference.svgd import SVGD
from mcb.learner import ModeConditionalBayesianMAML
from mcb.objectives import EvidenceRegularized, predictive_nll
from mcb.sharing import UNSHARED, SharedAxes, SharedByRanks, Unshared, share_out, shares

GROUPS = [  # modes, inference, kind of task, particles (None: the method has none), ranks
    ("codebook, weights", "conjugate", "mlp", None, 2),
    ("codebook, weights", "conjugate", "mlp", None, 3),
    ("codebook, both", "conjugate", "mlp", None, 2),
    ("oracle", "conjugate", "images", None, 2),
    ("codebook, weights", "maml", "mlp", 1, 2),
    ("codebook, weights", "gradient", "mlp", 4, 3),
    ("codebook, both", "gradient", "mlp", 3, 3),
    ("embedding", "first order", "classes", 3, 2),
    ("single", "svgd", "mlp", 4, 2),
    ("codebook, weights", "svgd", "mlp", 4, 3),
    ("embedding", "svgd", "mlp", 5, 3),
    ("codebook, both", "svgd", "classes", 3, 2),
]


def meta_gradient_of_rank(
    sharing: SharedByRanks | Unshared, learner: ModeConditionalBayesianMAML, kind: str
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradient of the loss as this rank sees it, and every figure that it reports."""
    learner, tasks = deepcopy(learner), make_tasks(kind)
    learner.share_out(sharing)
    objective = predictive_nll if kind == "classes" else EvidenceRegularized(0.3)
    losses = learner.losses(tasks, learner.noise(7, torch.arange(3)), objective)
    return meta_gradient(losses.loss.sum(), learner), [leaf.detach() for leaf in losses]


@pytest.mark.parametrize(("modes", "inference", "kind", "num_particles", "size"), GROUPS)
def test_the_mean_of_the_ranks_gradients_is_the_meta_gradient_of_one_process(
    modes, inference, kind, num_particles, size
):
    learner = make_learner(modes, inference, kind)
    if isinstance(learner.inference, GradientDescent | SVGD):
        learner.inference = replace(learner.inference, num_particles=num_particles)
    expected, reported = meta_gradient_of_rank(UNSHARED, learner, kind)
    ranks = on_ranks(size, partial(meta_gradient_of_rank, learner=learner, kind=kind))
    mean = [sum(gradients) / size for gradients in zip(*(gradient for gradient, _ in ranks), strict=True)]
    scale = torch.cat([gradient.flatten() for gradient in expected]).norm()
    for got, wanted in zip(mean, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12 * scale.item())
    for _, figures in ranks:
        torch.testing.assert_close(figures, reported, rtol=1e-9, atol=1e-12)


def test_a_rank_computes_its_own_particles_alone():
    learner = make_learner("single", "svgd")
    tasks, noise = make_tasks(), learner.noise(7, torch.arange(3))

    def adapted(sharing: SharedByRanks) -> Tensor:
        mine = deepcopy(learner)
        mine.share_out(sharing)
        return mine.adapt_tasks(tasks.support, tasks.mode, noise).posterior.particles

    pieces = on_ranks(2, adapted)
    assert [piece.shape[2] for piece in pieces] == [1, 2]
    torch.testing.assert_close(
        torch.cat(pieces, 2), learner.adapt_tasks(tasks.support, tasks.mode, noise).posterior.particles
    )


def test_a_rank_generates_and_adapts_its_own_modes_alone():
    learner, tasks = make_learner("codebook, weights", "conjugate"), make_tasks()

    def num_modes(sharing: SharedByRanks) -> int:
        mine = deepcopy(learner)
        mine.share_out(sharing)
        adapted = mine.adapt_tasks(tasks.support, tasks.mode, None)
        assert adapted.generated.conditional.shape[0] == adapted.posterior.weights.shape[0]
        assert adapted.log_evidence.shape == (3, 3)
        return adapted.posterior.weights.shape[0]

    assert on_ranks(2, num_modes) == [1, 2]


def test_gather_gives_every_rank_all_rows_and_adds_up_what_ranks_send_back():
    rows, weights = draws(5, 2), draws(3, 5, 2, seed=1)

    def on_rank(sharing: SharedByRanks) -> tuple[Tensor, Tensor]:
        mine = sharing.share(rows).clone().requires_grad_()
        gathered = sharing.gather(mine, 5)
        (gradient,) = torch.autograd.grad((weights[sharing.rank] * gathered).sum(), mine)
        return gathered.detach(), gradient

    results = on_ranks(3, on_rank)
    assert all(torch.equal(gathered, rows) for gathered, _ in results)
    torch.testing.assert_close(torch.cat([gradient for _, gradient in results]), weights.sum(0))


@pytest.mark.parametrize("out_dim", [0, 1])
def test_gather_under_two_vmaps_is_the_loop_over_their_axes(out_dim: int):
    rows = draws(2, 4, 5, 3)  # two batch axes of two and four, then five rows of three

    def on_rank(sharing: SharedByRanks) -> Tensor:
        mine = torch.stack([torch.stack([sharing.share(inner) for inner in outer]) for outer in rows]).requires_grad_()
        inner = vmap(lambda share: sharing.gather(share, 5).sin(), out_dims=out_dim)
        gathered = vmap(inner, in_dims=0)(mine)
        (gradient,) = torch.autograd.grad(gathered.sum(), mine)
        torch.testing.assert_close(gradient, sharing.size * mine.detach().cos())
        return gathered.detach()

    expected = rows.sin() if out_dim == 0 else rows.sin().transpose(1, 2)
    for gathered in on_ranks(2, on_rank):
        torch.testing.assert_close(gathered, expected)


def test_shares_cover_the_rows_and_differ_by_one_at_most():
    for size in range(1, 8):
        for num_rows in range(size, 30):
            sizes = shares(num_rows, size)
            assert sum(sizes) == num_rows and len(sizes) == size
            assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def test_particles_are_shared_out_first_and_modes_where_they_are_too_few():
    ranks = SharedByRanks(0, 3, lambda rows, sent, received: rows)
    assert share_out(ranks, num_particles=3, num_modes=32) == SharedAxes(particles=ranks)
    assert share_out(ranks, num_particles=2, num_modes=32) == SharedAxes(modes=ranks)
    with pytest.raises(ValueError, match=r"3 ranks are more than the 2 particles and than the 1 modes: .* at most 2"):
        share_out(ranks, num_particles=2, num_modes=1)
