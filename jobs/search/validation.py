"""How good a checkpoint is on validation tasks, which are neither training nor test tasks."""

import math
from typing import NamedTuple

import torch

from cluster.checkpoint import Checkpoint
from cluster.errors import UserError
from jobs.building.objects import build_source
from jobs.evaluation.evaluate import trained_learner
from jobs.settings.tree import Settings
from mcb.metrics import score
from mcb.randomness import fold_key
from mcb.tasks.curves import CurveTasks

VALIDATION_SEED = fold_key(0, "validation")
NOISE_KEY = fold_key(0, "validation", "noise")


class Validated(NamedTuple):
    """NLL in nats per query point, a mean over tasks, and the number of codes that are some task's likeliest."""

    nll: float
    num_modes: int


class Validation:
    """`num_tasks` tasks of a stream of their own, the same for every trial; of measured curves, all held out for this.

    Raises ValueError where the source of tasks does not fit the settings.
    """

    def __init__(self, settings: Settings, num_tasks: int) -> None:
        self._settings = settings
        self._source = build_source(settings, "validation")
        source = self._source
        indices = source.every_task() if isinstance(source, CurveTasks) else torch.arange(num_tasks)
        self._batches = indices.split(settings.evaluation.batch_size)

    @torch.no_grad()
    def __call__(self, checkpoint: Checkpoint) -> Validated:
        """Score a checkpoint's parameters; raises `UserError` where the NLL is not finite."""
        learner = trained_learner(self._settings, checkpoint)
        nll, codes, num_tasks = 0.0, set[int](), 0
        for indices in self._batches:
            tasks = self._source.sample(VALIDATION_SEED, indices)
            prediction = learner(tasks, learner.noise(NOISE_KEY, indices))
            scores = score(prediction.predictive, tasks, prediction.responsibilities)
            nll += scores.nll.double().sum().item()
            codes |= set(scores.code.tolist())
            num_tasks += len(indices)
        if not math.isfinite(nll):
            raise UserError(f"the validation NLL after meta-step {checkpoint.version} is {nll}: the trial diverged")
        return Validated(nll / num_tasks, len(codes))
