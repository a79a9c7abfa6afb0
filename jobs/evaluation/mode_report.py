"""The modes that a run has found as a table that a person reads."""

from collections.abc import Mapping

from jaxtyping import Float
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from jobs.building.bayes import shipped_reference
from jobs.building.objects import Source
from jobs.evaluation.found_modes import UNKNOWN, FoundMode, FoundModes, family
from mcb.predictive import GaussianMixture
from mcb.tasks.regression import RegressionFamilies

_SHOWN = (0.1, 0.5, 0.9)  # of the range of the first input: where the table tells the prior predictive
_MOST_SHOWN = 24  # modes
_MOST_FAMILIES, _LEAST = 2, 5  # of a mode, and the least share in per cent


def print_modes(
    console: Console,
    title: str,
    source: Source,
    found: FoundModes,
    x: Float[Tensor, "M G"],
    predictive: GaussianMixture,
) -> None:
    """A row for each of the modes with most tasks; `predictive` is their prior predictive at `x`."""
    heading = f"{title}: {len(found.modes)} modes of {len(found.label):,} test tasks"
    table = Table(title=heading, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("mode", "tasks", "share"):
        table.add_column(name, justify="right")
    for name in ("members", "typical task"):
        table.add_column(name, no_wrap=True)
    is_common = isinstance(source, RegressionFamilies)  # else each typical task has a range of its own
    places = [round(level * (x.shape[1] - 1)) for level in _SHOWN]
    for place, name in zip(places, ("low", "middle", "high"), strict=True):
        table.add_column(f"x = {x[0, place]:g}" if is_common else f"{name} x", justify="right", no_wrap=True)
    mean, deviation = predictive.expectation()[..., 0], predictive.variance()[..., 0].sqrt()
    for row, mode in enumerate(found.modes[:_MOST_SHOWN]):
        true = family(source, found, mode)
        expected = (f"{mean[row, place]:.1f} ± {deviation[row, place]:.1f}" for place in places)
        task = str(mode.typical) + (f", {true}" if true else "")
        table.add_row(
            str(mode.slot), f"{mode.num_tasks:,}", f"{100 * mode.share:.1f} %", _members(mode), task, *expected
        )
    console.print()
    console.print(table)
    if len(found.modes) > _MOST_SHOWN:
        console.print(f"and {len(found.modes) - _MOST_SHOWN} with fewer tasks, which --json lists")
    console.print(
        "x = …: what the mode expects of y there before it sees data, mean ± standard deviation", soft_wrap=True
    )
    if found.agreement:
        console.print(_agreement(source, found.agreement), soft_wrap=True)


def _members(mode: FoundMode) -> str:
    """`linear 88 %, quadratic 10 %`: the families that most of its tasks are of."""
    shares = {name: round(100 * num / mode.num_tasks) for name, num in mode.families.items() if name != UNKNOWN}
    return ", ".join(f"{name} {share} %" for name, share in list(shares.items())[:_MOST_FAMILIES] if share >= _LEAST)


def _agreement(source: Source, agreement: Mapping[str, float]) -> str:
    reference = shipped_reference(source)
    ceiling = "" if reference is None else f" (Bayes-optimal {100 * reference.correct.double().mean().item():.1f} %)"
    return (
        f"against the true modes: ARI {agreement['ari']:.3f}, NMI {agreement['nmi']:.3f}, "
        f"purity {100 * agreement['purity']:.1f} %, mode accuracy {100 * agreement['accuracy']:.1f} %{ceiling}"
    )
