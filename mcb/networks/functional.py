"""A network as a function of flat parameter vectors, with the parameters split into groups by name."""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from mcb.networks.normalization import move_affine_outside


class LinearHeadModule(Protocol):
    """A module that predicts `head(features(x))`, linear in the parameters of its head."""

    head: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """`(N, H)` features of `N` points."""
        ...


class BaseNetwork(nn.Module):
    """Any module, its parameters split by name into *adapted*, *conditional* and *shared* ones.

    - adapted (`D` of them): a task adapts them, so the prior is over them;
    - conditional (`C`): generated from the mode's code, without uncertainty;
    - shared: the rest, ordinary meta-parameters, the only ones in `parameters()`.

    `adapted` and `conditional` are each `"all"`, `"none"`, `"head"` (the parameters of `module.head`), `"rest"` (for
    `conditional`: all that is not adapted) or a regular expression searched for in the names. The module is copied; its
    initial values are where a hypernetwork may start: `initial_adapted`, `initial_conditional`.

    Raises `ValueError` where nothing is adapted or the two groups overlap.

    >>> network = BaseNetwork(nn.Linear(10, 5))
    >>> network.num_adapted, network.num_conditional, len(list(network.parameters()))
    (55, 0, 0)
    """

    initial_adapted: Float[Tensor, "D"]
    initial_conditional: Float[Tensor, "C"]

    def __init__(self, module: nn.Module, adapted: str = "all", conditional: str = "none") -> None:
        super().__init__()
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        chosen = _select(list(shapes), adapted)
        others = [name for name in shapes if name not in chosen]
        generated = others if conditional == "rest" else _select(list(shapes), conditional)
        if not chosen:
            raise ValueError(f"adapted={adapted!r} selects no parameter; the names are {', '.join(shapes)}")
        if overlap := sorted(set(chosen) & set(generated)):
            raise ValueError(f"conditional={conditional!r} selects {overlap[0]}, which adapted={adapted!r} selects too")
        self.adapted_shapes = {name: shapes[name] for name in chosen}
        self.conditional_shapes = {name: shapes[name] for name in generated}
        self.register_buffer("initial_adapted", _flatten(module, chosen), persistent=False)
        self.register_buffer("initial_conditional", _flatten(module, generated), persistent=False)
        self.module = copy.deepcopy(module)
        move_affine_outside(self.module)
        for name in [*chosen, *generated]:
            _replace_by_buffer(self.module, name)

    @property
    def num_adapted(self) -> int:
        """`D`."""
        return self.initial_adapted.numel()

    @property
    def num_conditional(self) -> int:
        """`C`."""
        return self.initial_conditional.numel()

    @property
    def linear_head(self) -> nn.Linear | None:
        """The head, where the predictions are linear in the adapted parameters because these are exactly the head's."""
        head = dict(self.module.named_children()).get("head")
        if not isinstance(head, nn.Linear) or not callable(getattr(self.module, "features", None)):
            return None
        names = {f"head.{name}" for name in ("weight", "bias")} & set(self.adapted_shapes)
        whole_head = "head.weight" in names and (head.bias is None or "head.bias" in names)
        return head if whole_head and set(self.adapted_shapes) == names else None

    def forward(
        self, adapted: Float[Tensor, "D"], conditional: Float[Tensor, "C"], x: Float[Tensor, "N *x"]
    ) -> Float[Tensor, "N O"]:
        """Predictions at `x` under the given parameters."""
        values = {**unflatten(adapted, self.adapted_shapes), **unflatten(conditional, self.conditional_shapes)}
        return functional_call(self.module, values, (x,))

    def features(self, conditional: Float[Tensor, "C"], x: Float[Tensor, "N *x"]) -> Float[Tensor, "N H"]:
        """What a linear head is linear in; for modules with `features` alone (see `linear_head`)."""
        values = unflatten(conditional, self.conditional_shapes)
        return functional_call(_Features(self.module), {f"module.{name}": v for name, v in values.items()}, (x,))


class _Features(nn.Module):
    """`functional_call` calls `forward`; this makes it call `features`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return cast(LinearHeadModule, self.module).features(x)


def _select(names: Sequence[str], pattern: str) -> list[str]:
    if pattern == "none":
        return []
    expression = {"all": "", "head": r"^head\."}.get(pattern, pattern)
    try:
        return [name for name in names if re.search(expression, name)]
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is no regular expression ({error}): escape it") from error


def _flatten(module: nn.Module, names: Sequence[str]) -> Float[Tensor, "N"]:
    values = [module.get_parameter(name).detach().flatten() for name in names]
    return torch.cat(values) if values else torch.zeros(0)


def unflatten(vector: Float[Tensor, "*k N"], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The parameters in a flat vector by name, each with the vector's leading axes."""
    parts = torch.split(vector, [math.prod(shape) for shape in shapes.values()], dim=-1)
    leading = vector.shape[:-1]
    return {name: part.reshape((*leading, *shape)) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _replace_by_buffer(module: nn.Module, name: str) -> None:
    """A generated value is no meta-parameter; a buffer keeps the place that `functional_call` fills."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    value = owner.get_parameter(leaf).detach().clone()
    delattr(owner, leaf)
    owner.register_buffer(leaf, value, persistent=False)
