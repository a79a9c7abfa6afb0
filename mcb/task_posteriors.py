"""What a predictor made of the tasks that it has adapted to."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mcb.adaptation import Adaptation
from mcb.given import ManyNumbers, Numbers
from mcb.prediction import Array, Prediction

UNUSUAL_BELOW = 1.0  # per cent


@runtime_checkable
class Answers(Protocol):
    """What tasks ask of the predictor that adapted to them."""

    @property
    def family_names(self) -> tuple[str, ...]:
        """Names of the families of training tasks."""
        ...

    def task(self, adaptation: Adaptation, index: int) -> Adaptation:
        """One of the tasks."""
        ...

    def predict(self, adaptation: Adaptation, xs: ManyNumbers, is_single: bool) -> Prediction:
        """At the query points of each task."""
        ...

    def percentiles(self, adaptation: Adaptation) -> Float[Tensor, "T"] | None:
        """Of the tasks' evidences."""
        ...

    def families(self, adaptation: Adaptation) -> Float[Tensor, "T F"] | None:
        """Probabilities of the families."""
        ...


@dataclass(frozen=True, eq=False)
class TaskPosteriors:
    """Many tasks after adaptation: `Predictor.adapt_many`. Indexed and iterated, it gives each task's own.

    Its properties are those of `TaskPosterior` with a leading axis T.
    """

    predictor: Answers
    adaptation: Adaptation

    def __len__(self) -> int:
        return len(self.adaptation.log_evidence)

    def __getitem__(self, index: int) -> "TaskPosterior":
        if not -len(self) <= index < len(self):
            raise IndexError(f"task {index} of {len(self)}")
        return TaskPosterior(self.predictor, self.predictor.task(self.adaptation, index % len(self)))

    def predict(self, xs: ManyNumbers) -> Prediction:
        """The predictive at each task's query points `(T, Q, X)`, or a list of one array for each task.

        Raises ValueError for another number of tasks, and as `TaskPosterior.predict`.
        """
        return self.predictor.predict(self.adaptation, xs, is_single=False)

    @property
    def responsibilities(self) -> Float[Array, "T K"]:
        """Posterior probability of each mode."""
        return self.adaptation.responsibilities.numpy()

    @property
    def log_evidence(self) -> Float[Array, "T"]:
        """Of the support sets, nats."""
        return self.adaptation.log_evidence.numpy()

    @property
    def log_evidence_per_point(self) -> Float[Array, "T"]:
        """The same for each support point."""
        return (self.adaptation.log_evidence / self.adaptation.num_support).numpy()

    @cached_property
    def evidence_percentile(self) -> Float[Array, "T"] | None:
        """Of training-like tasks; NaN, and so not unusual, where there are none of as many points."""
        found = self.predictor.percentiles(self.adaptation)
        return None if found is None else found.numpy()

    @property
    def is_unusual(self) -> Array | None:
        """Whether a task is unlike what the model was trained on."""
        return None if self.evidence_percentile is None else self.evidence_percentile < UNUSUAL_BELOW

    @cached_property
    def families(self) -> Float[Array, "T F"] | None:
        """Probability of each family, in the order of `predictor.family_names`."""
        found = self.predictor.families(self.adaptation)
        return None if found is None else found.numpy()


@dataclass(frozen=True, eq=False)
class TaskPosterior:
    """One task after adaptation: `Predictor.adapt`."""

    predictor: Answers
    adaptation: Adaptation

    def predict(self, x: Numbers) -> Prediction:
        """The predictive at query points `(Q, X)`, or `(Q,)` where there is one input, in the user's units.

        Raises ValueError for another number of inputs, a value that is not finite, or no point.
        """
        return self.predictor.predict(self.adaptation, [x], is_single=True)

    @property
    def responsibilities(self) -> Float[Array, "K"]:
        """Posterior probability of each mode, in the order of `predictor.mode_names`."""
        return self._all.responsibilities[0]

    @property
    def log_evidence(self) -> float:
        """Log density of the support targets given their inputs, in nats and in the user's units of y."""
        return float(self._all.log_evidence[0])

    @property
    def log_evidence_per_point(self) -> float:
        """The same for each support point."""
        return float(self._all.log_evidence_per_point[0])

    @property
    def evidence_percentile(self) -> float | None:
        """Per cent of training-like tasks of as many support points that are explained no better (0..100).

        See `EvidenceReference`; the first question about a number of support points takes a moment. None where no
        training-like task can be had: measured curves that are not at hand, or none with as many points.
        """
        found = self._all.evidence_percentile
        return None if found is None or np.isnan(found[0]) else float(found[0])

    @property
    def is_unusual(self) -> bool | None:
        """Whether the percentile is below 1, as it is for one training-like task in a hundred; None where that is."""
        return None if (percentile := self.evidence_percentile) is None else percentile < UNUSUAL_BELOW

    @property
    def families(self) -> Mapping[str, float] | None:
        """Probability of each family of training tasks; None where modes are not known by family."""
        found = self._all.families
        return None if found is None else dict(zip(self.predictor.family_names, found[0].tolist(), strict=True))

    @cached_property
    def _all(self) -> TaskPosteriors:
        return TaskPosteriors(self.predictor, self.adaptation)
