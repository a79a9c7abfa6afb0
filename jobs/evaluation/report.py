"""Results as tables that a person reads."""

from collections.abc import Mapping
from typing import cast

from rich import box
from rich.console import Console
from rich.table import Table

ROWS = (
    ("nll", "NLL, nats per query point"),
    ("mse", "MSE"),
    ("mse_median", "MSE, median over tasks"),
    ("coverage_50", "50 % intervals cover"),
    ("coverage_90", "90 % intervals cover"),
    ("crps", "CRPS"),
    ("mode_accuracy", "mode accuracy"),
    ("ari", "ARI of codes and modes"),
    ("nmi", "NMI of codes and modes"),
    ("num_codes_used", "codes in use"),
)
_SHARES = ("coverage_50", "coverage_90", "mode_accuracy")
BESIDE_BAYES = {"nll": ("excess_nll", "+ "), "mse": ("mse_ratio", "× ")}
_PLAIN_WIDTH = 110  # where there is no terminal to fit

Figures = Mapping[str, object]


def new_console() -> Console:
    """Standard output; wide enough for the tables where it is a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def print_results(console: Console, figures: Figures, title: str) -> None:
    """The figures of an evaluation; beside the Bayes-optimal predictor or the baselines where there are any."""
    console.print()
    _print_summary(console, figures, title)
    _print_modes(console, cast(Mapping[str, Figures], figures["modes"]))
    if "baselines" in figures:
        _print_baselines(console, figures)


def with_half_width(figures: Figures, name: str) -> str:
    """`0.623 ± 0.004`, shares in per cent, counts as they are; empty where there is no such figure.

    >>> with_half_width({"nll": 0.6231, "nll_ci": 0.004}, "nll"), with_half_width({"coverage_50": 0.5}, "coverage_50")
    ('0.623 ± 0.004', '50.0 %')
    """
    if name not in figures:
        return ""
    value, half_width = cast("int | float", figures[name]), cast("float | None", figures.get(f"{name}_ci"))
    if isinstance(value, int):
        return f"{value:,}"
    scale, unit, digits = (100, " %", 1) if name in _SHARES else (1, "", 3)
    spread = "" if half_width is None else f" ± {scale * half_width:.{digits}f}"
    return f"{scale * value:.{digits}f}{spread}{unit}"


def _print_summary(console: Console, figures: Figures, title: str) -> None:
    bayes = cast(Figures, figures.get("bayes", {}))
    table = _table(f"{title}, on the test tasks")
    table.add_column(f"{cast(int, figures['num_tasks']):,} tasks", justify="right")
    if bayes:
        num_paired = f"{cast(int, bayes['num_tasks']):,} tasks"
        table.add_column(f"Bayes-optimal, {num_paired}", justify="right")
        table.add_column("the run against it", justify="right")
    for name, label in ROWS:
        paired, sign = BESIDE_BAYES.get(name, ("", ""))
        beside = [with_half_width(bayes, name), paired and sign + with_half_width(figures, paired)] if bayes else []
        table.add_row(label, with_half_width(figures, name), *beside)
    console.print(table)


def _print_modes(console: Console, rows: Mapping[str, Figures]) -> None:
    table = _table("by true mode")
    columns = {"NLL": "nll", "MSE": "mse", "median MSE": "mse_median", "mode accuracy": "mode_accuracy"}
    for label in columns:
        table.add_column(label, justify="right")
    for mode, row in rows.items():
        table.add_row(mode, *(with_half_width(row, name) for name in columns.values()))
    console.print(table)


def _print_baselines(console: Console, figures: Figures) -> None:
    """The learner and the baselines: pooled, families weighted equally, and the NLL of every family."""
    families = {"this run": figures["families"], **cast(Figures, figures["baselines"])}
    rows_of = cast(Mapping[str, Mapping[str, Figures]], families)
    table = _table("pooled, families weighted equally")
    for label in ("RMSE, standardised", "NLL, nats", "50 % intervals cover", "90 % intervals cover"):
        table.add_column(label, justify="right")
    for name, rows in rows_of.items():
        columns = ("rmse", "nll", "coverage_50", "coverage_90")
        table.add_row(name, *(with_half_width(rows["pooled"], column) for column in columns))
    console.print(table)
    table = _table("NLL by family")
    for name in rows_of:
        table.add_column(name, justify="right")
    for family in rows_of["this run"]:
        table.add_row(family, *(f"{cast(float, rows[family]['nll']):.3f}" for rows in rows_of.values()))
    console.print(table)


def _table(title: str) -> Table:
    """A quiet table whose first column names the row."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    return table
