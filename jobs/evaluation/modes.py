"""`mcb modes`: the modes of a trained run, as a table, as figures and as JSON."""

import torch

from cluster.errors import UserError
from jobs.arguments import ModesOptions
from jobs.building.objects import Source, build_source
from jobs.errors import UsageError
from jobs.evaluation.evaluate import Trained, find_trained
from jobs.evaluation.found_modes import FoundModes, family, find_modes, prior_predictive
from jobs.evaluation.grids import grid
from jobs.evaluation.mode_report import print_modes
from jobs.evaluation.report import new_console
from jobs.evaluation.scores import TEST_SEED
from jobs.runs.folder import require_place, write_json
from mcb.predictive import GaussianMixture
from mcb.types import Task

_NUM_POINTS = 21  # of a prior predictive


def show_modes(options: ModesOptions) -> None:
    """Print the modes of `options.run`, write and draw them where that is asked for.

    Raises `UsageError` for fewer than two tasks, `UserError` for a run whose modes are not discrete.
    """
    if options.num_tasks < 2:
        raise UsageError(f"--num-tasks {options.num_tasks} must be at least 2")
    if options.json is not None:
        require_place(options.json)
    trained = find_trained(options.run, options.tracking_uri, options.data, {})
    if not trained.learner.modes.has_shared_codes:
        raise UserError(
            f"modes of kind {trained.settings.modes.kind} are continuous, every task is its own: there are none to list"
        )
    source = build_source(trained.settings, "test")
    found = find_modes(trained.learner, source, options.num_tasks)
    x, predictive = _predictive(trained, source, found)
    console = new_console()
    print_modes(console, trained.title, source, found, x, predictive)
    if options.json is not None:
        write_json(options.json, _tree(trained, source, found, x, predictive))
    if options.out is not None:
        _draw(options, trained, source, found)
        console.print(f"figures in {options.out}", soft_wrap=True)


def _predictive(trained: Trained, source: Source, found: FoundModes) -> tuple[torch.Tensor, GaussianMixture]:
    """Every mode's prior predictive, at points of the first input that are given too."""
    tasks = Task(*(leaf[found.typical] for leaf in found.tasks))
    x = grid(source, tasks, _NUM_POINTS)
    return x[..., 0], prior_predictive(trained.learner, found.slots, x, tasks.support_y)


def _tree(
    trained: Trained, source: Source, found: FoundModes, x: torch.Tensor, predictive: GaussianMixture
) -> dict[str, object]:
    mean = predictive.expectation()[..., 0]
    low, high = (end[..., 0] for end in predictive.interval(0.9))
    rows = []
    for row, mode in enumerate(found.modes):
        rows.append(
            {
                "mode": mode.slot,
                "num_tasks": mode.num_tasks,
                "share": mode.share,
                "families": dict(mode.families),
                "typical_task": _task(found.tasks, mode.typical) | {"family": family(source, found, mode) or None},
                "prior_predictive": {
                    "x": x[row].tolist(),
                    "mean": mean[row].tolist(),
                    "low_90": low[row].tolist(),
                    "high_90": high[row].tolist(),
                },
            }
        )
    return {
        "checkpoint": trained.path,
        "num_steps": trained.checkpoint.version,
        "kind": trained.settings.modes.kind,
        "num_modes": len(found.modes),
        "num_slots": trained.learner.modes.num_modes,
        "num_tasks": len(found.label),
        **found.agreement,
        "modes": rows,
    }


def _task(tasks: Task, index: int) -> dict[str, object]:
    """A test task by its index in the stream, with the support points that it was told by."""
    present = tasks.support_mask[index]
    support = {"x": tasks.support_x[index, present].tolist(), "y": tasks.support_y[index, present].tolist()}
    return {"index": index, "stream": TEST_SEED, "support": support}


def _draw(options: ModesOptions, trained: Trained, source: Source, found: FoundModes) -> None:
    from jobs.evaluation.mode_pictures import mode_figures  # matplotlib is slow to import

    assert options.out is not None
    options.out.mkdir(parents=True, exist_ok=True)
    for name, figure in mode_figures(trained.learner, source, found).items():
        figure.savefig(options.out / f"{name}.png")
