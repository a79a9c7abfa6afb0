"""A trained learner in use: load it, adapt it to a task's few points, predict with intervals."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcb.adaptation import Adaptation, Adapter
from mcb.evidence_reference import DrawTasks, EvidenceReference
from mcb.given import ManyNumbers, Numbers, classes, padded, points
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Categorical
from mcb.prediction import Prediction
from mcb.serving import ServedLearner
from mcb.task_posteriors import TaskPosterior, TaskPosteriors
from mcb.units import Units

_GROUP = "mcb.loaders"
_DEFAULT = EntryPoint("default", "jobs.models.source:load_predictor", _GROUP)  # of a source tree that is not installed


class Predictor:
    r"""Adapts to new tasks: `Predictor.load(name).adapt(x, y).predict(x_new)`.

    **Units.** Values go in and come out in the user's units. A learner of synthetic families was trained in these, and
    nothing is converted. One of measured curves was trained on values standardised by family, with the means and scales
    of that family's training tasks, which are kept with the model: so `adapt(x, y, family="...")` converts by those of
    the family that is named. Where none is named, each family is a hypothesis about the units, equally probable
    beforehand, and weighed by Bayes' rule: by the density of y under the model, and that of x as independent normals of
    the family's mean and scale. The prediction is the mixture over these hypotheses.

    **Shapes.** S support and Q query points, X inputs (`x_size`) and Y targets (`y_size`) each: x `(S, X)`, y `(S, Y)`;
    `(S,)` will do where there is one of them. Classes are integers `(S,)`. Lists, arrays and tensors are taken alike,
    results are numpy arrays. Nothing is changed by adapting: any number of tasks, in any order, have the same results.
    """

    def __init__(
        self,
        learner: ModeConditionalBayesianMAML,
        x_size: int,
        y_size: int,
        *,
        units: Units | None = None,
        family_names: Sequence[str] = (),
        draw: DrawTasks | None = None,
        num_support: int = 5,
        settings: Mapping[str, object] | None = None,
        run_id: str | None = None,
    ) -> None:
        """`draw` makes tasks of the training kind in the learner's units, a pure function; `num_support` is theirs."""
        self.x_size, self.y_size = x_size, y_size
        self.units = Units.identity(x_size, y_size) if units is None else units
        self.family_names = tuple(family_names)
        self.settings = dict(settings or {})
        self.run_id = run_id
        self.learner = learner.eval().requires_grad_(False)
        served = ServedLearner(self.learner)
        self._adapter = Adapter(served, self.units)
        self._num_support = num_support
        self.reference = None if draw is None else EvidenceReference(served, draw)

    @classmethod
    def load(cls, name: str | Path) -> "Predictor":
        """A trained model by its name; only weights are read, never a pickle.

        `name` is a run's folder, a checkpoint file (.mcb) or its URL, `runs:/RUN_ID`, `models:/NAME@ALIAS` or
        `models:/NAME/VERSION`; the latter are looked up in the MLflow store that MLFLOW_TRACKING_URI names, or in that
        of `runs/` here. Errors have one line that names the value and the remedy.
        """
        found = next(iter(entry_points(group=_GROUP, name="default")), _DEFAULT)
        return found.load()(str(name))

    @property
    def num_modes(self) -> int:
        """`K`."""
        return self.learner.modes.num_modes

    @cached_property
    def mode_names(self) -> tuple[str, ...]:
        """Of each mode, the family that is most probable given it and a number: `linear 3`; `mode 3` where unknown."""
        if self._family_table is None:
            return tuple(f"mode {number}" for number in range(self.num_modes))
        best = self._family_table.argmax(1).tolist()
        return tuple(f"{self.family_names[one]} {number}" for number, one in enumerate(best))

    def adapt(self, x: Numbers, y: Numbers, *, family: str | None = None, seed: int = 0) -> TaskPosterior:
        """Adapts to one task of S support points.

        `family` names the family of a measured curve, whose units x and y have; `seed` fixes the noise of inference
        methods that sample. Raises ValueError for no point, other shapes, different numbers of x and y, values that are
        not finite (of measured curves, NaN stands for an input after the first that was not measured) and unknown
        families.
        """
        return TaskPosterior(self, self._adapt([x], [y], family, seed, [("x", "y")]))

    def adapt_many(
        self,
        xs: ManyNumbers,
        ys: ManyNumbers,
        *,
        family: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> TaskPosteriors:
        """Adapts to T tasks at once: arrays with a leading T, or a list of one array for each, of any lengths.

        The results are those of `adapt`, task by task; `family` names one for all tasks, or one for each. Raises
        ValueError for different numbers of tasks, and as `adapt`, naming the task.
        """
        if len(xs) != len(ys) or not len(xs):
            raise ValueError(f"there are x of {len(xs)} tasks and y of {len(ys)}: give both of each, at least one task")
        return TaskPosteriors(self, self._adapt(xs, ys, family, seed, [(f"x[{t}]", f"y[{t}]") for t in range(len(xs))]))

    def predict(self, adaptation: Adaptation, xs: ManyNumbers, is_single: bool) -> Prediction:
        """What `TaskPosterior.predict` gives: the mixture at each task's query points."""
        if len(xs) != (num_tasks := len(adaptation.log_evidence)):
            raise ValueError(f"there are query points of {len(xs)} tasks, but {num_tasks} were adapted to")
        inputs = [self._points("x" if is_single else f"x[{task}]", x) for task, x in enumerate(xs)]
        for task, x in enumerate(inputs):
            if not len(x):
                raise ValueError(f"there is no query point{'' if is_single else f' of task {task}'}: give at least one")
        x, present = padded(inputs)
        return Prediction(self._adapter.predict(adaptation, x), present, is_single)

    def task(self, adaptation: Adaptation, index: int) -> Adaptation:
        """One of many adapted tasks."""
        return self._adapter.task(adaptation, index)

    def percentiles(self, adaptation: Adaptation) -> Float[Tensor, "T"] | None:
        """What `TaskPosterior.evidence_percentile` says."""
        if self.reference is None:
            return None
        return self.reference.percentiles(adaptation.log_marginal, adaptation.num_support)

    def families(self, adaptation: Adaptation) -> Float[Tensor, "T F"] | None:
        """What `TaskPosterior.families` says: by units where these tell families apart, else by the modes."""
        if not self.units.is_identity:
            found = torch.zeros(len(adaptation.family), len(self.family_names), dtype=torch.float64)
            return found.scatter(1, adaptation.family, adaptation.log_family.exp())
        return None if self._family_table is None else adaptation.responsibilities @ self._family_table

    @cached_property
    def _family_table(self) -> Float[Tensor, "K F"] | None:
        """Probabilities of the families given each mode."""
        if self.reference is None or not self.family_names or not self.learner.modes.has_shared_codes:
            return None
        try:
            return self.reference.families_of_modes(self._num_support, len(self.family_names))
        except ValueError:  # no task of that many points is at hand
            return None

    def _adapt(
        self,
        xs: ManyNumbers,
        ys: ManyNumbers,
        family: str | Sequence[str] | None,
        seed: int,
        names: Sequence[tuple[str, str]],
    ) -> Adaptation:
        tasks = [self._task(x, y, *name) for x, y, name in zip(xs, ys, names, strict=True)]
        x, mask = padded([x for x, _ in tasks])
        y, _ = padded([y for _, y in tasks])
        told = self._told(family, len(tasks))
        every = torch.arange(len(self.units.families)).expand(len(tasks), -1)
        hypotheses = every if told is None or self.units.is_identity else told[:, None]
        mode = torch.full((len(tasks),), -1) if told is None else told
        return self._adapter.adapt(x, y, mask, hypotheses, mode, seed)

    def _task(self, x: Numbers, y: Numbers, x_name: str, y_name: str) -> tuple[Tensor, Tensor]:
        inputs = self._points(x_name, x)
        likelihood = self.learner.likelihood
        if isinstance(likelihood, Categorical):
            targets = classes(y_name, y, likelihood.num_classes)
        else:
            targets = points(y_name, y, self.y_size)
        if len(inputs) != len(targets):
            raise ValueError(
                f"{x_name} has {len(inputs)} points and {y_name} has {len(targets)}: give one target for each point"
            )
        if not len(inputs):
            raise ValueError(f"{x_name} has no point: a support set needs at least one")
        return inputs, targets

    def _points(self, name: str, x: Numbers) -> Tensor:
        return points(name, x, self.x_size, may_miss=not self.units.is_identity)

    def _told(self, family: str | Sequence[str] | None, num_tasks: int) -> Int[Tensor, "T"] | None:
        """The families that the user named, by index."""
        needs_mode = self.learner.modes.needs_mode
        if family is None and needs_mode:
            raise ValueError(f"this model has to be told a task's family: give one of {', '.join(self.family_names)}")
        if family is None:
            return None
        if self.units.is_identity and not needs_mode:
            raise ValueError(f"family={family!r}, but this model finds a task's family itself: leave it out")
        named = [family] * num_tasks if isinstance(family, str) else list(family)
        if len(named) != num_tasks:
            raise ValueError(f"there are {len(named)} families for {num_tasks} tasks: give one, or one for each task")
        for name in named:
            if name not in self.family_names:
                raise ValueError(f"family={name!r} is unknown: there are {', '.join(self.family_names)}")
        return torch.tensor([self.family_names.index(name) for name in named])
