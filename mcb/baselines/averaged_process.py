r"""Gaussian-process regression of each task on its own, hyperparameters averaged instead of chosen.

With settings $h_n$ of kernel and noise, a task's predictive is $\sum_n r_n\, p(y \mid x, \text{support}, h_n)$, where
$r_n \propto \pi_n\, p(\text{support } y \mid x, h_n)$ (Rasmussen & Williams 2006, section 5.2: the integral that
maximum likelihood replaces by one point). The weights $\pi$ come from training tasks. A line with a Gaussian prior on
slope and intercept (ridge regression) is the same thing with a linear kernel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mcb.predictive import GaussianMixture
from mcb.types import Task

Kernel = Callable[[Float[Tensor, "N H"], Float[Tensor, "T A X"], Float[Tensor, "T B X"]], Float[Tensor, "T N A B"]]

_NUM_SETTINGS = 256
_NUM_KEPT = 64
_NUM_UPDATES = 20
_TASKS_AT_ONCE = 8  # bounds memory: T x N x S x Q x X numbers stand at once


@dataclass(frozen=True, eq=False)
class AveragedProcess:
    """`N` Gaussian processes of one output, averaged by evidence in every task."""

    kernel: Kernel
    settings: Float[Tensor, "N H"]
    """Logarithms of the kernel's hyperparameters."""
    log_noise: Float[Tensor, "N"]
    """Log variance of the noise."""
    log_weights: Float[Tensor, "N"]

    def fit(self, tasks: Task) -> "AveragedProcess":
        r"""The weights that explain the support sets of `tasks`: $\pi \leftarrow \mathrm{mean}_t\, r_t$, 20 times.

        This is expectation maximisation of the summed log evidence, which never falls; queries are not looked at. Then
        the 64 heaviest settings are kept, which hold all but a thousandth of the weight.
        """
        log_evidence = self.condition(tasks._replace(query_x=tasks.query_x[:, :0]))[0]
        log_weights = self.log_weights
        for _ in range(_NUM_UPDATES):
            responsibilities = torch.log_softmax(log_weights + log_evidence, dim=1)
            log_weights = torch.logsumexp(responsibilities, dim=0) - math.log(len(log_evidence))
        kept = log_weights.topk(min(_NUM_KEPT, len(log_weights)))
        return replace(
            self,
            settings=self.settings[kept.indices],
            log_noise=self.log_noise[kept.indices],
            log_weights=torch.log_softmax(kept.values, dim=0),
        )

    def __call__(self, tasks: Task) -> GaussianMixture:
        """Predictive of noisy targets at the query points, one component for every setting."""
        log_evidence, mean, log_scale = self.condition(tasks)
        log_weights = torch.log_softmax(self.log_weights + log_evidence, dim=1)
        y = tasks.query_y
        return GaussianMixture(log_weights.to(y), mean.unsqueeze(-1).to(y), log_scale.unsqueeze(-1).to(y))

    def condition(self, tasks: Task) -> tuple[Float[Tensor, "T N"], Float[Tensor, "T N Q"], Float[Tensor, "T N Q"]]:
        """Log evidence of each support set, then mean and log standard deviation at the query points, in float64.

        Raises:
            ValueError: targets have more than one output.
        """
        if tasks.support_y.shape[-1] != 1:
            raise ValueError(f"y_size={tasks.support_y.shape[-1]} must be 1: a process has one output")
        chunks = zip(*(leaf.split(_TASKS_AT_ONCE) for leaf in tasks), strict=True)
        parts = [self._condition(Task(*chunk)) for chunk in chunks]
        log_evidence, mean, log_scale = (torch.cat(part) for part in zip(*parts, strict=True))
        return log_evidence, mean, log_scale

    def _condition(self, tasks: Task) -> tuple[Tensor, Tensor, Tensor]:
        x, query_x, present = tasks.support_x.double(), tasks.query_x.double(), tasks.support_mask
        y = tasks.support_y.double() * present.unsqueeze(-1)
        noise = self.log_noise.exp()
        # A masked point is independent of the others with variance 1 and value 0: it adds nothing but a constant.
        both = (present.unsqueeze(1) & present.unsqueeze(2)).unsqueeze(1)
        diagonal = torch.where(present.unsqueeze(1), noise.unsqueeze(-1), 1.0)
        cholesky = torch.linalg.cholesky(self.kernel(self.settings, x, x) * both + torch.diag_embed(diagonal))
        across = self.kernel(self.settings, x, query_x) * present[:, None, :, None]
        whitened = torch.linalg.solve_triangular(
            cholesky, torch.cat([y.unsqueeze(1).expand(-1, len(noise), -1, -1), across], dim=-1), upper=False
        )
        y, across = whitened[..., :1], whitened[..., 1:]
        log_determinant = 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        num_points = present.sum(1, keepdim=True)
        log_evidence = -0.5 * (y.square().sum((-2, -1)) + log_determinant + num_points * math.log(2 * math.pi))
        point = query_x.flatten(0, 1).unsqueeze(1)
        prior = self.kernel(self.settings, point, point).flatten(1).unflatten(0, query_x.shape[:2]).mT
        variance = prior + noise.unsqueeze(-1) - across.square().sum(-2)
        return log_evidence, (y * across).sum(-2), 0.5 * variance.log()


