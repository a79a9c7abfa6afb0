"""Support-set encoders: functions of a set, blind to what its mask hides."""

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from mcb.encoders.deep_set import DeepSet


@pytest.fixture
def encoder() -> DeepSet:
    torch.manual_seed(0)
    return DeepSet(x_size=2, y_size=1, embedding_size=6, hidden=8).double()


def make_support(num_support: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(num_support, n, generator=generator, dtype=torch.float64) for n in (2, 1))
    return x, y, torch.ones(num_support).bool()


def test_is_the_network_of_the_mean_of_the_points(encoder):
    x, y, mask = make_support()
    points = torch.stack([encoder.point(torch.cat([a, b])) for a, b in zip(x, y, strict=True)])
    expected = encoder.pooled(torch.cat([points.mean(0), torch.tensor([1 / 5]).double()]))
    torch.testing.assert_close(encoder(x, y, mask), expected)


@pytest.mark.parametrize("seed", range(3))
def test_points_have_no_order(encoder, seed):
    x, y, mask = make_support()
    mask[1] = False
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(encoder(x[order], y[order], mask[order]), encoder(x, y, mask))


def test_masked_places_are_as_if_they_were_not_there(encoder):
    x, y, _ = make_support()
    mask = torch.tensor([1, 0, 1, 1, 0]).bool()
    garbage = torch.where(mask[:, None], 0.0, 1e3).double()
    expected = encoder(x[mask], y[mask], mask[mask])
    torch.testing.assert_close(encoder(x, y, mask), expected)
    torch.testing.assert_close(encoder(x + garbage, y - garbage, mask), expected)
    hidden = torch.cat([x + garbage, y], dim=1).requires_grad_()
    encoder(hidden[:, :2], hidden[:, 2:], mask).sum().backward()
    assert hidden.grad is not None and not hidden.grad[~mask].any() and hidden.grad[mask].all()


def test_the_number_of_points_and_the_pairing_of_x_with_y_are_seen(encoder):
    x, y, mask = make_support()
    embedding = encoder(x, y, mask)
    twice = encoder(torch.cat([x, x]), torch.cat([y, y]), torch.cat([mask, mask]))
    assert (twice - embedding).abs().max() > 1e-5
    assert (encoder(x, y.roll(1, 0), mask) - embedding).abs().max() > 1e-5


def test_an_empty_set_has_the_embedding_of_the_zero_mean(encoder):
    zero_mean = torch.zeros(9).double()
    zero_mean[-1] = 1
    expected = encoder.pooled(zero_mean)
    x, y, mask = make_support(3)
    torch.testing.assert_close(encoder(x, y, ~mask), expected)
    torch.testing.assert_close(encoder(x[:0], y[:0], mask[:0]), expected)


def test_vmap_over_tasks_equals_a_loop_and_images_are_flattened():
    encoder = DeepSet(x_size=12, y_size=3, embedding_size=4, hidden=8).double()
    x, y = torch.randn(3, 5, 1, 4, 3).double(), torch.randn(3, 5, 3).double()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 1]]).bool()
    loop = torch.stack([encoder(a.flatten(1), b, c) for a, b, c in zip(x, y, mask, strict=True)])
    torch.testing.assert_close(vmap(encoder)(x, y, mask), loop)
