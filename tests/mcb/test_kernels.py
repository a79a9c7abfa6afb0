"""Kernels between particles against their definitions, the median bandwidth against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import grad

from mcb.inference.kernels import linear, median_bandwidth, rbf, squared_distances


def make_particles(num_particles: int = 5, size: int = 3) -> Tensor:
    return torch.randn(num_particles, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def on_a_line(*positions: float) -> Tensor:
    return torch.tensor(positions, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("particles", "expected"),
    [
        pytest.param(on_a_line(7), 1, id="one particle"),
        pytest.param(on_a_line(1, 4), 9 / math.log(2), id="one pair"),
        pytest.param(on_a_line(0, 1, 3), 4 / math.log(3), id="squared distances 1 4 9"),
        pytest.param(on_a_line(3, 0, 1, 7), 9 / math.log(4), id="1 4 9 16 36 49: the lower of the two in the middle"),
        pytest.param(torch.tensor([[0.0, 0], [3, 4]]).double(), 25 / math.log(2), id="two dimensions"),
        pytest.param(on_a_line(2, 2, 2, 5), 1, id="most pairs coincide"),
    ],
)
def test_median_bandwidth_is_the_one_worked_out_by_hand(particles, expected):
    assert median_bandwidth(squared_distances(particles, particles)).item() == pytest.approx(expected, rel=1e-14)


def test_median_bandwidth_is_not_differentiated():
    particles = make_particles().requires_grad_()
    assert not median_bandwidth(squared_distances(particles, particles)).requires_grad


def test_squared_distances_are_those_of_cdist_and_exact_for_close_particles():
    particles = make_particles()
    torch.testing.assert_close(squared_distances(particles, particles), torch.cdist(particles, particles).square())
    close = on_a_line(1e6, 1e6 + 2**-10)
    assert squared_distances(close, close)[0, 1].item() == 2**-20


@pytest.mark.parametrize("num_particles", [1, 2, 5])
@pytest.mark.parametrize("kernel", [rbf, linear])
def test_both_sums_are_those_of_the_definition(kernel, num_particles):
    particles = make_particles(num_particles)
    bandwidth = median_bandwidth(squared_distances(particles, particles))

    def pair(z: Tensor, other: Tensor) -> Tensor:
        return 1 + z @ other if kernel is linear else (-(z - other).square().sum() / bandwidth).exp()

    expected = torch.stack([torch.stack([pair(a, b) for b in particles]) for a in particles])
    slopes = torch.stack([sum((grad(pair)(b, a) for b in particles), torch.zeros(3).double()) for a in particles])
    gram, repulsion = kernel(particles)
    torch.testing.assert_close(gram, expected)
    torch.testing.assert_close(repulsion, slopes)


def test_rbf_does_not_depend_on_where_the_particles_lie_or_on_their_unit():
    particles = make_particles()
    gram, repulsion = rbf(particles)
    moved_gram, moved_repulsion = rbf(3 * particles + 10)
    torch.testing.assert_close(moved_gram, gram)
    torch.testing.assert_close(moved_repulsion, repulsion / 3)


@pytest.mark.parametrize("num_coincident", [2, 3, 7])
def test_coincident_particles_neither_move_apart_nor_break_the_gradient(num_coincident):
    particles = torch.full((num_coincident, 2), 0.1, dtype=torch.float64).requires_grad_()
    gram, repulsion = rbf(particles)
    assert (gram == 1).all()
    torch.testing.assert_close(repulsion, torch.zeros_like(repulsion), rtol=0, atol=1e-14)
    assert torch.autograd.grad(gram.sum() + repulsion.square().sum(), particles)[0].isfinite().all()
