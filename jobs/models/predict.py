"""`mcb predict`: a trained model adapted to the points of one file, and asked at those of another."""

import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from cluster.errors import UserError
from jobs.errors import UsageError
from jobs.models.point_file import Points, read_points
from jobs.models.predict_arguments import PredictOptions
from jobs.models.source import load_predictor
from jobs.runs.folder import require_place, write_json
from mcb.likelihoods import Categorical
from mcb.prediction import Prediction
from mcb.predictor import Predictor
from mcb.task_posteriors import TaskPosterior

_NUM_SHOWN = 3  # modes of the summary


def predict(options: PredictOptions) -> None:
    """Write the predictions, and what else is asked for; raises `UserError` for what does not fit."""
    if not 0 < options.level < 1:
        raise UsageError(f"--level {options.level:g} must lie inside 0..1, such as 0.9")
    for path in (options.out, options.plot, options.json):
        if path is not None:
            require_place(path)
    if options.plot is not None and options.plot.suffix not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--plot {options.plot} must end in .png, .pdf or .svg")
    predictor = load_predictor(options.model, options.tracking_uri)
    has_classes = isinstance(predictor.learner.likelihood, Categorical)
    if options.plot is not None and has_classes:
        raise UsageError("--plot draws numbers, and this model predicts classes: leave it out")
    sizes = (predictor.x_size, 1 if has_classes else predictor.y_size)
    may_miss = not predictor.units.is_identity
    support = read_points(options.support, *sizes, needs_y=True, may_miss=may_miss)
    query = read_points(options.query, *sizes, needs_y=False, may_miss=may_miss)
    assert support.y is not None  # asked for
    post = predictor.adapt(support.x, support.y, family=options.family, seed=options.seed)
    columns = _columns(query, post.predict(query.x), options.level)
    if options.json is not None:
        write_json(options.json, _tree(options, predictor, support, post, columns))
    if options.plot is not None:
        _plot(options.plot, support, query, post)
    print(_summary(predictor, post), file=sys.stderr)
    _write(options.out, columns)


def _columns(query: Points, prediction: Prediction, level: float) -> dict[str, np.ndarray]:
    """What is said of each query point, by the name of its column."""
    columns = dict(zip(query.x_names, query.x.T, strict=True))
    try:
        lower, upper = prediction.interval(level)
    except ValueError:  # classes
        columns |= {f"class_{number}": column for number, column in enumerate(prediction.probabilities.T)}
    else:
        ends = {f"low_{100 * level:g}": lower, f"high_{100 * level:g}": upper}
        for name, values in {"mean": prediction.mean, "scale": prediction.scale, **ends}.items():
            columns |= _by_output(name, values)
    if query.y is not None:
        columns["log_density"] = prediction.log_density(query.y)
    return columns


def _by_output(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    if values.ndim == 1:
        return {name: values}
    return {f"{name}_y{number}": column for number, column in enumerate(values.T, start=1)}


def _write(path: Path | None, columns: Mapping[str, np.ndarray]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow("" if np.isnan(value) else f"{value:.9g}" for value in row)
    if path is None:
        sys.stdout.write(text.getvalue())
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _summary(predictor: Predictor, post: TaskPosterior) -> str:
    """The modes, and how usual the task is, for a person."""
    best = np.argsort(-post.responsibilities)[:_NUM_SHOWN]
    modes = ", ".join(f"{predictor.mode_names[mode]} {100 * post.responsibilities[mode]:.1f} %" for mode in best)
    lines = [f"modes     {modes}{', ...' if predictor.num_modes > _NUM_SHOWN else ''}"]
    if post.families:
        ordered = sorted(post.families.items(), key=lambda row: -row[1])
        lines.insert(0, "families  " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in ordered))
    evidence = f"evidence  {post.log_evidence:.2f} nats, {post.log_evidence_per_point:.2f} per support point"
    percentile = post.evidence_percentile
    if percentile is not None:
        evidence += f": {percentile:.3g} % of training-like tasks have no more"
    lines.append(evidence)
    if post.is_unusual:
        lines.append("unusual   this task is unlike those that the model was trained on: do not trust the intervals")
    return "\n".join(lines)


def _tree(
    options: PredictOptions,
    predictor: Predictor,
    support: Points,
    post: TaskPosterior,
    columns: Mapping[str, np.ndarray],
) -> dict[str, object]:
    rows = [dict(zip(columns, map(_plain, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    shares = zip(predictor.mode_names, post.responsibilities.tolist(), strict=True)
    return {
        "model": options.model,
        "run_id": predictor.run_id,
        "level": options.level,
        "num_support": len(support.x),
        "log_evidence": post.log_evidence,
        "log_evidence_per_point": post.log_evidence_per_point,
        "evidence_percentile": post.evidence_percentile,
        "is_unusual": post.is_unusual,
        "families": None if post.families is None else dict(post.families),
        "modes": [{"mode": name, "probability": share} for name, share in shares],
        "predictions": rows,
    }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _plot(path: Path, support: Points, query: Points, post: TaskPosterior) -> None:
    """Over the range of both files' first inputs; the others stand at their mean over the support points."""
    from mcb.figures.posterior import posterior_predictive  # matplotlib is slow to import
    from mcb.predictive import GaussianMixture
    from mcb.types import Task

    first = np.concatenate([support.x[:, 0], query.x[:, 0]])
    grid = np.repeat(np.nanmean(support.x, axis=0, keepdims=True), 200, axis=0)
    grid[:, 0] = np.linspace(first.min(), first.max(), 200)
    predictive = post.predict(grid).predictive
    assert isinstance(predictive, GaussianMixture) and support.y is not None  # classes were refused
    x, y, new = (torch.from_numpy(values)[None] for values in (support.x, support.y, grid))
    masks = (torch.ones(leaf.shape[:2], dtype=torch.bool) for leaf in (x, new))
    task = Task(x, y, next(masks), new, torch.zeros_like(new[..., :1]), next(masks), torch.tensor([-1]))
    figure = posterior_predictive(predictive, task, new[..., 0], x_label=support.x_names[0])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
