"""What came out of a search: the leaderboard, what mattered, figures, and the numbers for scripts."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from jobs.search.importance import importances
from jobs.search.proposals import SecondObjective, objectives, pareto_front
from jobs.search.spaces import Value
from jobs.search.trials import Trial, Trials
from mcb import figures

_NUM_SHOWN = 10
_SECOND_LABEL: Mapping[SecondObjective, str] = {"seconds": "seconds of meta-steps", "num-modes": "codes in use"}


def print_summary(console: Console, trials: Trials, second: SecondObjective | None) -> None:
    """The leaderboard, the settings that mattered, and the Pareto front where there are two objectives."""
    ranked = trials.ranked
    shown = ranked[:_NUM_SHOWN]
    _print_trials(console, f"the best {len(shown)} of {len(trials)} trials, on validation tasks", shown)
    failed = trials.of_state("failed")
    for trial in failed:
        console.print(f"{trial.name} failed: {trial.error}", soft_wrap=True, markup=False)
    if len(ranked) > 1:
        values = [trial.reports[-1].objective for trial in ranked]
        console.print(f"best {values[0]:.4f}, median of all {median(values):.4f} nats per query point")
    shares = _importances(ranked)
    if shares:
        parts = ", ".join(f"{name} {100 * share:.0f} %" for name, share in list(shares.items())[:5])
        console.print(f"what mattered: {parts}", soft_wrap=True)
    if second is not None:
        front = pareto_front(trials.of_state("finished"), second)
        _print_trials(console, f"Pareto front of NLL and {_SECOND_LABEL[second]}", front)


def write_summary(folder: Path, trials: Trials, second: SecondObjective | None) -> None:
    """Leaderboard, importances and figures as files in `folder`; there must be a trial with a report."""
    folder.mkdir(parents=True, exist_ok=True)
    ranked = trials.ranked
    paths = list(dict.fromkeys(path for trial in ranked for path in trial.point))
    with (folder / "leaderboard.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["trial_id", "run_id", "state", "nll", "num_steps", "seconds", "num_modes", *paths])
        for trial in ranked:
            last = trial.reports[-1]
            numbers = [last.objective, last.num_steps, last.seconds, last.num_modes]
            rows.writerow([trial.name, trial.run_id, trial.state, *numbers, *map(trial.point.get, paths)])
    shares = _importances(ranked)
    (folder / "importances.json").write_text(json.dumps(shares, indent=2) + "\n")
    in_order = sorted(ranked, key=lambda trial: trial.number)
    values = [trial.reports[-1].objective for trial in in_order]
    drawn = {
        "history": figures.search_history(values, [trial.state == "finished" for trial in in_order]),
        "parallel_coordinates": figures.parallel_coordinates([trial.point for trial in in_order], values),
    }
    if shares:
        drawn["importances"] = figures.setting_importances(shares)
    finished = trials.of_state("finished")
    if second is not None and finished:
        front = pareto_front(finished, second)
        pairs = [objectives(trial, second) for trial in finished]
        is_on_front = [trial in front for trial in finished]
        drawn["pareto_front"] = figures.pareto_front(
            [pair[0] for pair in pairs], [pair[1] for pair in pairs], is_on_front, _SECOND_LABEL[second]
        )
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png")


def as_tree(trials: Trials, second: SecondObjective | None) -> dict[str, object]:
    """The trials, the best one and the front, as scripts read them."""
    best = trials.best
    tree: dict[str, object] = {
        "best": None if best is None else _row(best),
        "trials": [_row(trial) for trial in trials],
    }
    if second is not None:
        tree["pareto_front"] = [_row(trial) for trial in pareto_front(trials.of_state("finished"), second)]
    return tree


def _row(trial: Trial) -> dict[str, object]:
    row: dict[str, object] = {
        "trial_id": trial.name,
        "run_id": trial.run_id,
        "state": trial.state,
        "params": dict(trial.point),
        "objective": trial.objective,
    }
    if trial.last is not None:
        row |= {name: getattr(trial.last, name) for name in ("num_steps", "seconds", "num_modes")}
    return row | ({"error": trial.error} if trial.error else {})


def _importances(ranked: Sequence[Trial]) -> dict[str, float]:
    return importances([trial.point for trial in ranked], [place for place, _ in enumerate(ranked)])


def _print_trials(console: Console, title: str, trials: Sequence[Trial]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", no_wrap=True)
    for name in ("NLL", "meta-steps", "seconds", "codes"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for trial in trials:
        last = trial.reports[-1]
        numbers = (f"{last.objective:.4f}", f"{last.num_steps:,}", f"{last.seconds:.0f}", f"{last.num_modes}")
        table.add_row(trial.name, *numbers, in_words(trial.point))
    console.print(table)


def in_words(point: Mapping[str, Value]) -> str:
    """A point in a line.

    >>> in_words({"modes.kind": "codebook", "modes.num_modes": 12, "optimizer.learning_rate": 0.00254321})
    'modes codebook, num_modes 12, learning_rate 0.00254'
    """
    parts = []
    for path, value in point.items():
        section, _, name = path.rpartition(".")
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(f"{section} {shown}" if name == "kind" else f"{name} {shown}")
    return ", ".join(parts)
