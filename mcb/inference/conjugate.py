r"""The exact posterior of a linear head with Gaussian prior and noise (Bishop 2006, section 3.3).

With features $\phi$ of a mode, head prior $N(m, \mathrm{diag}\,v)$ and noise $\sigma^2$, everything follows from the
Gram matrix $A = \Phi\,\mathrm{diag}(v)\,\Phi^\top + \sigma^2 I$ of the support set, S by S for any number of features.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from mcb.inference.linear_head import Conditioned, HeadPrior, condition, predict
from mcb.inference.problem import Components, Problem
from mcb.likelihoods import Gaussian, Likelihood, check_num_outputs
from mcb.networks.functional import BaseNetwork
from mcb.types import Support


class ConjugatePosterior(NamedTuple):
    """The Gaussian posterior in the form that predictions need: the support features and, for each output, what was
    learned (`linear_head.Conditioned`).
    """

    features: Float[Tensor, "S H"]
    outputs: Conditioned
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

    def adapt(self, problem: Problem, support: Support, noise: Float[Tensor, "P D"] | None) -> ConjugatePosterior:
        """The posterior given the support set."""
        prior = _head_prior(problem)
        check_num_outputs(prior.mean.shape[0], support.y.shape[-1])
        features = problem.network.features(problem.generated.conditional, support.x)
        noise_variance = _noise_variance(problem)

        def one_output(prior: HeadPrior, y: Tensor) -> Conditioned:
            return condition(prior, features, y, support.mask, noise_variance, self.gram_dtype)

        outputs = vmap(one_output)(prior, support.y.mT)
        return ConjugatePosterior(features, outputs, outputs.log_evidence.sum().to(support.x.dtype))

    def predict(self, problem: Problem, posterior: ConjugatePosterior, x: Float[Tensor, "Q *x"]) -> Components:
        """One Gaussian component: the exact predictive."""
        features = problem.network.features(problem.generated.conditional, x)

        def one_output(prior: HeadPrior, conditioned: Conditioned) -> tuple[Tensor, Tensor]:
            return predict(prior, posterior.features, conditioned, features, self.gram_dtype)

        prediction, variance = vmap(one_output)(_head_prior(problem), posterior.outputs)
        return Components(prediction.mT[None].to(x.dtype), variance.clamp(min=0).mT[None].to(x.dtype))


def _head_prior(problem: Problem) -> HeadPrior:
    """From the flat prior over the head's parameters, the weights before the biases; a leading axis `O`."""
    num_outputs, num_features = problem.network.adapted_shapes["head.weight"]
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
