"""A learner whose parameters stay as they are: what does not depend on the task is computed once."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import vmap

from mcb.adapted import AdaptedTasks
from mcb.inference.conjugate import LARGEST_SUPPORT, Conjugate, head_prior
from mcb.inference.linear_head import ROUNDING, implementation
from mcb.inference.problem import Problem
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Gaussian, Predictive, check_num_outputs
from mcb.mode_axis import ModeAxis, without
from mcb.networks.functional import unflatten
from mcb.networks.mlp import MLP, is_plain_mlp
from mcb.predictive import GaussianMixture
from mcb.priors import GeneratedPrior
from mcb.types import Support


def tasks_at_once(most: int, num_support: int) -> int:
    """How many tasks to adapt to together: `most`, and fewer of large support sets, whose matrices grow as the square.

    >>> tasks_at_once(250, 0), tasks_at_once(250, 5), tasks_at_once(250, 300), tasks_at_once(250, 5000)
    (250, 250, 11, 1)
    """
    return max(1, min(most, most * LARGEST_SUPPORT**2 // max(1, num_support) ** 2))


class KnownPoints(NamedTuple):
    """Support sets as the exact head asks for them again with each query: repeated for every mode, 0 where masked."""

    features: Float[Tensor, "K T S H"]
    y: Float[Tensor, "K T S"]
    mask: Bool[Tensor, "K T S"]


class ServedLearner:
    """`adapt_tasks` and `predict_tasks` of a trained learner, with the same results but for rounding.

    Exact heads on a multilayer perceptron under shared codes, as in a codebook, have a way of their own: priors, layers
    and noise of all modes are generated once, and features are computed for all tasks in one product, without the
    overhead of mapping a function over modes and tasks, which is most of the time of a single task. All else is left to
    the learner.
    """

    def __init__(self, learner: ModeConditionalBayesianMAML) -> None:
        self.learner = learner
        self._heads = _ExactHeads(learner) if _ExactHeads.fit(learner) else None

    @torch.no_grad()
    def adapt_tasks(self, support: Support, mode: Int[Tensor, "T"], noise: Tensor | None) -> AdaptedTasks:
        """See `ModeConditionalBayesianMAML.adapt_tasks`."""
        if self._heads is None or support.x.shape[1] > LARGEST_SUPPORT:
            return self.learner.adapt_tasks(support, mode, noise)
        log_evidence, posterior = self._heads.adapt(support)
        log_gate = self._heads.log_gate.expand_as(log_evidence)
        weighed = ModeAxis(self.learner.modes).weigh(log_gate, log_evidence.mT)
        return AdaptedTasks(self._heads.generated, posterior, *weighed)

    @torch.no_grad()
    def predict_tasks(self, adapted: AdaptedTasks, x: Float[Tensor, "T Q X"]) -> Predictive:
        """See `ModeConditionalBayesianMAML.predict_tasks`."""
        if self._heads is None or not isinstance(adapted.posterior, KnownPoints):
            return self.learner.predict_tasks(adapted, x)
        return self._heads.predict(adapted, x)


class _ExactHeads:
    """The modes' exact heads, each with its own features."""

    @staticmethod
    def fit(learner: ModeConditionalBayesianMAML) -> bool:
        """Whether a learner is of this kind: one output, one gate for all tasks."""
        return (
            isinstance(learner.inference, Conjugate)
            and isinstance(learner.likelihood, Gaussian)
            and is_plain_mlp(learner.model.module)
            and learner.model.module.head.out_features == 1
            and learner.modes.has_shared_codes
            and not learner.modes.needs_embedding
            and not learner.modes.needs_mode
        )

    @torch.no_grad()
    def __init__(self, learner: ModeConditionalBayesianMAML) -> None:
        inference, likelihood, network = learner.inference, learner.likelihood, learner.model
        assert isinstance(inference, Conjugate) and isinstance(likelihood, Gaussian) and isinstance(network.module, MLP)
        self.generated: GeneratedPrior = vmap(learner.prior_hypernetwork)(learner.modes.codes(None))
        self.log_gate = learner.modes.log_gate(None, torch.tensor(-1))
        prior = vmap(lambda generated: head_prior(Problem(network, likelihood, generated)))(self.generated)
        self._prior = [leaf[:, 0].to(inference.gram_dtype) for leaf in prior]
        self._noise_variance = likelihood.scale(self.generated.likelihood.double()).square()
        self._gram_dtype, self._mlp = inference.gram_dtype, network.module
        own = unflatten(self.generated.conditional, network.conditional_shapes)
        values = {**dict(network.module.named_parameters()), **own}
        numbers = range(len(network.module.layers))
        self._combine = values.get("combine.weight")
        self._layers = [(values[f"layers.{n}.weight"].mT, values[f"layers.{n}.bias"][..., None, :]) for n in numbers]

    def adapt(self, support: Support) -> tuple[Float[Tensor, "T K"], KnownPoints]:
        """Log evidences under every mode, and what predictions need; raises ValueError for several targets a point."""
        check_num_outputs(1, support.y.shape[-1])
        features = torch.where(support.mask[..., None], self._features(support.x), 0)
        num_modes = len(features)
        y = torch.where(support.mask, support.y[..., 0], 0).expand(num_modes, -1, -1)
        known = KnownPoints(features, y, support.mask.expand(num_modes, -1, -1))
        log_evidence = self._answer(known, features)[0]
        return log_evidence.mT.to(support.x.dtype), known

    def predict(self, adapted: AdaptedTasks, x: Float[Tensor, "T Q X"]) -> GaussianMixture:
        """The exact predictive of every mode, weighed by the modes' responsibilities."""
        known: KnownPoints = adapted.posterior
        _, mean, variance = self._answer(known, torch.cat([known.features, self._features(x)], dim=2))
        log_scale = 0.5 * (variance.clamp(min=0) + self._noise_variance[:, None, None]).log()
        absent = adapted.log_responsibilities.isneginf()
        components = (without(leaf.transpose(0, 1)[..., None], absent) for leaf in (mean, log_scale))
        return GaussianMixture(adapted.log_responsibilities.double(), *components)

    def _answer(self, known: KnownPoints, features: Float[Tensor, "K T N H"]) -> tuple[Tensor, Tensor, Tensor]:
        """`linear_head.answer`: log evidence `(K, T)`, mean and variance without noise `(K, T, Q)`; float64."""
        num_modes, num_tasks = features.shape[:2]
        prior = [_repeated(leaf, num_tasks) for leaf in self._prior]
        y, mask = (leaf.flatten(0, 1).double() for leaf in (known.y, known.mask))
        given = (y, _repeated(self._noise_variance, num_tasks), mask)
        rounding = ROUNDING * torch.finfo(self._gram_dtype).eps
        head = implementation(features.device)
        results = head.forward(prior, features.flatten(0, 1).to(self._gram_dtype), *given, rounding)
        log_evidence, mean, variance = (result.unflatten(0, (num_modes, num_tasks)) for result in results[:3])
        return log_evidence, mean, variance

    def _features(self, x: Float[Tensor, "T N X"]) -> Float[Tensor, "K T N H"]:
        """As `MLP.features`, of all tasks' points at once."""
        values = x.flatten(0, 1)
        *below, (weight, bias) = self._layers
        for own, offset in below:
            values = self._mlp.activation(values @ own + offset)
        values = self._mlp.activate_features(values @ weight + bias)
        if self._combine is not None:
            values = values @ self._combine.mT
        return values.expand(len(self.log_gate), -1, -1).unflatten(1, x.shape[:2])


def _repeated(values: Float[Tensor, "K *h"], num_tasks: int) -> Float[Tensor, "B *h"]:
    """Of every mode, for each task."""
    return values[:, None].expand(-1, num_tasks, *values.shape[1:]).flatten(0, 1)
