"""The axis of the modes beside that of the tasks: which is the outer one, Bayes' rule along it, and the mixture."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import vmap

from mcb.adapted import WeighedModes
from mcb.inference.problem import Components
from mcb.likelihoods import Likelihood, Predictive
from mcb.modes.definition import ModeDefinition
from mcb.priors import GeneratedPrior
from mcb.sharing import UNSHARED, Sharing


@dataclass(frozen=True)
class ModeAxis:
    """Modes led by `K` where their codes are shared by all tasks, else by `(T, K)`; of a group, this rank's share.

    `map` gives results led by `(K, T)` or `(T, K)` accordingly, and the other methods take them so.
    """

    modes: ModeDefinition
    sharing: Sharing = UNSHARED

    def codes(self, embedding: Float[Tensor, "E"] | None) -> Float[Tensor, "share code"]:
        """The codes of this rank's modes."""
        return self.sharing.share(self.modes.codes(embedding))

    def map(self, function: Callable, generated: GeneratedPrior, posterior: Any, *per_task: Any) -> Any:
        """`function(generated, posterior, *per_task)` for every task and mode; arguments that are None stay None.

        Where codes are shared the modes are the outer axis, so that the inner batch of tasks folds into one matrix
        product with each mode's weights and these are never copied for each task.
        """
        tasks = tuple(map(mapped, per_task))
        alone = (None,) * len(tasks)
        if self.modes.has_shared_codes:
            inner = vmap(function, in_dims=(None, mapped(posterior), *tasks))
            return vmap(inner, in_dims=(0, mapped(posterior), *alone))(generated, posterior, *per_task)
        inner = vmap(function, in_dims=(0, mapped(posterior), *alone))
        return vmap(inner, in_dims=(0, mapped(posterior), *tasks))(generated, posterior, *per_task)

    def weigh(self, log_gate: Float[Tensor, "T K"], log_evidence: Tensor) -> WeighedModes:
        """Bayes' rule: gate times evidence, normalised over the modes of all ranks.

        Where the gate is minus infinity the evidence, defined or not, has no part in it.
        """
        log_evidence = self._gather(log_evidence).mT
        log_joint = log_gate + torch.where(log_gate.isneginf(), 0.0, log_evidence)
        return WeighedModes(log_joint.log_softmax(-1), log_evidence, log_joint.logsumexp(-1))

    def mixture(
        self,
        likelihood: Likelihood,
        log_responsibilities: Float[Tensor, "T K"],
        generated: GeneratedPrior,
        components: Components,
    ) -> Predictive:
        """The predictive over the modes and particles of all ranks; those of no weight have predictions of 0."""
        absent = log_responsibilities.isneginf()
        prediction, variance = (without(self._gather(leaf).transpose(0, 1), absent) for leaf in components)
        offset = self._gather(generated.likelihood)
        if self.modes.has_shared_codes:
            offset = offset.expand(log_responsibilities.shape[0], *offset.shape)
        else:
            offset = offset.transpose(0, 1)
        offset = without(offset, absent)
        num_particles = prediction.shape[2]
        log_weights = log_responsibilities[..., None].expand(-1, -1, num_particles) - math.log(num_particles)
        return likelihood.mixture(
            log_weights.flatten(1, 2),
            prediction.flatten(1, 2),
            variance.flatten(1, 2),
            offset[:, :, None].expand(-1, -1, num_particles, -1).flatten(1, 2),
        )

    def _gather(self, results: Tensor) -> Tensor:
        """Of the modes of all ranks, led by `K`."""
        led_by_modes = results if self.modes.has_shared_codes else results.transpose(0, 1)
        return self.sharing.gather(led_by_modes, self.modes.num_modes)


def without(results: Float[Tensor, "T K *rest"], absent: Bool[Tensor, "T K"]) -> Float[Tensor, "T K *rest"]:
    """With 0 in place of what is absent: no weight times an undefined number is undefined."""
    return torch.where(absent.view(*absent.shape, *[1] * (results.ndim - 2)), 0.0, results)


def mapped(argument: Any) -> int | None:
    """The axis to map an optional argument over."""
    return None if argument is None else 0
