"""Tasks in a user's units through a learner and back: families as hypotheses about units, and many tasks at once."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcb.adapted import AdaptedTasks
from mcb.likelihoods import Predictive
from mcb.predictive import GaussianMixture
from mcb.randomness import fold_key
from mcb.serving import ServedLearner, tasks_at_once
from mcb.types import Support
from mcb.units import Units

_AT_ONCE = 256  # rows for the learner, so that what lies between its steps stays in the nearer caches


class Adaptation(NamedTuple):
    r"""T tasks after adaptation, each in the units of its H possible families: `T H` rows of the learner, in `batches`.

    $p(f \mid \text{support}) \propto p(x \mid f)\, p(y \mid x, f)$ is `exp(log_family)`. `responsibilities` and
    `log_evidence` have families summed out; the evidence is $\log p(y \mid x)$ in the user's units of y, and
    `log_marginal` that of the most probable family in the learner's.
    """

    batches: tuple[AdaptedTasks, ...]
    family: Int[Tensor, "T H"]
    log_family: Float[Tensor, "T H"]
    responsibilities: Float[Tensor, "T K"]
    log_evidence: Float[Tensor, "T"]
    log_marginal: Float[Tensor, "T"]
    num_support: Int[Tensor, "T"]


@dataclass(frozen=True, eq=False)
class Adapter:
    """A learner that is not trained any more, and the units of its tasks."""

    learner: ServedLearner
    units: Units

    @torch.no_grad()
    def adapt(
        self,
        x: Float[Tensor, "T S X"],
        y: Tensor,
        mask: Bool[Tensor, "T S"],
        family: Int[Tensor, "T H"],
        mode: Int[Tensor, "T"],
        seed: int,
    ) -> Adaptation:
        """Adapts to supports in the user's units, float64; `y` is `(T, S, Y)` floats or `(T, S)` classes.

        Raises ValueError where a value is too large in the learner's units, or as `learner.adapt_tasks`.
        """
        num_families = family.shape[1]
        batches = []
        at_once = max(1, tasks_at_once(_AT_ONCE, x.shape[1]) // num_families)
        for rows in torch.arange(len(x)).split(at_once):
            flat = family[rows].flatten()
            each = [leaf[rows].repeat_interleave(num_families, 0) for leaf in (x, y, mask)]
            support = self._support(each[0], each[1], each[2], flat)
            noise = self.learner.learner.noise(fold_key(seed, "adapt"), torch.zeros_like(flat))
            batches.append(self.learner.adapt_tasks(support, mode[rows].repeat_interleave(num_families), noise))
        return self._weigh(tuple(batches), x, mask, family)

    @torch.no_grad()
    def predict(self, adaptation: Adaptation, x: Float[Tensor, "T Q X"]) -> Predictive:
        """The mixture over families, modes and particles at each task's query points, in the user's units."""
        num_families = adaptation.family.shape[1]
        parts, first = [], 0
        for batch in adaptation.batches:
            rows = slice(first, first := first + len(batch.log_marginal) // num_families)
            family = adaptation.family[rows].flatten()
            inputs = self._inputs(x[rows].repeat_interleave(num_families, 0), family)
            predictive = self.units.predictions(self.learner.predict_tasks(batch, inputs), family)
            parts.append(_mixed(predictive, adaptation.log_family[rows]))
        return type(parts[0])(*(torch.cat(leaves) for leaves in zip(*parts, strict=True)))

    def task(self, adaptation: Adaptation, index: int) -> Adaptation:
        """One of the adapted tasks, as a batch of one."""
        number, place = index, 0
        num_families = adaptation.family.shape[1]
        while number >= (size := len(adaptation.batches[place].log_marginal) // num_families):
            number, place = number - size, place + 1
        rows = slice(num_families * number, num_families * (number + 1))
        generated, posterior, *weighed = adaptation.batches[place]
        if self.learner.learner.modes.has_shared_codes:
            batch = AdaptedTasks(generated, _rows(posterior, rows, 1), *(leaf[rows] for leaf in weighed))
        else:
            batch = AdaptedTasks(
                _rows(generated, rows, 0), _rows(posterior, rows, 0), *(leaf[rows] for leaf in weighed)
            )
        return Adaptation((batch,), *(leaf[index : index + 1] for leaf in adaptation[1:]))

    def _weigh(self, batches: tuple[AdaptedTasks, ...], x: Tensor, mask: Tensor, family: Tensor) -> Adaptation:
        """Bayes' rule over the families, which are equally probable beforehand."""
        marginal = torch.cat([batch.log_marginal for batch in batches]).double().view(family.shape)
        responsibilities = torch.cat([batch.log_responsibilities for batch in batches]).exp()
        num_support = mask.sum(1)
        flat, num_families = family.flatten(), family.shape[1]
        volume = self.units.log_volume(num_support.repeat_interleave(num_families), flat).view(family.shape)
        evidence = marginal - volume
        log_family = torch.zeros_like(evidence)
        if num_families > 1:
            densities = self.units.log_input_density(x.repeat_interleave(num_families, 0), flat)
            of_inputs = (densities.view(*family.shape, -1) * mask[:, None]).sum(-1)
            log_family = (evidence + of_inputs).log_softmax(1)
            evidence = evidence + of_inputs.log_softmax(1)
        by_family = responsibilities.double().view(*family.shape, -1)
        return Adaptation(
            batches=batches,
            family=family,
            log_family=log_family,
            responsibilities=(log_family.exp()[..., None] * by_family).sum(1),
            log_evidence=evidence.logsumexp(1),
            log_marginal=marginal.gather(1, log_family.argmax(1, keepdim=True))[:, 0],
            num_support=num_support,
        )

    def _support(self, x: Tensor, y: Tensor, mask: Tensor, family: Tensor) -> Support:
        targets = self.units.targets(y, family)
        if targets.is_floating_point():
            targets = _single("y", torch.where(mask[..., None], targets, 0.0))
        return Support(torch.where(mask[..., None], self._inputs(x, family), 0.0), targets, mask)

    def _inputs(self, x: Tensor, family: Tensor) -> Tensor:
        return _single("x", self.units.inputs(x, family))


def _rows(values: Any, rows: slice, axis: int) -> Any:
    """Of a tensor, or of every leaf of a NamedTuple of them."""
    if isinstance(values, tuple):
        return type(values)(*(_rows(value, rows, axis) for value in values))
    return values[(slice(None),) * axis + (rows,)]


def _single(name: str, values: Tensor) -> Tensor:
    """As float32; raises ValueError where that cannot hold them."""
    single = values.float()
    if not single.isfinite().all():
        raise ValueError(f"{name} lies too far from all that this model was trained on: check its units")
    return single


def _mixed(predictive: Predictive, log_family: Float[Tensor, "T H"]) -> Predictive:
    """The rows of a task's families as one mixture."""
    num_tasks, num_families = log_family.shape
    leaves = [leaf.unflatten(0, (num_tasks, num_families)) for leaf in predictive]
    weights, *others = (leaf.flatten(1, 2) for leaf in [leaves[0] + log_family[..., None], *leaves[1:]])
    if isinstance(predictive, GaussianMixture):
        mean, log_scale = others
        return GaussianMixture(weights, mean, log_scale)
    return type(predictive)(weights, *others)
