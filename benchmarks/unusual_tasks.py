"""Are tasks of families that a model was never trained on seen to be unusual?

`python benchmarks/unusual_tasks.py MODEL` takes a trained five-mode model, prints a table and writes
`benchmarks/results/unusual-tasks-DATE.json`: for support sets of several sizes, the share of fresh training-like tasks
that are called unusual (1 % by construction), and for each new family that share and the area under the ROC curve of
the evidence percentile, new family against training-like tasks. The rows `mixed` draw the size of every support set at
random: there the percentile, which is calibrated for the size, is set beside the plain log evidence, in all and per
point, which are not: `false_alarms_*` says how many training-like tasks of few (3 to 5) and of many (16 to 20) points
fall below a threshold that one in a hundred of all falls below. All tasks have the noise of training.
"""

import argparse
import math
from collections.abc import Callable

import torch
from machine import machine, write
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from torch import Tensor

from jobs.models.source import load_predictor
from mcb.predictor import Predictor
from mcb.randomness import fold_key, normals, uniforms
from mcb.task_posteriors import TaskPosteriors
from mcb.tasks.regression import X_HIGH, X_LOW, RegressionFamilies

SEED = fold_key(0, "unusual")
SIZES = (3, 5, 10, 20)
NOISE_SCALE = 0.3
Curve = Callable[[Tensor, Tensor], Tensor]  # points (T, S), levels (T, 3) in (0, 1) -> (T, S)


def between(low: float, high: float, level: Tensor) -> Tensor:
    return (low + (high - low) * level)[:, None]


def square_wave(x: Tensor, level: Tensor) -> Tensor:
    height, half_period = between(1, 4, level[:, 0]), between(1, 3, level[:, 1])
    return height * torch.where(((x / half_period + 2 * level[:, 2:]) % 2) < 1, 1.0, -1.0)


def exponential_growth(x: Tensor, level: Tensor) -> Tensor:
    return between(0.2, 1.0, level[:, 0]) * (between(0.3, 0.8, level[:, 1]) * x).exp() - between(0, 4, level[:, 2])


def fast_sinusoid(x: Tensor, level: Tensor) -> Tensor:
    return between(1, 5, level[:, 0]) * (between(2, 4, level[:, 1]) * x + 2 * math.pi * level[:, 2:]).sin()


def cubic(x: Tensor, level: Tensor) -> Tensor:
    scale, centre = between(0.05, 0.2, level[:, 0]), between(-2, 2, level[:, 1])
    return scale * (x - centre) ** 3 - between(-3, 3, level[:, 2])


NEW: dict[str, Curve] = {
    "square wave": square_wave,
    "exponential growth": exponential_growth,
    "fast sinusoid": fast_sinusoid,
    "cubic": cubic,
}


def new_tasks(name: str, num_tasks: int, num_support: int) -> tuple[Tensor, Tensor]:
    """X and y of tasks of a new family."""
    rows = torch.arange(num_tasks)
    x = X_LOW + (X_HIGH - X_LOW) * uniforms(fold_key(SEED, name, "x"), rows, num_support)
    y = NEW[name](x, uniforms(fold_key(SEED, name, "parameters"), rows, 3))
    return x, y + NOISE_SCALE * normals(fold_key(SEED, name, "noise"), rows, num_support)


def training_like(num_tasks: int, num_support: int) -> tuple[Tensor, Tensor]:
    """X and y of tasks of the five families, in equal numbers."""
    tasks = RegressionFamilies.five_modes(num_support, 1).sample(SEED, torch.arange(num_tasks))
    return tasks.support_x[..., 0], tasks.support_y[..., 0]


def area(usual: Tensor, unusual: Tensor) -> tuple[float, float]:
    """Under the ROC curve of scores that are low where a task is unusual; 95 % half-width (Hanley & McNeil 1982)."""
    labels = torch.cat([torch.zeros(len(usual)), torch.ones(len(unusual))])
    a = float(roc_auc_score(labels, -torch.cat([usual, unusual])))
    one_sided = (len(unusual) - 1) * (a / (2 - a) - a * a) + (len(usual) - 1) * (2 * a * a / (1 + a) - a * a)
    return a, 1.96 * math.sqrt((a * (1 - a) + one_sided) / (len(usual) * len(unusual)))


def percentiles(posts: TaskPosteriors) -> Tensor:
    found = posts.evidence_percentile
    assert found is not None
    return torch.from_numpy(found)


