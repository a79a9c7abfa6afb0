"""How a run's gradients become meta-steps: the server's policy, its slices, the wire, and what it does about delay."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from cluster.errors import UserError
from cluster.policies import SYNCHRONOUS, ServerPolicy

WireType = Literal["float32", "bfloat16"]
NUM_BYTES: dict[WireType, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class AggregationPlan:
    """Settings of the parameter server; policy and wire types are part of the result, the others are not.

    `num_slices` actors hold the parameters, each a range of them; 1 is the server itself. Gradients and parameters
    travel as `gradient_wire` and `parameter_wire`; sums, updates and checkpoints are float32 either way. A shard that
    takes longer than `straggler_factor` times the median is given to an idle worker as well; None: never.
    """

    policy: ServerPolicy = SYNCHRONOUS
    num_slices: int = 1
    gradient_wire: WireType = "float32"
    parameter_wire: WireType = "float32"
    straggler_factor: float | None = 4.0

    def __post_init__(self) -> None:
        """Raise `UserError` for a value out of its range."""
        if self.num_slices < 1:
            raise UserError(f"num_slices={self.num_slices} must be at least 1")
        for name in ("gradient_wire", "parameter_wire"):
            if getattr(self, name) not in get_args(WireType):
                raise UserError(f"{name}={getattr(self, name)!r} must be one of {', '.join(get_args(WireType))}")
        factor = self.straggler_factor
        if factor is not None and not (math.isfinite(factor) and factor >= 1):
            raise UserError(f"straggler_factor={factor} must be a number of at least 1, or None for no second copy")
