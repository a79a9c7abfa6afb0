r"""The exact posterior of a linear head with Gaussian prior and noise (Bishop 2006, section 3.3).

With features $\phi$ of a mode, head prior $N(m, \mathrm{diag}\,s^2)$ and noise $\sigma^2$, everything follows from the
Gram matrix $A = \Phi\,\mathrm{diag}(s^2)\,\Phi^\top + \sigma^2 I$ of the support set, S by S for any number of
features.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from mcb.inference import mode_heads
from mcb.inference.linear_head import ROUNDING, HeadAnswer, HeadPrior, answer
from mcb.inference.problem import Answer, Components, Problem, adapt_then_predict
from mcb.likelihoods import Gaussian, Likelihood, check_num_outputs
from mcb.networks.functional import BaseNetwork
from mcb.networks.generated_layer import generated_layer
from mcb.networks.mlp import MLP
from mcb.types import Support

LARGEST_SUPPORT = 64  # points; larger matrices are not what the compiled head is made for


class ConjugatePosterior(NamedTuple):
    r"""The Gaussian posterior in the form that predictions need, for each output.

    `design` is $\Phi\,\mathrm{diag}(s)$ over the `H` features (a bias is one more, constant feature, kept apart),
    `precision` $A^{-1}$ and `weights` $A^{-1}(y - \Phi m)$, both zero at masked points.
    """

    design: Float[Tensor, "O S H"]
    precision: Float[Tensor, "O S S"]
    weights: Float[Tensor, "O S"]
    log_evidence: Float[Tensor, ""]


@dataclass(frozen=True)
class Conjugate:
    """Exact inference for a Gaussian likelihood where the adapted parameters are those of a linear head.

    The evidence is exact. Gram matrices are formed in `gram_dtype`, with that type's rounding error added to their
    diagonal so that they stay positive definite, and inverted in float64. `torch.float32` is faster and right where the
    noise is not far below the scale of y; nearly noise-free data want the default.
    """

    gram_dtype: torch.dtype = torch.float64
    num_particles: int = 1
    needs_noise: bool = False

    def check(self, network: BaseNetwork, likelihood: Likelihood) -> None:
        """Raises `ValueError` for another likelihood or `gram_dtype`, or where not exactly a linear head is adapted."""
        if self.gram_dtype not in (torch.float32, torch.float64):
            raise ValueError(f"gram_dtype={self.gram_dtype} must be torch.float32 or torch.float64")
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

    def adapt(self, problem: Problem, support: Support, noise: Float[Tensor, "P D"] | None) -> ConjugatePosterior:
        """The posterior given the support set."""
        prior = head_prior(problem, support)
        features = problem.network.features(problem.generated.conditional, support.x)
        design = (features * prior.scale[:, None]).to(self.gram_dtype)
        predicted = prior.mean @ features.mT + prior.bias_mean[:, None]
        residual = torch.where(support.mask, support.y.mT - predicted, 0).double()
        both = support.mask[:, None] & support.mask
        gram = torch.where(both, (design @ design.mT).double() + prior.bias_variance[:, None, None], 0)
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True).detach()
        rounding = ROUNDING * torch.finfo(self.gram_dtype).eps * trace
        diagonal = torch.where(support.mask, _noise_variance(problem) + rounding, 1.0)
        factor = torch.linalg.cholesky_ex(gram + torch.diag_embed(diagonal)).L
        precision = torch.where(both, torch.cholesky_inverse(factor), 0)
        weights = (precision @ residual[..., None])[..., 0]
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = support.mask.double().sum() * math.log(2 * math.pi)
        log_evidence = -0.5 * ((residual * weights).sum(-1) + log_det + constant).sum()
        return ConjugatePosterior(design, precision, weights, log_evidence.to(support.x.dtype))

    def location(self, problem: Problem, posterior: ConjugatePosterior) -> Float[Tensor, "D"]:
        r"""The exact mean, $m + \mathrm{diag}(s^2)\, \Phi^\top A^{-1} (y - \Phi m)$."""
        prior = head_prior(problem)
        weight = (
            prior.mean
            + prior.scale * (posterior.design.to(posterior.weights).mT @ posterior.weights[..., None])[..., 0]
        )
        bias = prior.bias_mean + prior.bias_variance * posterior.weights.sum(-1)
        return torch.cat([weight.flatten(), bias])[: problem.network.num_adapted].to(prior.mean)

    def predict(self, problem: Problem, posterior: ConjugatePosterior, x: Float[Tensor, "Q *x"]) -> Components:
        """One Gaussian component: the exact predictive."""
        prior = head_prior(problem)
        features = problem.network.features(problem.generated.conditional, x)
        design = (features * prior.scale[:, None]).to(self.gram_dtype)
        bias_variance = prior.bias_variance[:, None, None]
        cross = (design @ posterior.design.mT).double() + bias_variance
        predicted = prior.mean @ features.mT + prior.bias_mean[:, None]
        prediction = predicted + (cross @ posterior.weights[..., None])[..., 0]
        prior_variance = design.square().sum(-1) + bias_variance[..., 0]
        variance = prior_variance - ((cross @ posterior.precision) * cross).sum(-1)
        return _components(prediction, variance, x.dtype)

    def adapt_and_predict(
        self, problem: Problem, support: Support, noise: Float[Tensor, "P D"] | None, x: Float[Tensor, "Q *x"]
    ) -> Answer:
        """`predict` after `adapt` as one operation of `mcb.inference.linear_head`, in a fraction of the time.

        That is made for many small problems: large support sets, whose matrices would not fit a cache, take two steps.
        A last layer of features that the mode has generated becomes part of the operation (`mcb.inference.mode_heads`).
        """
        if support.x.shape[0] > LARGEST_SUPPORT:
            return adapt_then_predict(self, problem, support, noise, x)
        priors, noise_variance = head_prior(problem, support), _noise_variance(problem)
        network, points = problem.network, torch.cat([support.x, x])
        layer = generated_layer(network, problem.generated.conditional) if x.device.type == "cpu" else None
        if layer is not None and support.y.shape[-1] == 1:
            hidden, prior = cast(MLP, network.module).hidden(points), HeadPrior(*(leaf[0] for leaf in priors))
            given = (layer, hidden, support.y[:, 0], support.mask, self.gram_dtype)
            results = HeadAnswer(*(leaf[None] for leaf in mode_heads.answer(prior, noise_variance, *given)))
        else:
            features = network.features(problem.generated.conditional, points)

            def one_output(prior: HeadPrior, y: Float[Tensor, "S"]) -> HeadAnswer:
                return answer(prior, features, y, support.mask, noise_variance, self.gram_dtype)

            results = vmap(one_output)(priors, support.y.mT)
        return Answer(results.log_evidence.sum().to(x.dtype), _components(*results[1:], x.dtype))


def _components(prediction: Float[Tensor, "O Q"], variance: Float[Tensor, "O Q"], dtype: torch.dtype) -> Components:
    return Components(prediction.mT[None].to(dtype), variance.clamp(min=0).mT[None].to(dtype))


def head_prior(problem: Problem, support: Support | None = None) -> HeadPrior:
    """From the flat prior over the head's parameters, the weights before the biases; a leading axis `O`.

    Raises `ValueError` where the support set has another number of targets.
    """
    num_outputs, num_features = problem.network.adapted_shapes["head.weight"]
    if support is not None:
        check_num_outputs(num_outputs, support.y.shape[-1])
    sizes = [num_outputs * num_features, problem.network.num_adapted - num_outputs * num_features]
    prior = problem.generated.adapted
    (mean, bias_mean), (log_scale, log_bias_scale) = prior.mean.split(sizes), prior.log_scale.split(sizes)
    none = mean.new_zeros(num_outputs)
    return HeadPrior(
        mean.view(num_outputs, num_features),
        log_scale.view(num_outputs, num_features).exp(),
        bias_mean if sizes[1] else none,
        (2 * log_bias_scale).exp() if sizes[1] else none,
    )


def _noise_variance(problem: Problem) -> Float[Tensor, ""]:
    likelihood = problem.likelihood
    assert isinstance(likelihood, Gaussian)  # `check` has refused every other
    return likelihood.scale(problem.generated.likelihood.double()).square()
