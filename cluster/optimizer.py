"""The meta-update on the flat parameter vector: clip, learning rate of the version, one torch optimiser step."""

import copy
import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from types import MethodType

import numpy as np
import torch

from cluster.blocks import norm, squared_sums
from cluster.denormals import flushed_denormals
from cluster.errors import CheckpointError, UserError
from cluster.optimizer_plan import OptimizerPlan
from cluster.threads import threads

_NOT_FLAT = {"LBFGS", "Muon", "SparseAdam"}  # want a closure, matrices or sparse gradients
_NOT_ELEMENTWISE = ("adafactor", "soap")  # the one moves by the root mean square over all, the other by matrices
_NOT_OPTIONS = ("lr", "foreach", "fused", "capturable", "differentiable")  # the plan's, and how torch computes
_LARGEST_SIDE = 256  # of a matrix that SOAP keeps an eigenbasis for; a larger one would cost more than the gradient


def _without_compiler() -> None:
    """Have torch's optimisers leave its compiler alone, which they import to switch it off: 1.5 s in every process.

    That is what `torch._disable_dynamo` looks for, and what `FlatOptimizer` unwraps the step for. Another torch may
    look for something else, and is slower to start then.
    """
    for method in vars(torch.optim.Optimizer).values():
        if (plain := getattr(method, "__wrapped__", None)) is not None:
            plain.__dynamo_disable = plain


_without_compiler()


def optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """The class of `torch.optim` with this name in any case, or SOAP; raises `UserError` with the nearest name.

    SOAP is Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321).
    """
    if name.lower() == "soap":
        from pytorch_optimizer import SOAP  # slow to import

        return SOAP
    classes = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and key not in _NOT_FLAT
    }
    classes.pop("optimizer")
    if name.lower() not in classes:
        names = sorted([*classes, "soap"])
        nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0)[0]
        raise UserError(f"optimizer {name!r} is not one of {', '.join(names)}; did you mean {nearest!r}?")
    return classes[name.lower()]


def require_optimizer(plan: OptimizerPlan, num_slices: int) -> None:
    """Raise `UserError` for an unknown optimiser, options that it lacks or refuses, or one that cannot be sliced."""
    kind = optimizer_class(plan.name)
    if num_slices > 1 and plan.name.lower() in _NOT_ELEMENTWISE:
        raise UserError(
            f"optimizer {plan.name!r} moves each parameter by what it knows of all: num_slices={num_slices} must be 1, "
            "or choose --optimizer.name adam"
        )
    settable = sorted(
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if name == "betas" or (name not in _NOT_OPTIONS and isinstance(parameter.default, bool | int | float | None))
    )
    for name in plan.options:
        if name not in settable:
            raise UserError(f"optimizer {plan.name!r} has no option {name}: it has {', '.join(settable) or 'none'}")
    try:
        _make(plan, [torch.nn.Parameter(torch.zeros(1))])
    except ValueError as error:
        raise UserError(f"optimizer {plan.name!r} refuses its options: {error}") from error


class FlatOptimizer:
    """A torch optimiser over one flat float32 vector; computes with one thread, so its bits depend on no setting."""

    def __init__(self, plan: OptimizerPlan, num_steps: int, parameters: np.ndarray) -> None:
        """Start at `parameters`, which are copied; raises ValueError for SOAP without the shapes in the vector."""
        self._plan, self._num_steps = plan, num_steps
        self._vector = torch.tensor(parameters)
        self._pieces = [torch.nn.Parameter(piece) for piece in _pieces(plan, self._vector)]
        self._optimizer = _make(plan, self._pieces)
        self._step = MethodType(inspect.unwrap(type(self._optimizer).step), self._optimizer)

    @property
    def parameters(self) -> np.ndarray:
        """A read-only copy of the vector."""
        parameters = self._vector.numpy().copy()
        parameters.flags.writeable = False
        return parameters

    def state(self) -> dict[str, object]:
        """A copy of the optimiser's state: `Optimizer.state_dict` alone aliases the live tensors."""
        return copy.deepcopy(self._optimizer.state_dict())

    def load(self, state: Mapping[str, object]) -> None:
        """Continue from a `state`; raises `CheckpointError` if it is another optimiser's."""
        try:
            self._optimizer.load_state_dict(copy.deepcopy(dict(state)))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"the optimiser state does not fit optimizer={self._plan.name}: {error}") from error

    def step(self, gradient: np.ndarray, norm: float, version: int) -> None:
        """Move the vector by `gradient`, of finite `gradient_norm`, scaled down to a norm of at most `clip_norm`."""
        if self._plan.clip_norm is not None and norm > self._plan.clip_norm:
            gradient = gradient * np.float32(self._plan.clip_norm / norm)
        whole = torch.from_numpy(np.ascontiguousarray(gradient))
        for parameter, piece in zip(self._pieces, _pieces(self._plan, whole), strict=True):
            parameter.grad = piece
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.learning_rate_at(version, self._num_steps)
        with threads(1), flushed_denormals(), torch.no_grad():
            self._step()


def gradient_norm(gradient: np.ndarray) -> float:
    """`cluster.blocks.norm` of a whole vector."""
    return norm(squared_sums(gradient))


def _pieces(plan: OptimizerPlan, vector: torch.Tensor) -> list[torch.Tensor]:
    """Views of the vector: each parameter in its shape where the optimiser sees matrices, else one of all."""
    if plan.name.lower() != "soap":
        return [vector]
    if not plan.shapes:
        raise ValueError(f"optimizer {plan.name!r} needs the shapes of the {len(vector)} parameters")
    pieces = vector.split([math.prod(shape) for shape in plan.shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, plan.shapes, strict=True)]


def _make(plan: OptimizerPlan, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    options = plan.options
    if plan.name.lower() == "soap":
        options = {"weight_decay": 0.0, "max_precondition_dim": _LARGEST_SIDE, **options}
    return optimizer_class(plan.name)(parameters, lr=plan.learning_rate, **options)
