"""Tasks as a table, a row for each point: what a caller of a served model sends, and the rows that come back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from cluster.errors import UserError
from jobs.models.task_columns import FAMILY, QUERY, SET, SUPPORT, TASK, numbered
from mcb.likelihoods import Categorical
from mcb.prediction import Prediction
from mcb.predictive import CategoricalMixture
from mcb.predictor import Predictor
from mcb.task_posteriors import UNUSUAL_BELOW, TaskPosteriors


class _Points(NamedTuple):
    """The columns of a table; `task` counts the tasks in the order of their first rows."""

    task: Int[np.ndarray, "N"]
    is_query: Bool[np.ndarray, "N"]
    x: Float[np.ndarray, "N X"]
    y: Float[np.ndarray, "N Y"]


def answer(predictor: Predictor, rows: pd.DataFrame, level: float = 0.9) -> pd.DataFrame:
    """Adapts to each task's support rows and predicts its query rows, which come back in their order, by their index.

    Columns of `rows`: `task` (any values; without it all is one task), `set` ("support" or "query"), the inputs, and
    the targets, which are not read in query rows; `family`, where values have the units of a family that is known. Of
    the answer: `task` where it was given; for numbers `mean`, `lower` and `upper`, the ends of the central interval of
    probability `level`, for classes `class` and the probability of each; `mode`, the task's most probable mode, with
    its `mode_probability`; `unusual`, whether the task is unlike those of the training, None where that is not known.

    Raises:
        UserError: a column is missing, a value is not what it must be, or a task has no support row.
    """
    if not 0 < level < 1:
        raise UserError(f"level={level:g} must lie inside (0, 1): 0.9 stands for 90 %")
    points, names = _read(predictor, rows)
    asked = np.unique(points.task[points.is_query])
    support = [np.flatnonzero((points.task == task) & ~points.is_query) for task in asked]
    query = [np.flatnonzero((points.task == task) & points.is_query) for task in asked]
    for task, members in zip(asked, support, strict=True):
        if not len(members):
            raise UserError(f"task {names[task]} has no row with {SET}={SUPPORT}: give at least one, with its targets")
    posteriors = predictor.adapt_many(
        [points.x[members] for members in support],
        [points.y[members] for members in support],
        family=_families(rows, support, names[asked]),
    )
    predicted = posteriors.predict([points.x[members] for members in query])
    order, one = np.concatenate(query), np.repeat(np.arange(len(asked)), [len(members) for members in query])
    mode, unusual = posteriors.responsibilities.argmax(1), _unusual(posteriors)
    columns: dict[str, Any] = {TASK: names[asked][one]} if TASK in rows.columns else {}
    columns |= _predicted(predicted, level)
    columns["mode"] = np.array([predictor.mode_names[number] for number in mode], dtype=object)[one]
    columns["mode_probability"] = posteriors.responsibilities.max(1)[one]
    columns["unusual"] = unusual[one]
    by_row = np.argsort(order)
    answers = {name: column[by_row] for name, column in columns.items()}
    return pd.DataFrame(answers, index=rows.index[order[by_row]])


def _read(predictor: Predictor, rows: pd.DataFrame) -> tuple[_Points, Shaped[np.ndarray, "T"]]:
    """The points, checked, and the names of the tasks."""
    is_class = isinstance(predictor.learner.likelihood, Categorical)
    inputs, targets = numbered("x", predictor.x_size), numbered("y", 1 if is_class else predictor.y_size)
    missing = [name for name in (SET, *inputs, *targets) if name not in rows.columns]
    if missing:
        wanted = ", ".join((SET, *inputs, *targets))
        raise UserError(f"there is no column {', '.join(missing)}: give a row for each point, with {wanted}")
    kind = np.asarray(rows[SET], dtype=object)
    if (wrong := ~np.isin(kind, (SUPPORT, QUERY))).any():
        row = int(wrong.argmax())
        raise UserError(f"{SET}={kind[row]} in row {row} must be {SUPPORT} or {QUERY}")
    is_query = kind == QUERY
    if not is_query.any():
        raise UserError(f"no row has {SET}={QUERY}: there is nothing to predict")
    every = np.ones(len(rows), dtype=bool)
    may_miss = () if predictor.units.is_identity else inputs[1:]
    x = [_numbers(rows, name, every & (name not in may_miss)) for name in inputs]
    y = [_numbers(rows, name, ~is_query) for name in targets]
    given = np.asarray(rows[TASK], dtype=object) if TASK in rows.columns else np.zeros(len(rows), dtype=object)
    task, names = pd.factorize(given, use_na_sentinel=False)
    return _Points(task, is_query, np.stack(x, axis=1), np.stack(y, axis=1)), np.asarray(names, dtype=object)


def _numbers(rows: pd.DataFrame, name: str, needed: Bool[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """A column as float64; raises `UserError` where one that is needed is not finite."""
    try:
        values = np.array(rows[name], dtype=float)  # a copy: a table's own memory may not be written to
    except (TypeError, ValueError) as error:
        raise UserError(f"column {name} must hold numbers: {error}") from error
    if (wrong := needed & ~np.isfinite(values)).any():
        row = int(wrong.argmax())
        raise UserError(f"{name}={values[row]} in row {row} must be a finite number")
    return values


def _predicted(predicted: Prediction, level: float) -> dict[str, Shaped[np.ndarray, "N"]]:
    """The columns of the predictive, one task's query points after the other's."""
    present = predicted.present.numpy()
    if isinstance(predicted.predictive, CategoricalMixture):
        probabilities = predicted.probabilities[present]
        each = {f"probability_{number}": column for number, column in enumerate(probabilities.T)}
        return {"class": probabilities.argmax(1), **each}
    lower, upper = predicted.interval(level)
    columns: dict[str, np.ndarray] = {}
    for name, values in (("mean", predicted.mean), ("lower", lower), ("upper", upper)):
        flat = values[present].reshape(int(present.sum()), -1)
        columns |= dict(zip(numbered(name, flat.shape[1]), flat.T, strict=True))
    return columns


def _unusual(posteriors: TaskPosteriors) -> Shaped[np.ndarray, "T"]:
    """True, False, or None where it cannot be known."""
    percentile = posteriors.evidence_percentile
    if percentile is None:
        return np.full(len(posteriors.responsibilities), None)
    found = (percentile < UNUSUAL_BELOW).astype(object)
    found[np.isnan(percentile)] = None
    return found


def _families(rows: pd.DataFrame, support: Sequence[np.ndarray], names: np.ndarray) -> list[str] | None:
    """The family of each task; None where none is named."""
    column = np.asarray(rows[FAMILY] if FAMILY in rows.columns else [], dtype=object)
    if pd.isna(column).all():
        return None
    found = [pd.unique(column[members]) for members in support]
    for name, one in zip(names, found, strict=True):
        if len(one) != 1 or pd.isna(one[0]):
            raise UserError(f"task {name} must name one family in all its support rows, as all tasks, or none at all")
    return [str(one[0]) for one in found]
