"""The prior hypernetwork: where it starts, what it generates, and that gradients reach every part of it."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from mcb.hypernetwork import PriorHypernetwork
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.priors import GaussianPrior


@pytest.fixture
def network() -> BaseNetwork:
    torch.manual_seed(0)
    return BaseNetwork(MLP(2, 1, hidden=(4, 3)).double(), adapted="head", conditional="rest")


def code(seed: int = 0) -> Tensor:
    return torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_without_spread_every_code_starts_at_the_networks_own_values(network):
    hypernetwork = PriorHypernetwork(5, network, num_offsets=1, init_scale=0.3, spread=0.0).double()
    for seed in range(3):
        generated = hypernetwork(code(seed))
        torch.testing.assert_close(generated.adapted.mean, network.initial_adapted, rtol=0, atol=1e-7)
        torch.testing.assert_close(
            generated.adapted.log_scale, torch.full((4,), math.log(0.3)).double(), rtol=0, atol=1e-7
        )
        torch.testing.assert_close(generated.conditional, network.initial_conditional, rtol=0, atol=1e-7)
        assert generated.likelihood.tolist() == [0]


def test_spread_scales_how_far_the_modes_lie_apart(network):
    def deviation(spread: float) -> Tensor:
        torch.manual_seed(1)
        hypernetwork = PriorHypernetwork(5, network, spread=spread).double()
        return hypernetwork(code()).adapted.mean - network.initial_adapted

    assert deviation(1.0).abs().min() > 1e-3
    torch.testing.assert_close(deviation(0.1), 0.1 * deviation(1.0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 6)], ids=str)
@pytest.mark.parametrize("num_offsets", [0, 1])
def test_output_is_split_into_mean_log_scale_conditional_and_offsets(network, hidden, num_offsets):
    hypernetwork = PriorHypernetwork(5, network, num_offsets=num_offsets, hidden=hidden).double()
    generated = hypernetwork(code())
    flat = torch.cat([*generated.adapted, generated.conditional, generated.likelihood])
    assert [len(leaf) for leaf in (*generated.adapted, generated.conditional, generated.likelihood)] == [
        network.num_adapted,
        network.num_adapted,
        network.num_conditional,
        num_offsets,
    ]
    torch.testing.assert_close(flat, hypernetwork.output(hypernetwork.layers(code())))
    assert sum(isinstance(layer, torch.nn.Linear) for layer in hypernetwork.layers) == len(hidden)


def test_gradient_reaches_code_and_weights_and_is_that_of_finite_differences(network):
    hypernetwork = PriorHypernetwork(5, network, num_offsets=1, hidden=(3,)).double()
    names = [name for name, _ in hypernetwork.named_parameters()]

    def outputs(code: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        (mean, log_scale), conditional, offset = functional_call(
            hypernetwork, dict(zip(names, values, strict=True)), (code,)
        )
        return mean, log_scale, conditional, offset

    leaves = [code(), *(parameter.detach().clone() for parameter in hypernetwork.parameters())]
    assert torch.autograd.gradcheck(outputs, tuple(leaf.requires_grad_() for leaf in leaves))


def test_unwhitening_is_the_map_under_which_the_priors_score_is_minus_z():
    mean, log_scale, z = (torch.randn(4, generator=torch.Generator().manual_seed(s)).double() for s in range(3))
    prior = GaussianPrior(mean, log_scale)
    density = torch.distributions.Normal(mean, log_scale.exp())
    leaf = z.clone().requires_grad_()
    (score,) = torch.autograd.grad(density.log_prob(prior.unwhiten(leaf)).sum(), leaf)
    torch.testing.assert_close(score, -z)
    torch.testing.assert_close(prior.unwhiten(torch.zeros(4).double()), mean)


@pytest.mark.parametrize("init_scale", [0.0, -1.0, math.nan])
def test_a_prior_without_width_is_refused(network, init_scale):
    with pytest.raises(
        ValueError, match=rf"init_scale={init_scale} must be above 0: it is the prior's standard deviation"
    ):
        PriorHypernetwork(5, network, init_scale=init_scale)
