"""Mode-conditional Bayesian MAML: the composition; with `mode_axis` the only place where the task axis is batched."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.func import vmap

from mcb.adapted import AdaptedTask, AdaptedTasks
from mcb.finite import refuse_non_finite
from mcb.inference.gradient import GradientDescent
from mcb.inference.problem import Answer, Components, Inference, Problem
from mcb.likelihoods import Gaussian, Likelihood, Predictive
from mcb.mode_axis import ModeAxis, mapped
from mcb.modes.definition import ModeDefinition, RefreshedModes
from mcb.modes.embedding import Embedding
from mcb.networks.functional import BaseNetwork
from mcb.objectives import Losses, MetaObjective, Prediction, losses, predictive_nll
from mcb.priors import GeneratedPrior
from mcb.randomness import fold_key, normals
from mcb.sharing import SharedAxes, Sharing, share_out
from mcb.types import Support, Task


class ModeConditionalBayesianMAML(nn.Module):
    r"""A Bayesian few-shot learner for task distributions with many modes.

    1. `task_encoder` turns the support set into an embedding, which `modes` turns into codes and a gate;
    2. `prior_hypernetwork` turns each code into a Gaussian prior over the adapted parameters of `model`;
    3. `inference` adapts under each prior, and Bayes' rule weighs the modes by gate and evidence,
       $r_k \propto e^{\text{log gate}_k + \text{log evidence}_k}$;
    4. the predictive is the mixture $\sum_k r_k\, p_k(y \mid x)$, and its negative log density the meta-objective.

    Every part may be the user's own module. Defaults: the embedding is the mode, gradient descent from five prior
    samples, a Gaussian likelihood.

    Args:
        task_encoder: `(x (S, *x), y (S, Y) floats, mask (S,)) -> (E,)`; None where the modes need no embedding.
        prior_hypernetwork: `code (E,) -> GeneratedPrior`.
        model: the base network; a plain module is adapted whole.
        modes: see `mcb.modes`.
        inference: see `mcb.inference`.
        likelihood: `Gaussian()` for numbers, `Categorical(num_classes)` for classes.

    Raises:
        ValueError: parts that do not fit each other.
    """

    def __init__(
        self,
        task_encoder: nn.Module | None,
        prior_hypernetwork: nn.Module,
        model: nn.Module,
        *,
        modes: ModeDefinition | None = None,
        inference: Inference | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__()
        self.model = model if isinstance(model, BaseNetwork) else BaseNetwork(model)
        self.task_encoder = task_encoder
        self.prior_hypernetwork = prior_hypernetwork
        self.modes: ModeDefinition = Embedding() if modes is None else modes
        self.inference: Inference = GradientDescent(num_particles=5) if inference is None else inference
        self.likelihood = Gaussian() if likelihood is None else likelihood
        self._shared = SharedAxes()
        self.inference.check(self.model, self.likelihood)
        if self.modes.needs_embedding and task_encoder is None:
            raise ValueError(f"modes={type(self.modes).__name__} reads an embedding: give a task_encoder")

    def share_out(self, sharing: Sharing) -> None:
        """From here on compute this rank's particles, or its modes where the particles are fewer than the ranks.

        All ranks of a group must then call `losses` alike, which gives all of them the same; for the meta-gradient see
        `mcb.sharing`. Raises ValueError for more ranks than particles and than modes.
        """
        self._shared = share_out(sharing, self.inference.num_particles, self.modes.num_modes)

    def noise(self, key: int, indices: Int[Tensor, "T"]) -> Float[Tensor, "T P D"] | None:
        """The standard normal draws that the inference of tasks `indices` needs, a function of `key` and each index."""
        if not self.inference.needs_noise:
            return None
        num_particles, num_adapted = self.inference.num_particles, self.model.num_adapted
        draws = normals(key, indices, num_particles * num_adapted).view(-1, num_particles, num_adapted)
        return draws.to(self.model.initial_adapted)

    def adapt_tasks(
        self, support: Support, mode: Int[Tensor, "T"], noise: Float[Tensor, "T P D"] | None
    ) -> AdaptedTasks:
        """Posteriors of a batch of tasks under every mode, and the modes' responsibilities.

        Raises:
            ValueError: a true mode is needed (oracle) and missing or out of range; noise is needed and missing; the
                prior hypernetwork was made for another network.
        """
        log_gate, generated = self._generate(support, mode, noise)
        posterior = self._axis.map(self._adapt_one, generated, None, support, noise)
        return AdaptedTasks(generated, posterior, *self._axis.weigh(log_gate, posterior.log_evidence))

    def predict_tasks(self, adapted: AdaptedTasks, x: Float[Tensor, "T Q *x"]) -> Predictive:
        """The mixture over modes and particles at each task's query inputs."""
        components = self._axis.map(self._predict_one, adapted.generated, adapted.posterior, x)
        return self._axis.mixture(self.likelihood, adapted.log_responsibilities, adapted.generated, components)

    def forward(self, tasks: Task, noise: Float[Tensor, "T P D"] | None = None) -> Prediction:
        """Adapts to every task's support set and predicts its query points; raises as `adapt_tasks`."""
        log_gate, generated = self._generate(tasks.support, tasks.mode, noise)
        answers = self._axis.map(self._answer_one, generated, None, tasks.support, noise, tasks.query_x)
        weighed = self._axis.weigh(log_gate, answers.log_evidence)
        predictive = self._axis.mixture(self.likelihood, weighed.log_responsibilities, generated, answers.components)
        return Prediction(predictive, *weighed)

    def losses(
        self, tasks: Task, noise: Float[Tensor, "T P D"] | None, meta_objective: MetaObjective = predictive_nll
    ) -> Losses:
        """The meta-objective of every task, with its negative log density and squared error for the record."""
        return losses(self(tasks, noise), tasks, meta_objective)

    @torch.no_grad()
    def survey(
        self, support: Support, mode: Int[Tensor, "T"], noise: Float[Tensor, "T P D"] | None
    ) -> Float[Tensor, "T R"]:
        """What `modes.refresh` reads of these tasks: representations or responsibilities, as `modes.surveys` says.

        Raises:
            ValueError: the modes have no state to refresh, or as `adapt_tasks`.
        """
        if not isinstance(self.modes, RefreshedModes):
            raise ValueError(f"modes={type(self.modes).__name__} are not refreshed: there is nothing to survey")
        if self.modes.surveys == "responsibilities":
            return self.adapt_tasks(support, mode, noise).log_responsibilities.exp()
        representations = self._embed(support)
        assert representations is not None  # such modes need an embedding
        return representations

    def adapt(
        self,
        x: Float[Tensor, "S *x"],
        y: Shaped[Tensor, "S *y"],
        *,
        mode: int = -1,
        seed: int = 0,
    ) -> AdaptedTask:
        """Adapts to one task's support set; `mode` only where the mode definition has to be told.

        `y` holds `(S, O)` floats for numbers and `(S,)` integers for classes. Not differentiated.

        Raises:
            ValueError: numbers that are not finite, different counts of x and y, or targets of the wrong form.
        """
        if x.shape[0] != y.shape[0]:
            raise ValueError(
                f"the support set has {x.shape[0]} inputs and {y.shape[0]} targets: give one target for each"
            )
        self.likelihood.check_targets(y)
        refuse_non_finite(x, y)
        support = Support(x[None], y[None], torch.ones(1, x.shape[0], dtype=torch.bool, device=x.device))
        noise = self.noise(fold_key(seed, "adapt"), torch.zeros(1, dtype=torch.long, device=x.device))
        with torch.no_grad():
            return AdaptedTask(self, self.adapt_tasks(support, torch.tensor([mode], device=x.device), noise))

    def meta_test(self, task: Task, *, seed: int = 0) -> Predictive:
        """The predictive at one task's query inputs after adapting to its support set (masks are honoured).

        Raises:
            ValueError: numbers that are not finite.
        """
        self.likelihood.check_targets(task.support_y)
        refuse_non_finite(task.support_x, task.support_y, task.query_x)
        batch = Task(*(leaf[None] for leaf in task))
        noise = self.noise(fold_key(seed, "adapt"), torch.zeros(1, dtype=torch.long, device=task.mode.device))
        with torch.no_grad():
            predictive = self(batch, noise).predictive
        return type(predictive)(*(leaf[0] for leaf in predictive))

    def meta_train(
        self,
        tasks: Iterable[Task],
        optimizer: torch.optim.Optimizer,
        meta_objective: MetaObjective = predictive_nll,
        *,
        seed: int = 0,
    ) -> list[float]:
        """One meta-step for each meta-batch of `tasks`, a `Task` with a leading `T` axis; returns their mean losses.

        The plain loop, in this process: `mcb train` runs the same learner on many.

        Raises:
            ValueError: a task whose numbers are not finite, or a loss that is not.
        """
        history = []
        for version, batch in enumerate(tasks):
            for targets in (batch.support_y, batch.query_y):
                self.likelihood.check_targets(targets.flatten(0, 1))
            refuse_non_finite(*batch[:-1])
            indices = torch.arange(batch.mode.shape[0], device=batch.mode.device)
            noise = self.noise(fold_key(seed, "noise", version), indices)
            loss = meta_objective(self(batch, noise), batch).mean()
            if not loss.isfinite():
                raise ValueError(
                    f"the loss of meta-step {version} is {loss.item()}: lower the step size or learning rate"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        return history

    @property
    def _axis(self) -> ModeAxis:
        return ModeAxis(self.modes, self._shared.modes)

    def _generate(self, support: Support, mode: Tensor, noise: Tensor | None) -> tuple[Tensor, GeneratedPrior]:
        """Every task's log gate `(T, K)`; the modes' priors, led by `K` where codes are shared, else by `(T, K)`."""
        if self.inference.needs_noise and noise is None:
            name = type(self.inference).__name__
            raise ValueError(f"noise=None, but {name} starts at samples of the prior: give learner.noise(key, indices)")
        if self.modes.needs_mode and ((mode < 0) | (mode >= self.modes.num_modes)).any():
            wrong = mode[(mode < 0) | (mode >= self.modes.num_modes)][0].item()
            raise ValueError(f"mode={wrong} must lie in 0..{self.modes.num_modes - 1}: these modes have to be told")
        embedding = self._embed(support)
        log_gate = vmap(self.modes.log_gate, in_dims=(mapped(embedding), 0))(embedding, mode)
        if self.modes.has_shared_codes:
            generated = vmap(self.prior_hypernetwork)(self._axis.codes(None))
        else:
            generated = vmap(vmap(self.prior_hypernetwork))(vmap(self._axis.codes)(embedding))
        made = (generated.adapted.mean.shape[-1], generated.conditional.shape[-1])
        if made != (fit := (self.model.num_adapted, self.model.num_conditional)):
            raise ValueError(
                f"the prior hypernetwork generates {made} adapted and conditional parameters and the model has {fit}: "
                "give both the same BaseNetwork"
            )
        return log_gate, generated

    def _embed(self, support: Support) -> Float[Tensor, "T E"] | None:
        if not self.modes.needs_embedding or self.task_encoder is None:
            return None
        y = vmap(self.likelihood.targets_as_inputs)(support.y)
        return vmap(self.task_encoder)(support.x, y, support.mask)

    def _problem(self, generated: GeneratedPrior) -> Problem:
        return Problem(self.model, self.likelihood, generated, self._shared.particles)

    def _adapt_one(self, generated: GeneratedPrior, _: None, support: Support, noise: Tensor | None) -> Any:
        return self.inference.adapt(self._problem(generated), support, noise)

    def _predict_one(self, generated: GeneratedPrior, posterior: Any, x: Tensor) -> Components:
        return self.inference.predict(self._problem(generated), posterior, x)

    def _answer_one(
        self, generated: GeneratedPrior, _: None, support: Support, noise: Tensor | None, x: Tensor
    ) -> Answer:
        return self.inference.adapt_and_predict(self._problem(generated), support, noise, x)
