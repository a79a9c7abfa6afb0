"""The refresh of a run's modes: from a survey of the reservoir to the next state, and how good the found modes are."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cluster.gradient import FlatParameters
from cluster.refresh import Refreshed
from cluster.survey import RESERVOIR, sample_reservoir, write_state
from jobs.building.bayes import shipped_reference
from jobs.building.statistics import support_statistics
from mcb.learner import ModeConditionalBayesianMAML
from mcb.modes.clustering import standardised
from mcb.modes.definition import RefreshedModes
from mcb.modes.quality import agreement_with_truth, silhouette
from mcb.randomness import fold_key
from mcb.tasks.curves import CurveTasks
from mcb.tasks.regression import RegressionFamilies


class Refresher:
    """A pure function of parameters, state and survey, through one learner that it writes them into.

    All refreshes of a run draw from the same seed, so that clusters move with the tasks alone. The metrics are those of
    the modes themselves, with the silhouette in the tasks' support statistics where these were not clustered, and where
    true modes are known `ari`, `nmi`, `purity` and `accuracy` of the found ones on the reservoir, beside
    `accuracy_ceiling`, the Bayes-optimal predictor's on the test tasks.
    """

    def __init__(
        self, learner: ModeConditionalBayesianMAML, source: RegressionFamilies | CurveTasks, seed: int
    ) -> None:
        self._learner, self._source, self._seed = learner, source, seed
        self._flat = FlatParameters(learner)
        reference = shipped_reference(source)
        self._ceiling = {} if reference is None else {"accuracy_ceiling": reference.correct.double().mean().item()}

    def __call__(self, version: int, parameters: np.ndarray, state: np.ndarray, survey: np.ndarray) -> Refreshed:
        """The state after the survey of meta-step `version`, made at `parameters` and `state`."""
        modes = self._learner.modes
        assert isinstance(modes, RefreshedModes)  # others have no plan of refreshes
        self._flat.write(parameters)
        write_state(self._learner, state)
        with torch.no_grad():
            refresh = modes.refresh(torch.from_numpy(np.array(survey)), fold_key(self._seed, "refresh"))
        metrics = {**refresh.metrics, **self._beside(refresh.labels, "silhouette" not in refresh.metrics)}
        flat = torch.cat([tensor.reshape(-1) for tensor in refresh.state]).float().numpy()
        return Refreshed(flat, metrics)

    def _beside(self, labels: Int[Tensor, "N"], needs_silhouette: bool) -> dict[str, float]:
        """What the modes cannot know of the reservoir that they were found in."""
        indices = torch.arange(len(labels))
        truth = agreement_with_truth(labels, sample_reservoir(self._source, self._seed, indices).mode)
        if needs_silhouette:
            points = support_statistics(self._source, fold_key(self._seed, RESERVOIR), indices)
            truth["silhouette"] = silhouette(standardised(points.double().numpy()), labels.numpy())
        return truth | (self._ceiling if "accuracy" in truth else {})
