"""Observation models against torch.distributions."""

import math

import pytest
import torch
from jaxtyping import config
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal

from mcb.likelihoods import Categorical, Gaussian

NO_OFFSET = torch.zeros(0).double()


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("offset", [[], [0.0], [0.7]], ids=str)
def test_gaussian_density_is_the_normals_summed_over_outputs(offset):
    likelihood = Gaussian(init_scale=0.5).double()
    prediction, target = draws(6, 2), draws(6, 2, seed=1)
    scale = 1e-3 + (0.5 - 1e-3) * math.exp(sum(offset))
    torch.testing.assert_close(
        likelihood.log_density(prediction, target, torch.tensor(offset).double()),
        Normal(prediction, scale).log_prob(target).sum(-1),
        rtol=1e-6,  # log_scale was made in single precision
        atol=1e-6,
    )


def test_noise_starts_at_its_initial_scale_is_learned_and_never_falls_below_the_minimum():
    likelihood = Gaussian(init_scale=2.0, min_scale=0.1).double()
    assert likelihood.scale(torch.zeros(1).double()).item() == pytest.approx(2.0, rel=1e-6)
    torch.testing.assert_close(
        likelihood.scale(torch.tensor([[-100.0], [-1000.0]]).double()), torch.tensor([0.1, 0.1]).double()
    )
    assert [name for name, _ in likelihood.named_parameters()] == ["log_scale"]
    zero = torch.zeros(6, 1).double()
    errors = draws(6, 1)
    likelihood.log_density(errors, zero, NO_OFFSET).sum().backward()
    scale = likelihood.scale(NO_OFFSET).item()
    slope = (errors.square() / scale**3 - 1 / scale).sum() * (
        scale - 0.1
    )  # d log density / d scale * d scale / d log_scale
    torch.testing.assert_close(likelihood.log_scale.grad, slope)


def test_gaussian_mixture_adds_the_variance_of_the_parameters_to_that_of_the_noise():
    likelihood = Gaussian(init_scale=0.5).double()
    prediction, variance, offset = draws(3, 4, 5, 2), draws(3, 4, 5, 2, seed=1).square(), draws(3, 4, 1, seed=2)
    log_weights = draws(3, 4, seed=3).log_softmax(-1)
    mixture = likelihood.mixture(log_weights, prediction, variance, offset)
    expected = (variance + likelihood.scale(offset)[..., None, None].square()).sqrt()
    torch.testing.assert_close(mixture.log_scale.exp(), expected)
    assert mixture.mean is prediction and mixture.log_weights is log_weights
    y = draws(3, 5, 2, seed=4)
    joint = Normal(prediction, expected).log_prob(y[:, None]).sum(-1) + log_weights[..., None]
    torch.testing.assert_close(mixture.log_density(y), joint.logsumexp(1))


def test_gaussian_targets_are_read_as_they_are():
    targets = draws(4, 2)
    assert Gaussian().targets_as_inputs(targets) is targets


def test_categorical_density_is_that_of_torch_distributions_and_a_probability():
    likelihood, logits = Categorical(4), draws(6, 4)
    target = torch.tensor([0, 3, 1, 2, 2, 0])
    expected = TorchCategorical(logits=logits).log_prob(target)
    torch.testing.assert_close(likelihood.log_density(logits, target, NO_OFFSET), expected)
    every = torch.stack([likelihood.log_density(logits, torch.full((6,), c), NO_OFFSET) for c in range(4)])
    torch.testing.assert_close(every.logsumexp(0), torch.zeros(6).double())
    assert not list(likelihood.parameters())


def test_categorical_mixture_averages_probabilities():
    likelihood, logits = Categorical(4), draws(3, 2, 5, 4)
    log_weights = draws(3, 2, seed=1).log_softmax(-1)
    mixture = likelihood.mixture(log_weights, logits, torch.zeros_like(logits), torch.zeros(3, 2, 0).double())
    expected = (log_weights.exp()[..., None, None] * logits.softmax(-1)).sum(1)
    torch.testing.assert_close(mixture.probabilities(), expected)


def test_classes_are_read_as_one_hot_rows():
    target = torch.tensor([2, 0, 1])
    assert Categorical(4).targets_as_inputs(target).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gaussian(0.001), r"init_scale=0\.001 must lie above min_scale=0\.001, and that above 0"),
        (lambda: Gaussian(1.0, min_scale=0.0), r"init_scale=1\.0 must lie above min_scale=0\.0, and that above 0"),
        (lambda: Gaussian(math.nan), r"init_scale=nan must lie above"),
        (lambda: Categorical(1), r"num_classes=1 must be at least 2"),
        (
            lambda: Gaussian().check_targets(torch.zeros(5)),
            r"shape \(5,\) .* must be \(points, outputs\) floats: give y\[:, None\]",
        ),
        (lambda: Gaussian().check_targets(torch.zeros(5, 1).long()), r"type torch\.int64 must be .* floats"),
        (
            lambda: Categorical(3).check_targets(torch.zeros(5)),
            r"type torch\.float32 must be .*: give integers of type torch\.int64",
        ),
        (
            lambda: Categorical(3).check_targets(torch.zeros(5, 1).long()),
            r"shape \(5, 1\) .* must be \(points,\) classes",
        ),
        (lambda: Categorical(3).check_targets(torch.tensor([0, 3])), r"class 3 must lie in 0\.\.2"),
        (lambda: Categorical(3).check_targets(torch.tensor([-1, 2])), r"class -1 must lie in 0\.\.2"),
        (
            lambda: Gaussian().log_density(torch.zeros(5, 3), torch.zeros(5, 1), torch.zeros(1)),
            r"the model has 3 outputs and a point has 1 targets: make them equal",
        ),
    ],
)
def test_bad_input_is_refused_with_the_remedy(call, message):
    config.update("jaxtyping_disable", True)  # as users run it: without the annotations' checks
    try:
        with pytest.raises(ValueError, match=message):
            call()
    finally:
        config.update("jaxtyping_disable", False)


def test_good_targets_are_accepted():
    Gaussian().check_targets(torch.zeros(5, 2))
    Categorical(3).check_targets(torch.tensor([0, 2, 1]))
