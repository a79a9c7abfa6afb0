"""The modes that a trained learner has found: which tasks each of them takes, and what it expects of a task."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jobs.building.objects import Source
from jobs.evaluation.scores import NOISE_KEY, TEST_SEED
from mcb.learner import ModeConditionalBayesianMAML
from mcb.modes.quality import agreement_with_truth
from mcb.predictive import GaussianMixture
from mcb.types import Support, Task

UNKNOWN = "unknown"
_AT_ONCE = 500  # tasks


class FoundMode(NamedTuple):
    """A mode that at least one task belongs to, which is to say that no other mode has a larger responsibility for it.

    `share` is its mean responsibility over all tasks, `families` the number of its tasks of each true mode, largest
    first, and `typical` the task of its own whose evidence is the median: neither the easiest nor an odd one.
    """

    slot: int
    num_tasks: int
    share: float
    families: Mapping[str, int]
    typical: int


class FoundModes(NamedTuple):
    """All of them, the one with most tasks first; `label` is the slot of each of the first test tasks."""

    modes: list[FoundMode]
    tasks: Task
    label: Int[Tensor, "T"]
    agreement: Mapping[str, float]

    @property
    def typical(self) -> Int[Tensor, "M"]:
        """Which of the tasks are typical, one of each mode."""
        return torch.tensor([mode.typical for mode in self.modes])

    @property
    def slots(self) -> Int[Tensor, "M"]:
        """The modes' slots."""
        return torch.tensor([mode.slot for mode in self.modes])


@torch.no_grad()
def find_modes(learner: ModeConditionalBayesianMAML, source: Source, num_tasks: int) -> FoundModes:
    """The modes of the first `num_tasks` test tasks, told by their support sets."""
    indices = torch.arange(num_tasks)
    tasks = source.sample(TEST_SEED, indices)
    responsibilities, evidence = [], []
    for batch in indices.split(_AT_ONCE):
        adapted = learner.adapt_tasks(
            Support(*(leaf[batch] for leaf in tasks.support)), tasks.mode[batch], learner.noise(NOISE_KEY, batch)
        )
        responsibilities.append(adapted.log_responsibilities.exp())
        evidence.append(adapted.log_evidence)
    shares = torch.cat(responsibilities)
    label = shares.argmax(1)
    chosen = torch.cat(evidence).gather(1, label[:, None])[:, 0]
    modes = [
        _found(slot, label, shares[:, slot], chosen, tasks.mode, source.mode_names) for slot in label.unique().tolist()
    ]
    modes.sort(key=lambda mode: (-mode.num_tasks, mode.slot))
    return FoundModes(modes, tasks, label, agreement_with_truth(label, tasks.mode))


@torch.no_grad()
def prior_predictive(
    learner: ModeConditionalBayesianMAML, slots: Int[Tensor, "M"], x: Float[Tensor, "M G *x"], y_like: Tensor
) -> GaussianMixture:
    """What each mode expects at `x` of a task of its own before any point of it is seen: its posterior given none.

    `y_like` has the targets' form, `(M, S, *y)`.
    """
    nothing = Support(
        torch.zeros_like(x[:, :1]), torch.zeros_like(y_like[:, :1]), torch.zeros(len(x), 1, dtype=torch.bool)
    )
    adapted = learner.adapt_tasks(nothing, slots, learner.noise(NOISE_KEY, slots))
    alone = torch.full_like(adapted.log_responsibilities, -torch.inf)
    alone[torch.arange(len(slots)), slots] = 0.0
    predictive = learner.predict_tasks(adapted._replace(log_responsibilities=alone), x)
    assert isinstance(predictive, GaussianMixture)  # the likelihood that the settings have
    return predictive


def family(source: Source, found: FoundModes, mode: FoundMode) -> str:
    """The true mode of the typical task; empty where it is not known."""
    true_mode = int(found.tasks.mode[mode.typical])
    return source.mode_names[true_mode] if true_mode >= 0 else ""


def _found(
    slot: int, label: Tensor, share: Tensor, evidence: Tensor, mode: Tensor, names: tuple[str, ...]
) -> FoundMode:
    members = (label == slot).nonzero()[:, 0]
    typical = members[evidence[members].argsort()[(len(members) - 1) // 2]]
    counts = {name: int((mode[members] == one).sum()) for one, name in enumerate(names)}
    counts[UNKNOWN] = int((mode[members] < 0).sum())
    families = {name: num for name, num in sorted(counts.items(), key=lambda row: -row[1]) if num}
    return FoundMode(slot, len(members), share.mean().item(), families, int(typical))
