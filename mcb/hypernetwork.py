"""The prior hypernetwork: from a mode's code to a Gaussian prior over the base network's parameters."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcb.networks.functional import BaseNetwork
from mcb.priors import GaussianPrior, GeneratedPrior


class PriorHypernetwork(nn.Module):
    r"""$c \mapsto (\mu, \log\sigma, \text{conditional}, \text{likelihood offsets})$ by a multilayer perceptron.

    It starts at the base network's own initial values: the bias of the last layer holds them, and its weights, scaled
    by `spread`, say how far the modes lie apart at the start. `num_offsets` is the likelihood's `L`.

    >>> hypernetwork = PriorHypernetwork(32, BaseNetwork(nn.Linear(10, 5)))
    >>> hypernetwork(torch.zeros(32)).adapted.mean.shape
    torch.Size([55])
    """

    def __init__(
        self,
        code_size: int,
        network: BaseNetwork,
        *,
        num_offsets: int = 0,
        hidden: Sequence[int] = (64,),
        init_scale: float = 1.0,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        if not init_scale > 0:
            raise ValueError(f"init_scale={init_scale} must be above 0: it is the prior's standard deviation")
        self.code_size = code_size
        self.sizes = (network.num_adapted, network.num_adapted, network.num_conditional, num_offsets)
        widths = [code_size, *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1], sum(self.sizes))
        with torch.no_grad():
            self.output.weight.mul_(spread)
            log_scale = torch.full_like(network.initial_adapted, init_scale).log()
            initial = [network.initial_adapted, log_scale, network.initial_conditional, torch.zeros(num_offsets)]
            self.output.bias.copy_(torch.cat(initial))

    def forward(self, code: Float[Tensor, "E"]) -> GeneratedPrior:
        """The prior of one mode."""
        mean, log_scale, conditional, likelihood = self.output(self.layers(code)).split(self.sizes)
        return GeneratedPrior(GaussianPrior(mean, log_scale), conditional, likelihood)
