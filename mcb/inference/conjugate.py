r"""The exact posterior of a linear head with Gaussian prior and noise (Bishop 2006, section 3.3).

With features $\phi$ of a mode, head prior $N(m, \mathrm{diag}\,v)$ and noise $\sigma^2$, everything follows from the Gram
matrix $A = \Phi\,\mathrm{diag}(v)\,\Phi^\top + \sigma^2 I$ of the support set, which is S by S whatever the number of features.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mcb.inference.problem import Components, Problem
from mcb.inference.sweep import inverse_and_log_det
from mcb.likelihoods import Gaussian, Likelihood, check_num_outputs
from mcb.networks.functional import BaseNetwork
from mcb.types import Support


class ConjugatePosterior(NamedTuple):
    r"""The Gaussian posterior in the form that predictions need: `F` features, the constant among them.

    `design` is $\Phi\,\mathrm{diag}(\sqrt v)$, `precision` $A^{-1}$ and `weights` $A^{-1}(y - \Phi m)$, for each output.
    """

    design: Float[Tensor, "O S F"]
    precision: Float[Tensor, "O S S"]
    weights: Float[Tensor, "O S"]
    log_evidence: Float[Tensor, ""]


@dataclass(frozen=True)
class Conjugate:
    """Exact inference for a Gaussian likelihood where the adapted parameters are those of a linear head.

    Runs in float64 inside, with `jitter` times its mean diagonal added to the Gram matrix. The evidence is exact.
    """

    jitter: float = 1e-9
    num_particles: int = 1
    needs_noise: bool = False

    def check(self, network: BaseNetwork, likelihood: Likelihood) -> None:
        """Raises `ValueError` for another likelihood, or where more or less than a linear head is adapted."""
        if not isinstance(likelihood, Gaussian):
            raise ValueError(
                f"the conjugate inference needs a Gaussian likelihood, not {type(likelihood).__name__}: "
                "use GradientDescent or SVGD for classes"
            )
        if network.linear_head is None:
            raise ValueError(
                f"the conjugate inference adapts a linear head, not {', '.join(network.adapted_shapes)}: "
                'use a module with `features` and `head` and BaseNetwork(module, adapted="head")'
            )

    def adapt(self, problem: Problem, support: Support, noise: None) -> ConjugatePosterior:
        """The posterior given the support set."""
        mean, scale = _head_prior(problem)
        check_num_outputs(mean.shape[0], support.y.shape[-1])
        features = torch.where(support.mask[:, None], _features(problem, support.x), 0)
        residual = torch.where(support.mask, support.y.mT.double() - mean @ features.mT, 0)
        design = features * scale[:, None]
        gram = design @ design.mT
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        variance = _noise_variance(problem) + self.jitter * trace / support.mask.sum().clamp(min=1)
        diagonal = torch.where(support.mask, variance, 1.0)
        precision, log_det = inverse_and_log_det(gram + torch.diag_embed(diagonal))
        weights = (precision @ residual[..., None])[..., 0]
        constant = support.mask.sum() * math.log(2 * math.pi)
        log_evidence = -0.5 * ((residual * weights).sum(-1) + log_det + constant).sum()
        return ConjugatePosterior(design, precision, weights, log_evidence.to(support.x.dtype))

    def predict(self, problem: Problem, posterior: ConjugatePosterior, x: Float[Tensor, "Q *x"]) -> Components:
        """One Gaussian component: the exact predictive."""
        mean, scale = _head_prior(problem)
        features = _features(problem, x)
        design = features * scale[:, None]
        cross = design @ posterior.design.mT
        prediction = mean @ features.mT + (cross @ posterior.weights[..., None])[..., 0]
        variance = design.square().sum(-1) - ((cross @ posterior.precision) * cross).sum(-1)
        return Components(prediction.mT[None].to(x.dtype), variance.clamp(min=0).mT[None].to(x.dtype))


def _features(problem: Problem, x: Float[Tensor, "N *x"]) -> Float[Tensor, "N F"]:
    """Features in float64, with the constant one where the head has a bias."""
    features = problem.network.features(problem.generated.conditional, x).double()
    head = problem.network.linear_head
    has_bias = head is not None and head.bias is not None
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=-1) if has_bias else features


def _head_prior(problem: Problem) -> tuple[Float[Tensor, "O F"], Float[Tensor, "O F"]]:
    """Prior mean and standard deviation of the head, the bias in the last column."""
    shapes = problem.network.adapted_shapes
    num_outputs, num_features = shapes["head.weight"]

    def columns(flat: Tensor) -> Tensor:
        weight, bias = flat.split([num_outputs * num_features, flat.numel() - num_outputs * num_features])
        return torch.cat([weight.view(num_outputs, num_features), bias.view(num_outputs, -1)], dim=-1)

    prior = problem.generated.adapted
    return columns(prior.mean.double()), columns(prior.log_scale.double().exp())


def _noise_variance(problem: Problem) -> Float[Tensor, ""]:
    likelihood = problem.likelihood
    assert isinstance(likelihood, Gaussian)  # `check` has refused every other
    return likelihood.scale(problem.generated.likelihood.double()).square()
