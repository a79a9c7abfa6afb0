"""Tasks as a table, a row for each point: what a caller of a served model sends, and the rows that come back."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from mcb.prediction import Prediction
from mcb.predictor import Predictor

from cluster.errors import UserError
from jobs.task_columns import FAMILY, QUERY, SET, SUPPORT, TASK, numbered
from mcb.likelihoods import Categorical


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
    index, rows = rows.index, rows.reset_index(drop=True)
    inputs, targets = numbered("x", predictor.x_size), _targets(predictor)
    _require_columns(rows, [SET, *inputs, *targets])
    is_query = _is_query(rows)
    _require_numbers(rows, inputs if predictor.units.is_identity else inputs[:1])
    _require_numbers(rows[~is_query], targets)
    names = rows[TASK] if TASK in rows else pd.Series(0, index=rows.index)
    group, distinct = pd.factorize(names, use_na_sentinel=False)
    support = [rows[(group == number) & ~is_query] for number in range(len(distinct))]
    query = [rows[(group == number) & is_query] for number in range(len(distinct))]
    _require_support(support, query, distinct, targets[0])
    asked = [number for number, points in enumerate(query) if len(points)]
    posteriors = predictor.adapt_many(
        [_values(support[number], inputs) for number in asked],
        [_values(support[number], targets) for number in asked],
        family=_families([support[number] for number in asked], distinct[asked]) if FAMILY in rows else None,
    )
    predicted = posteriors.predict([_values(query[number], inputs) for number in asked])
    order = pd.concat([query[number] for number in asked]).index
    task_of = np.repeat(np.arange(len(asked)), [len(query[number]) for number in asked])
    mode = posteriors.responsibilities.argmax(1)
    unusual = posteriors.is_unusual
    columns = {TASK: names[order].to_numpy()} if TASK in rows else {}
    columns |= _predicted(predicted, level, targets, isinstance(predictor.learner.likelihood, Categorical))
    columns["mode"] = np.array([predictor.mode_names[number] for number in mode], dtype=object)[task_of]
    columns["mode_probability"] = posteriors.responsibilities.max(1)[task_of]
    columns["unusual"] = np.full(len(order), None) if unusual is None else np.asarray(unusual)[task_of]
    answers = pd.DataFrame(columns, index=order).sort_index()
    return answers.set_axis(index[answers.index])


def _targets(predictor: Predictor) -> list[str]:
    """Columns of the targets; a class is one."""
    return numbered("y", 1 if isinstance(predictor.learner.likelihood, Categorical) else predictor.y_size)


def _predicted(predicted: Prediction, level: float, targets: Sequence[str], is_class: bool) -> dict[str, np.ndarray]:
    """The columns of the predictive, a row for each query point of one task after the other."""
    present = predicted.present.numpy()
    if is_class:
        probabilities = predicted.probabilities[present]
        each = {f"probability_{number}": column for number, column in enumerate(probabilities.T)}
        return {"class": probabilities.argmax(1), **each}
    lower, upper = predicted.interval(level)
    columns: dict[str, np.ndarray] = {}
    for name, values in (("mean", predicted.mean), ("lower", lower), ("upper", upper)):
        flat = values[present].reshape(present.sum(), len(targets))
        columns |= dict(zip(numbered(name, len(targets)), flat.T, strict=True))
    return columns


def _require_columns(rows: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in rows]
    if missing:
        raise UserError(f"there is no column {', '.join(missing)}: give a row for each point with {', '.join(names)}")


def _is_query(rows: pd.DataFrame) -> pd.Series:
    known = rows[SET].isin([SUPPORT, QUERY])
    if not known.all():
        row = int((~known).to_numpy().argmax())
        raise UserError(f"{SET}={rows[SET][row]} in row {row} must be {SUPPORT} or {QUERY}")
    if not (is_query := rows[SET] == QUERY).any():
        raise UserError(f"no row has {SET}={QUERY}: there is nothing to predict")
    return is_query


def _require_numbers(rows: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        values = pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=float)
        if not (finite := np.isfinite(values)).all():
            row = rows.index[int((~finite).argmax())]
            raise UserError(f"{name}={rows[name][row]} in row {row} must be a finite number")


def _require_support(
    support: Sequence[pd.DataFrame], query: Sequence[pd.DataFrame], names: Sequence, target: str
) -> None:
    for points, asked, name in zip(support, query, names, strict=True):
        if points.empty and not asked.empty:
            raise UserError(f"task {name} has no row with {SET}={SUPPORT}: give at least one, with its {target}")


def _values(rows: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    return rows[list(names)].to_numpy(dtype=float, copy=True)


def _families(support: Sequence[pd.DataFrame], names: Sequence) -> list[str] | None:
    """The family of each task; None where none is named."""
    found = [points[FAMILY].dropna().unique() for points in support]
    if not any(len(one) for one in found):
        return None
    for name, one in zip(names, found, strict=True):
        if len(one) != 1:
            raise UserError(f"task {name} names {len(one)} families in its support rows: name one, or none at all")
    return [str(one[0]) for one in found]
