"""`mcb limits`: the Bayes-optimal predictions that are shipped with the library, made again."""

import math

from rich.progress import Progress

from jobs.arguments import LimitsOptions
from jobs.errors import UsageError, nearest
from jobs.evaluation.report import new_console, with_half_width
from jobs.runs.folder import write_json
from mcb.limits import NUM_REFERENCE_TASKS, REFERENCES, load_reference, save_reference


def make_limits(options: LimitsOptions) -> None:
    """Write the reference of `options.recipe` and print its figures; raises `UsageError` for an unknown recipe."""
    if options.recipe not in REFERENCES:
        raise UsageError(f"no Bayes limit for {options.recipe!r}{nearest(options.recipe, REFERENCES)}")
    num_tasks = NUM_REFERENCE_TASKS[options.recipe] if options.num_tasks is None else options.num_tasks
    if num_tasks < 2:
        raise UsageError(f"--num-tasks {num_tasks} must be at least 2")
    console = new_console()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("Bayes-optimal predictions", total=num_tasks)

        def show(num_done: int) -> None:
            progress.update(task, completed=num_done)

        path = save_reference(options.recipe, options.out, num_tasks, show)
    reference = load_reference(options.recipe, options.out)
    figures: dict[str, object] = {"num_tasks": num_tasks}
    columns = {"nll": reference.nll, "mse": reference.squared_error, "mode_accuracy": reference.correct.double()}
    for name, values in columns.items():
        half_width = 1.96 * values.double().std() / math.sqrt(len(values))
        figures |= {name: values.double().mean().item(), f"{name}_ci": half_width.item()}
    for name, label in (("nll", "NLL, nats per query point"), ("mse", "MSE"), ("mode_accuracy", "mode accuracy")):
        console.print(f"{label:<28}{with_half_width(figures, name)}")
    console.print(f"{num_tasks:,} tasks, written to {path}", soft_wrap=True)
    if options.json is not None:
        write_json(options.json, figures)
