"""Normalisation layers that stay right when their weights differ between the examples of a `vmap`.

torch differentiates layer, batch and instance norm wrongly, without an error, where a second derivative is taken
through `vmap(grad)` over their weights (https://github.com/pytorch/functorch/issues/534): the meta-gradient of MAML is
off by some per cent. It is right when the layer only normalises and an ordinary product and sum follow.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


class _LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        normalised = F.layer_norm(input, self.normalized_shape, eps=self.eps)
        return normalised * self.weight if self.bias is None else normalised * self.weight + self.bias


class _BatchStatistics(_BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        normalised = F.batch_norm(input, None, None, training=True, eps=self.eps)
        return normalised * _per_channel(self.weight, input) + _per_channel(self.bias, input)


class _InstanceStatistics(_InstanceNorm):
    def forward(self, input: Tensor) -> Tensor:
        normalised = F.instance_norm(input, eps=self.eps)
        return normalised * _per_channel(self.weight, input) + _per_channel(self.bias, input)


_REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: _LayerNorm,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _BatchStatistics),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _InstanceStatistics),
}


def move_affine_outside(module: nn.Module) -> None:
    """Makes torch's own such layers inside `module` normalise first and scale afterwards, in place.

    Layers without weights stay as they are, and so do those with running statistics: torch refuses these under `vmap`
    while training, and while evaluating they are affine themselves.
    """
    for layer in module.modules():
        replacement = _REPLACEMENTS.get(type(layer))
        has_weights = any(True for _ in layer.parameters(recurse=False))
        has_running_statistics = any(True for _ in layer.buffers(recurse=False))
        if replacement is not None and has_weights and not has_running_statistics:
            layer.__class__ = replacement


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.ndim - 2))
