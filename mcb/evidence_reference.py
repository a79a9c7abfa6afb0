"""How well training-like tasks are explained, which says whether a new task is unlike all of them."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcb.randomness import fold_key
from mcb.serving import ServedLearner, tasks_at_once
from mcb.types import Support, Task

DrawTasks = Callable[[int, int], Task | None]  # (support points, tasks) -> tasks of the training kind, if there are any

NOISE_KEY = fold_key(0, "reference", "noise")
_NUM_TASKS, _FEWEST_TASKS = 1999, 199  # with these, percentiles are multiples of 1/20 and 1/2
_MOST_POINTS = 20_000  # support points of one reference in all, unless the fewest tasks have more
_AT_ONCE = 250  # tasks


class EvidenceReference:
    r"""Log evidences of tasks of the training kind, drawn anew for every number of support points that is asked about.

    The evidence of a task is a sum over its support points, and how it varies depends on their number too, so a task is
    compared with reference tasks of as many points. Its percentile is $100\,(1 + \#\{e_i \le e\}) / (n + 1)$, the
    conformal p-value (Bates et al. 2023, "Testing for outliers with conformal p-values") in per cent: a new task of the
    training kind has a percentile of at most $q$ with probability at most $q / 100$, whatever the evidence's
    distribution. `draw` must be a pure function; then so are percentiles, of the learner and of it.
    """

    def __init__(self, learner: ServedLearner, draw: DrawTasks) -> None:
        self._learner, self._draw = learner, draw
        self._sorted: dict[int, Tensor] = {}

    def percentiles(self, log_marginal: Float[Tensor, "T"], num_support: Int[Tensor, "T"]) -> Float[Tensor, "T"]:
        """Of tasks' evidences in the learner's units, 0..100; NaN where there are no tasks of as many points."""
        found = torch.empty(len(log_marginal), dtype=torch.float64)
        for count in num_support.unique().tolist():
            rows = num_support == count
            reference = self.evidences(count)
            below = torch.searchsorted(reference, log_marginal[rows].to(reference), right=True)
            found[rows] = 100 * (1 + below).double() / (len(reference) + 1) if len(reference) else torch.nan
        return found

    def evidences(self, num_support: int) -> Float[Tensor, "N"]:
        """Of the reference tasks with that many support points, ascending, in nats; none where there are none."""
        if num_support not in self._sorted:
            num_tasks = max(_FEWEST_TASKS, min(_NUM_TASKS, _MOST_POINTS // num_support))
            tasks = self._draw(num_support, num_tasks)
            self._sorted[num_support] = torch.empty(0) if tasks is None else self._adapt(tasks)[0].sort().values
        return self._sorted[num_support]

    def families_of_modes(self, num_support: int, num_families: int) -> Float[Tensor, "K F"]:
        """The probability of each family given that a mode is responsible, as often as that was so in reference tasks.

        A mode that none of them belongs to has equal probabilities. Raises ValueError where there are no such tasks.
        """
        tasks = self._draw(num_support, _NUM_TASKS)
        if tasks is None:
            raise ValueError(f"there is no task of the training kind with {num_support} support points")
        _, responsibilities = self._adapt(tasks)
        usage = responsibilities.mT.double() @ torch.nn.functional.one_hot(tasks.mode, num_families).double()
        usage += torch.finfo(torch.float32).eps
        return usage / usage.sum(1, keepdim=True)

    @torch.no_grad()
    def _adapt(self, tasks: Task) -> tuple[Float[Tensor, "N"], Float[Tensor, "N K"]]:
        """Log evidences and responsibilities."""
        evidences, responsibilities = [], []
        at_once = tasks_at_once(_AT_ONCE, tasks.support_x.shape[1])
        for rows in torch.arange(len(tasks.mode)).split(at_once):
            support = Support(*(leaf[rows] for leaf in tasks.support))
            adapted = self._learner.adapt_tasks(support, tasks.mode[rows], self._learner.learner.noise(NOISE_KEY, rows))
            evidences.append(adapted.log_marginal)
            responsibilities.append(adapted.log_responsibilities.exp())
        return torch.cat(evidences), torch.cat(responsibilities)
