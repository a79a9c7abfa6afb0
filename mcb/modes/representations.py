"""What a task looks like to a clustering strategy: statistics of its support set."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_LENGTHS = (0.5, 1.0, 2.0, 4.0)  # of the squared-exponential kernels, in units of x
_SIGNAL = 100.0  # prior variance of a curve over that of the noise
_MOST_INPUTS = 4  # beyond which inputs count by their moments, not each by itself


class SupportStatistics(nn.Module):
    r"""What kind of function a support set looks like, in a few numbers without parameters.

    - How well each of a few fixed function classes explains the targets: the log marginal likelihood of regression by a
      Gaussian process of that kernel, its overall variance integrated out under Jeffreys' prior,
      $-\frac n2 \log y^\top A^{-1} y - \frac12 \log |A|$, less that of the constants, in nats per point. It does not
      depend on the scale of the targets.
    - What the function is: level, slopes and curvatures of a ridge fit, and the logarithm of the targets' spread.

    Inputs of several axes are flattened; more than four count by their mean and spread. Targets count one by one.
    """

    def __init__(self, x_size: int, y_size: int) -> None:
        super().__init__()
        self.num_inputs = x_size if x_size <= _MOST_INPUTS else 2
        self.embedding_size = len(_LENGTHS) + 2 + y_size * (2 + 2 * self.num_inputs)

    def forward(self, x: Float[Tensor, "S *x"], y: Float[Tensor, "S Y"], mask: Bool[Tensor, "S"]) -> Float[Tensor, "E"]:
        """The statistics of one support set, detached; zeros for an empty one."""
        with torch.no_grad():
            x, y = x.flatten(1).double(), y.double()
            if x.shape[1] > _MOST_INPUTS:
                x = torch.stack([x.mean(1), x.std(1)], dim=1)
            x, y = torch.where(mask[:, None], x, 0), torch.where(mask[:, None], y, 0)
            count = mask.sum().clamp(min=1)
            evidences = self._log_evidences(x, y, mask)
            relative = (evidences[1:] - evidences[0]) / count
            statistics = torch.cat([relative, *self._shape(x, y, mask, count)])
            return torch.where(mask.any(), statistics, 0).to(torch.get_default_dtype())

    def _log_evidences(self, x: Tensor, y: Tensor, mask: Tensor) -> Float[Tensor, "M"]:
        """Of constants, lines, parabolas and smooth functions of several lengths, summed over the targets."""
        both = (mask[:, None] & mask).double()
        inner = x @ x.T
        distance = (x[:, None] - x).square().sum(-1)
        scale = (x.square().sum() / mask.sum().clamp(min=1)).clamp(min=1e-12)
        lines = inner / scale
        kernels = [torch.zeros_like(inner), lines, lines + lines.square()]
        kernels += [lines + (-0.5 * distance / length**2).exp() for length in _LENGTHS]
        gram = _SIGNAL * (torch.stack(kernels) + 1) * both
        factor = torch.linalg.cholesky_ex(gram + torch.eye(len(x), dtype=x.dtype, device=x.device)).L
        whitened = torch.linalg.solve_triangular(factor, y.expand(len(kernels), *y.shape), upper=False)
        square = whitened.square().sum(1).clamp(min=1e-300)
        half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (-0.5 * mask.sum() * square.log() - half_log_det[:, None]).sum(1)

    def _shape(self, x: Tensor, y: Tensor, mask: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Ridge coefficients of constant, linear and square terms; log standard deviations of the targets."""
        basis = torch.cat([torch.ones_like(x[:, :1]), x, x.square()], dim=1) * mask[:, None]
        normal = basis.T @ basis + torch.eye(basis.shape[1], dtype=x.dtype, device=x.device)
        coefficients = torch.linalg.solve_ex(normal, basis.T @ y).result
        mean = y.sum(0) / count
        variance = torch.where(mask[:, None], (y - mean).square(), 0).sum(0) / count
        spread = 0.5 * (variance + 1e-12).log()
        return coefficients.T.flatten().asinh(), spread.clamp(min=-0.5 * math.log(1e12))
