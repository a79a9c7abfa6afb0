"""The refresh of a run's modes: from a survey of the reservoir to the next state, and how good the found modes are."""

import numpy as np
import torch
from torch import Tensor

from cluster.gradient import FlatParameters
from cluster.refresh import Refreshed
from cluster.survey import sample_reservoir, write_state
from jobs.bayes import shipped_reference
from mcb.learner import ModeConditionalBayesianMAML
from mcb.modes.definition import RefreshedModes
from mcb.modes.quality import agreement_with_truth
from mcb.randomness import fold_key
from mcb.tasks.curves import CurveTasks
from mcb.tasks.regression import RegressionFamilies


class Refresher:
    """A pure function of parameters, state and survey, through one learner that it writes them into.

    The metrics are those of the modes themselves, and where true modes are known `ari`, `nmi`, `purity` and `accuracy`
    of the found ones on the reservoir, beside `accuracy_ceiling`, the Bayes-optimal predictor's on the test tasks.
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
        truth = agreement_with_truth(refresh.labels, self._true_modes(len(survey)))
        flat = torch.cat([tensor.reshape(-1) for tensor in refresh.state]).float().numpy()
        return Refreshed(flat, {**refresh.metrics, **truth, **(self._ceiling if truth else {})})

    def _true_modes(self, num_tasks: int) -> Tensor:
        return sample_reservoir(self._source, self._seed, torch.arange(num_tasks)).mode
