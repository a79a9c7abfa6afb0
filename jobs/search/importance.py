"""Which settings mattered in a search."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from jobs.search.spaces import Value

_NUM_TREES, _NUM_REPEATS = 100, 5
_FEWEST_TRIALS = 4


def importances(points: Sequence[Mapping[str, Value]], objective: Sequence[float]) -> dict[str, float]:
    """Each varied setting's share of what a random forest explains by them, from 0 to 1, the largest first.

    The forest predicts the objective's rank, so that one trial that went wrong does not count for all. A setting's
    importance is how much worse the prediction gets when its values are shuffled among the trials (Breiman 2001,
    "Random forests"); "not asked about" is a value like any other, so that settings of some trials alone count too.
    Settings with one value are left out. Empty for fewer than four trials, or where no setting explains anything.
    """
    asked = dict.fromkeys(name for point in points for name in point)
    names = [name for name in asked if len({repr(point[name]) for point in points if name in point}) > 1]
    if len(points) < _FEWEST_TRIALS or not names:
        return {}
    table = np.array([[_values(points, name)[repr(point.get(name))] for name in names] for point in points])
    ranks = np.argsort(np.argsort(objective)).astype(float)
    forest = RandomForestRegressor(_NUM_TREES, random_state=0, n_jobs=1).fit(table, ranks)
    worse = permutation_importance(forest, table, ranks, n_repeats=_NUM_REPEATS, random_state=0, n_jobs=1)
    gains = np.asarray(cast(Mapping, worse)["importances_mean"]).clip(min=0)
    if not gains.sum():
        return {}
    shares = zip(names, (gains / gains.sum()).tolist(), strict=True)
    return dict(sorted(shares, key=lambda item: -item[1]))


def _values(points: Sequence[Mapping[str, Value]], name: str) -> dict[str, float]:
    """A number for every value of a setting: numbers in order, names by alphabet, the missing one first."""
    values = {repr(point.get(name)): point.get(name) for point in points}
    present = [key for key in values if values[key] is not None]
    if all(isinstance(values[key], (int, float)) for key in present):
        present.sort(key=lambda key: float(str(values[key])))
    else:
        present.sort()
    return {key: float(place) for place, key in enumerate(["None"] * ("None" in values) + present)}