def gaussian_process(x_size: int) -> AveragedProcess:
    r"""Kernel $s^2 \exp(-\frac12 \sum_i (x_i - x_i')^2 / l_i^2)$: $s$, $l_i$ and noise log-uniform, equal weights.

    Ranges in standardised units: variances s^2 0.1 to 10 and noise 1e-5 to 1, lengths 1/8 to 10.
    """
    return _average(_squared_exponential, (1e-5, 1.0), [(0.1, 10.0), *[(0.125, 10.0)] * x_size])


def ridge_line() -> AveragedProcess:
    """Kernel `b + w x . x'`: a line with Gaussian priors of variance `w` on slopes and `b` on the intercept.

    `w` and `b` log-uniform from 0.01 to 10, the noise's variance from 1e-5 to 4, equal weights.
    """
    return _average(_linear, (1e-5, 4.0), [(0.01, 10.0), (0.01, 10.0)])


def _average(kernel: Kernel, noise: tuple[float, float], ranges: list[tuple[float, float]]) -> AveragedProcess:
    """Equal weights on a Sobol sequence, log-uniform over the box."""
    low, high = torch.tensor([noise, *ranges], dtype=torch.float64).log().T
    engine = torch.quasirandom.SobolEngine(len(low))
    places = engine.draw(_NUM_SETTINGS, dtype=torch.float64) + 0.5 / _NUM_SETTINGS
    settings = low + (high - low) * places
    log_weights = torch.full((_NUM_SETTINGS,), -math.log(_NUM_SETTINGS), dtype=torch.float64)
    return AveragedProcess(kernel, settings[:, 1:], settings[:, 0], log_weights)


def _squared_exponential(
    settings: Float[Tensor, "N H"], a: Float[Tensor, "T A X"], b: Float[Tensor, "T B X"]
) -> Float[Tensor, "T N A B"]:
    lengths = settings[:, 1:].exp().unsqueeze(1)
    a, b = a.unsqueeze(1) / lengths, b.unsqueeze(1) / lengths
    squared_distance = (a.unsqueeze(3) - b.unsqueeze(2)).square().sum(-1)
    return torch.exp(settings[:, 0, None, None] - 0.5 * squared_distance)


def _linear(
    settings: Float[Tensor, "N H"], a: Float[Tensor, "T A X"], b: Float[Tensor, "T B X"]
) -> Float[Tensor, "T N A B"]:
    intercept, slope = settings.exp().T[..., None, None]
    return intercept + slope * (a @ b.mT).unsqueeze(1)
