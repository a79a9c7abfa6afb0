"""The Gaussian prior over a task's adapted parameters, and what a hypernetwork generates beside it."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class GaussianPrior(NamedTuple):
    r"""$\theta \sim \mathcal N(\mu, \mathrm{diag}\, \sigma^2)$ with `mean` $\mu$ and `log_scale` $\log\sigma$."""

    mean: Float[Tensor, "D"]
    log_scale: Float[Tensor, "D"]

    def unwhiten(self, z: Float[Tensor, "D"]) -> Float[Tensor, "D"]:
        r"""$\theta = \mu + \sigma \odot z$; under the prior $z$ is standard normal, whose score is $-z$."""
        return self.mean + self.log_scale.exp() * z


class GeneratedPrior(NamedTuple):
    """Everything about a task that its mode decides before the support set is seen.

    `conditional` are the base network's parameters that vary with the mode but carry no uncertainty; `likelihood` are
    offsets to the parameters of the likelihood (see `likelihoods`).
    """

    adapted: GaussianPrior
    conditional: Float[Tensor, "C"]
    likelihood: Float[Tensor, "L"]