def of_one_size(predictor: Predictor, num_support: int, num_tasks: int) -> list[dict[str, str | float | int]]:
    """A row for the training-like tasks, and one for each new family."""
    usual = percentiles(predictor.adapt_many(*training_like(num_tasks, num_support)))
    called = {"training-like": usual}
    called |= {name: percentiles(predictor.adapt_many(*new_tasks(name, num_tasks, num_support))) for name in NEW}
    rows = []
    for name, found in called.items():
        share = (found < 1).double().mean().item()
        half_width = 1.96 * math.sqrt(share * (1 - share) / num_tasks)
        row = {"num_support": num_support, "family": name, "called_unusual": share, "called_unusual_ci": half_width}
        if name != "training-like":
            row["auroc"], row["auroc_ci"] = area(usual, found)
        rows.append(row)
    return rows


def of_mixed_sizes(predictor: Predictor, num_tasks: int) -> list[dict[str, str | float | int]]:
    """Support sets of 3 to 20 points: the percentile beside the evidence that is not calibrated for their number."""
    sizes = (3 + 18 * uniforms(fold_key(SEED, "sizes"), torch.arange(num_tasks), 1)[:, 0]).long().tolist()

    def adapted(x: Tensor, y: Tensor) -> TaskPosteriors:
        cut = [(x[row, :size], y[row, :size]) for row, size in enumerate(sizes)]
        return predictor.adapt_many([x for x, _ in cut], [y for _, y in cut])

    usual = adapted(*training_like(num_tasks, max(sizes)))
    rows: list[dict[str, str | float | int]] = [false_alarms(usual, torch.tensor(sizes))]
    for name in NEW:
        posts = adapted(*new_tasks(name, num_tasks, max(sizes)))
        row: dict[str, str | float | int] = {"num_support": "mixed", "family": name}
        row["auroc"], row["auroc_ci"] = area(percentiles(usual), percentiles(posts))
        for what in ("log_evidence", "log_evidence_per_point"):
            scores = (torch.from_numpy(getattr(one, what)) for one in (usual, posts))
            row[f"auroc_{what}"], row[f"auroc_{what}_ci"] = area(*scores)
        rows.append(row)
    return rows


def false_alarms(usual: TaskPosteriors, sizes: Tensor) -> dict[str, str | float | int]:
    """Among training-like tasks of few and of many points, by a threshold that one in a hundred of all falls below."""
    row: dict[str, str | float | int] = {"num_support": "mixed", "family": "training-like"}
    for what in ("evidence_percentile", "log_evidence", "log_evidence_per_point"):
        scores = torch.from_numpy(getattr(usual, what))
        called = scores <= scores.quantile(0.01)
        for which, rows in {"few": sizes <= 5, "many": sizes >= 16}.items():
            row[f"false_alarms_{what}_{which}"] = called[rows].double().mean().item()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument(
        "model", help="a trained five-mode model: a run's folder, a checkpoint, runs:/... or models:/..."
    )
    parser.add_argument("--num-tasks", type=int, default=2000, help="of each kind")
    arguments = parser.parse_args()
    before = machine()
    torch.set_num_threads(1)
    predictor = load_predictor(arguments.model)
    rows = [row for size in SIZES for row in of_one_size(predictor, size, arguments.num_tasks)]
    rows += of_mixed_sizes(predictor, arguments.num_tasks)
    model = {"settings": predictor.settings, "num_tasks": arguments.num_tasks}
    path = write("unusual-tasks", {"idle_before": before, **model, "rows": rows})
    show(rows)
    print(f"written to {path}")


def show(rows: list[dict[str, str | float | int]]) -> None:
    table = Table("support points", "family", "called unusual", "AUROC", "AUROC of plain evidence", "per point")
    for row in rows:
        shown = [f"{100 * float(row['called_unusual']):.1f} %" if "called_unusual" in row else ""]
        shown += [
            f"{row[name]:.3f} ± {row[f'{name}_ci']:.3f}" if name in row else ""
            for name in ("auroc", "auroc_log_evidence", "auroc_log_evidence_per_point")
        ]
        table.add_row(str(row["num_support"]), str(row["family"]), *shown)
    Console(width=110).print(table)
    for name, value in next(row for row in rows if row["num_support"] == "mixed").items():
        if name.startswith("false_alarms"):
            print(f"{name}: {100 * float(value):.1f} %")


if __name__ == "__main__":
    main()
