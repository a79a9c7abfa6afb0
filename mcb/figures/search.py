"""Figures of a search over settings: how it went, what mattered, which settings went with which objective."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mcb.figures.style import ACCENT, COLUMN_WIDTH, GREY, INK, PAGE_WIDTH, PRIMARY, TICK_SIZE, finish, new_figure

Setting = str | int | float | bool | None

_GOOD_TO_BAD = LinearSegmentedColormap.from_list("good to bad", ["#00304D", "#0072B2", "#9CC9E8", "#DDDDDD"])
_ABSENT = "–"
_SHOWN = 0.75  # of the trials whose objective is told apart: one that went wrong must not flatten the others
_LARGEST_RATIO = 20.0  # of positive numbers, above which their axis is logarithmic


def search_history(objective: Sequence[float], is_whole: Sequence[bool]) -> Figure:
    """Objective of every trial in order, and the best so far among those that were not stopped early.

    Stopped trials that are worse than most lie on the upper edge.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    if not objective or len(objective) != len(is_whole):
        raise ValueError(f"len(objective)={len(objective)} and len(is_whole)={len(is_whole)} must be equal, at least 1")
    values, whole = np.asarray(objective, dtype=float), np.asarray(is_whole, dtype=bool)
    top = max(np.quantile(values, _SHOWN), values[whole].max(initial=-math.inf))
    values, order = values.clip(max=top), np.arange(len(values))
    figure = new_figure(COLUMN_WIDTH, 2.3)
    axes = figure.subplots()
    axes.scatter(order[~whole], values[~whole], s=12, color=GREY, marker="x", linewidths=0.8, label="stopped early")
    axes.scatter(order[whole], values[whole], s=14, color=PRIMARY, linewidths=0, label="finished")
    best = np.minimum.accumulate(np.where(whole, values, math.inf))
    seen = np.isfinite(best)
    axes.step(order[seen], best[seen], where="post", color=ACCENT, linewidth=1.2, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.legend(fontsize=TICK_SIZE, loc="upper right", labelcolor=INK, edgecolor="none", framealpha=0.9)
    finish(axes, "", "trial", "validation NLL, nats per query point")
    return figure


def setting_importances(importances: Mapping[str, float]) -> Figure:
    """Shares of what the settings explain, the largest above.

    Raises:
        ValueError: there are none.
    """
    if not importances:
        raise ValueError("importances is empty: there must be a setting that was varied")
    ranked = sorted(importances.items(), key=lambda item: item[1])
    figure = new_figure(COLUMN_WIDTH, 0.6 + 0.22 * len(ranked))
    axes = figure.subplots()
    axes.barh([name for name, _ in ranked], [100 * share for _, share in ranked], color=PRIMARY, height=0.65)
    finish(axes, "", "share of the explained variation, %")
    axes.tick_params(axis="y", length=0)
    return figure


def parallel_coordinates(points: Sequence[Mapping[str, Setting]], objective: Sequence[float]) -> Figure:
    """One line a trial through its settings to its objective, dark where that is low; the worst fourth lies at the top.

    Settings that never vary are left out. A trial without a setting goes through a dash at the axis' foot.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    if not points or len(points) != len(objective):
        raise ValueError(f"len(points)={len(points)} and len(objective)={len(objective)} must be equal, at least 1")
    names = [name for name in dict.fromkeys(name for point in points for name in point) if _varies(points, name)]
    columns = [_heights([point.get(name) for point in points]) for name in names]
    low, high = min(objective), float(np.quantile(objective, _SHOWN))
    badness = ((np.asarray(objective, dtype=float) - low) / max(high - low, 1e-12)).clip(max=1)
    figure = new_figure(max(PAGE_WIDTH, 0.95 * (len(names) + 1)), 3.0)
    axes = figure.subplots()
    for trial in np.argsort(-badness):
        heights = [column[0][trial] for column in columns] + [badness[trial]]
        axes.plot(heights, color=_GOOD_TO_BAD(badness[trial]), linewidth=1.0, alpha=0.85)
    for place, (_, ticks) in enumerate([*columns, ([], {0.0: f"{low:.3f}", 1.0: f"≥ {high:.3f}"})]):
        axes.axvline(place, color=INK, linewidth=0.6)
        for height, text in ticks.items():
            axes.annotate(
                text, (place, height), (3, 0), "data", "offset points", fontsize=TICK_SIZE - 1, color=INK, va="center"
            )
    labels = [name.replace(".", ".\n", 1) for name in names]
    axes.set_xticks(range(len(names) + 1), [*labels, "validation\nNLL"], fontsize=TICK_SIZE)
    axes.set(xlim=(-0.1, len(names) + 0.5), ylim=(-0.05, 1.05))
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK)
    return figure


def pareto_front(
    first: Sequence[float], second: Sequence[float], is_on_front: Sequence[bool], second_label: str
) -> Figure:
    """The objective over a second one, with the trials that none beats in both joined.

    Raises:
        ValueError: the three differ in length.
    """
    if not len(first) == len(second) == len(is_on_front):
        raise ValueError(f"lengths {len(first)}, {len(second)} and {len(is_on_front)} must be equal")
    x, y, front = np.asarray(second, dtype=float), np.asarray(first, dtype=float), np.asarray(is_on_front, dtype=bool)
    figure = new_figure(COLUMN_WIDTH, 2.3)
    axes = figure.subplots()
    axes.scatter(x[~front], y[~front], s=12, color=GREY, linewidths=0, label="others")
    order = np.argsort(x[front], kind="stable")
    axes.step(x[front][order], y[front][order], where="post", color=ACCENT, linewidth=0.9)
    axes.scatter(x[front], y[front], s=16, color=ACCENT, linewidths=0, zorder=3, label="Pareto front")
    axes.legend(fontsize=TICK_SIZE, loc="upper right", labelcolor=INK, edgecolor="none", framealpha=0.9)
    finish(axes, "", second_label, "validation NLL, nats per query point")
    return figure


def _varies(points: Sequence[Mapping[str, Setting]], name: str) -> bool:
    """Whether a setting has several values among the trials that have it."""
    return len({repr(point[name]) for point in points if name in point}) > 1


def _heights(values: Sequence[Setting]) -> tuple[np.ndarray, dict[float, str]]:
    """Where each value lies on its axis, in 0..1, and what the axis is marked with."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, (int, float)) for value in present):
        numbers = np.array([math.nan if value is None else float(value) for value in values])
        low, high = np.nanmin(numbers), np.nanmax(numbers)
        is_log = low > 0 and high / low > _LARGEST_RATIO
        scaled = np.log(numbers) if is_log else numbers
        foot = 0.15 if np.isnan(numbers).any() else 0.0
        span = max(np.nanmax(scaled) - np.nanmin(scaled), 1e-12)
        heights = foot + (1 - foot) * (scaled - np.nanmin(scaled)) / span
        marks = {foot: f"{low:.3g}", 1.0: f"{high:.3g}"} | ({0.0: _ABSENT} if foot else {})
        return np.where(np.isnan(heights), 0.0, heights), marks
    names = [_ABSENT if value is None else str(value) for value in values]
    kinds = sorted(set(names), key=lambda name: (name != _ABSENT, name))
    places = {name: index / max(1, len(kinds) - 1) for index, name in enumerate(kinds)}
    return np.array([places[name] for name in names]), {place: name for name, place in places.items()}
