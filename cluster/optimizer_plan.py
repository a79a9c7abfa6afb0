"""What the meta-update is asked to be: an optimiser, its learning rate over the run, clipping, the average."""

import math
from dataclasses import dataclass
from typing import Literal

from cluster.errors import UserError, require_at_least

Option = bool | int | float


@dataclass(frozen=True)
class OptimizerPlan:
    """The meta-update: a torch optimiser by name, its learning rate over the run, clipping and refusal.

    `name` is a class of `torch.optim` in any case, or `soap`, which needs the `shapes` of the parameters in the vector:
    a `TrainingPlan` fills them in.
    The learning rate rises linearly over the first `warmup` meta-steps and then is constant or falls by a half cosine
    to 0 at `num_steps`. `clip_norm` bounds the global norm of the meta-gradient. `max_refused_steps` non-finite
    meta-gradients are tolerated in a run. Of the optimiser's own options, those that are None keep torch's default;
    `further` names others of them with their values.
    `average_decay` asks for an exponential average of the parameters, which evaluation uses.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 0
    clip_norm: float | None = None
    max_refused_steps: int = 10
    weight_decay: float | None = None
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    epsilon: float | None = None
    further: tuple[tuple[str, Option], ...] = ()
    average_decay: float | None = None
    shapes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        """Raise `UserError` for a value out of its range."""
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"learning_rate={self.learning_rate} must be a positive number")
        if self.schedule not in ("cosine", "constant"):
            raise UserError(f"schedule={self.schedule!r} must be 'cosine' or 'constant'")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"clip_norm={self.clip_norm} must be positive, or None for no clipping")
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise UserError(f"average_decay={self.average_decay} must lie between 0 and 1, or be None for no average")
        require_at_least(0, warmup=self.warmup, max_refused_steps=self.max_refused_steps)
        names = [*self._own_options, *(name for name, _ in self.further)]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"the optimizer's option {name} is given twice: give it once")

    @property
    def options(self) -> dict[str, object]:
        """What was chosen of the optimiser's own options, by torch's names."""
        return self._own_options | dict(self.further)

    def learning_rate_at(self, version: int, num_steps: int) -> float:
        r"""Learning rate of the step that ends `version`, a pure function, so that a resumed run needs no history.

        $\eta\,\min(1, \frac{v + 1}{w})$ times, for `cosine`, $\frac12(1 + \cos(\pi v / n))$ with $v$ counted from
        the end of the warm-up.
        """
        if version < self.warmup:
            return self.learning_rate * (version + 1) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        progress = (version - self.warmup) / max(1, num_steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def average_decay_at(self, number: int) -> float:
        r"""Weight of the past in the average after update `number` (0 is the first): $\min(d, \frac{1 + n}{10 + n})$.

        The initial parameters are forgotten soon, however slow the average is later.
        """
        return min(self.average_decay or 0.0, (1 + number) / (10 + number))

    @property
    def _own_options(self) -> dict[str, object]:
        """Those that are fields here, by torch's names."""
        chosen = {
            "weight_decay": self.weight_decay,
            "momentum": self.momentum,
            "betas": self.betas,
            "eps": self.epsilon,
        }
        return {name: value for name, value in chosen.items() if value is not None}
