"""The model card of a run: what its learner was trained on, how good it is, when not to trust it, how to use it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.building.objects import Source
from jobs.evaluation.report import BESIDE_BAYES, ROWS, with_half_width
from jobs.models.task_columns import numbered
from jobs.settings.tree import CurveTasks, RegressionTasks, Settings
from mcb.family_scores import POOLED
from mcb.tasks.regression import X_HIGH, X_LOW

Figures = Mapping[str, Any]

_OF_A_FAMILY = {"NLL, nats": "nll", "MSE": "mse", "RMSE": "rmse", "90 % intervals cover": "coverage_90"}


def model_card(settings: Settings, source: Source, figures: Figures, versions: Mapping[str, str]) -> str:
    """The card in Markdown, to lie beside `figures/`.

    `figures` are those of result.json, `versions` what the learner was made with: commit, packages, machine.
    """
    evaluation = figures["evaluation"]
    parts = [
        f"# {settings.recipe}, run {figures['run_id']}",
        "A few-shot learner: given the support points of a new task it says which mode the task is of, adapts, and "
        "predicts with intervals.",
        "## Trained on",
        _table(("tasks", ""), _data(settings, source, figures)),
        "## Learner",
        _table(("setting", ""), [*_learner(settings), *versions.items()]),
        "All settings are in `settings.yaml`.",
        "## On the test tasks",
        _scores(evaluation),
        "By family:",
        _families(evaluation),
        _calibration(evaluation),
        "![Observed against nominal coverage, and the PIT histogram](figures/calibration.png)",
        "## When not to trust it",
        "\n".join(f"- {line}" for line in _limits(settings, source, evaluation)),
        "## Use",
        _use(settings, source, figures["run_id"]),
    ]
    return "\n\n".join(parts) + "\n"


def _data(settings: Settings, source: Source, figures: Figures) -> list[tuple[str, str]]:
    tasks = settings.tasks
    rows = [
        ("families", ", ".join(source.mode_names)),
        ("points of a task", f"{tasks.num_support} support, {tasks.num_query} query"),
    ]
    match tasks:
        case RegressionTasks():
            rows.append(("inputs", f"one, uniform from {X_LOW:g} to {X_HIGH:g}"))
            rows.append(("noise of y", f"standard deviation {tasks.noise_scale:g}, in support and query"))
        case CurveTasks():
            rows.append(("inputs", str(source.x_size)))
            rows.append(("file", str(tasks.path)))
    return [
        *rows,
        ("tasks seen", f"{figures['num_tasks']:,} in {figures['num_steps']:,} meta-steps"),
        ("time", f"{figures['train_seconds']:,.0f} s of meta-steps"),
    ]


def _learner(settings: Settings) -> list[tuple[str, str]]:
    number = getattr(settings.modes, "num_modes", None)
    return [
        ("modes", settings.modes.kind + (f", at most {number}" if number else "")),
        ("inference", settings.inference.kind),
        ("network", f"{'-'.join(map(str, settings.network.hidden))}, adapted: {settings.network.adapted}"),
        ("seed", str(settings.seed)),
    ]


def _scores(evaluation: Figures) -> str:
    """A row for each score, beside the Bayes limit where there is one, else beside the baselines."""
    scores = [(name, label) for name, label in ROWS if name in evaluation]
    columns = [f"{evaluation['num_tasks']:,} tasks"]
    if "bayes" not in evaluation:
        rows = [(label, with_half_width(evaluation, name)) for name, label in scores]
        baselines = evaluation.get("baselines", {}).items()
        beside = [(f"NLL of {name}", with_half_width(families["pooled"], "nll")) for name, families in baselines]
        return _table(("", *columns), [*rows, *beside])
    bayes = evaluation["bayes"]
    rows = []
    for name, label in scores:
        paired, sign = BESIDE_BAYES.get(name, ("", ""))
        beside = paired and sign + with_half_width(evaluation, paired)
        rows.append((label, with_half_width(evaluation, name), with_half_width(bayes, name), beside))
    return _table(("", *columns, f"Bayes-optimal, {bayes['num_tasks']:,} tasks", "this against it"), rows)


def _families(evaluation: Figures) -> str:
    families = _rows_by_family(evaluation)
    first = next(iter(families.values()))
    columns = {label: name for label, name in _OF_A_FAMILY.items() if name in first}
    rows = [(name, *(with_half_width(row, column) for column in columns.values())) for name, row in families.items()]
    return _table(("family", *columns), rows)


def _calibration(evaluation: Figures) -> str:
    covered = [with_half_width(evaluation, f"coverage_{level}") for level in (50, 90)]
    return f"50 % intervals cover {covered[0]} of the query points, 90 % intervals {covered[1]}:"


def _limits(settings: Settings, source: Source, evaluation: Figures) -> list[str]:
    tasks, families = settings.tasks, _rows_by_family(evaluation)
    worst = max(families, key=lambda name: families[name]["nll"])
    lines = [
        f"It knows tasks of {len(source.mode_names)} kinds alone. A task of another kind is answered all the same: "
        "`unusual` says where the support points are unlike those of the training, which few points cannot always "
        "tell.",
        f"Every task of the training had {tasks.num_support} support points; with others it was not tested.",
    ]
    match tasks:
        case RegressionTasks():
            lines += [
                f"It never saw an input outside {X_LOW:g} to {X_HIGH:g}, nor noise of y other than "
                f"{tasks.noise_scale:g}: beyond these its intervals promise nothing.",
                "Its tasks are made by a program, those of the test too: of measured data the scores say nothing.",
            ]
        case CurveTasks():
            lines += [
                "Values go in and come out in the units of the file. Where a task's family is not named, it is "
                "inferred from the support points.",
                "Its test tasks are other curves of the same families and the same file, not of later measurements. "
                "Their scores are in standard deviations of each family's training tasks.",
            ]
    lines.append(f"It is weakest at {worst}: NLL {with_half_width(families[worst], 'nll')} nats per query point.")
    if "mode_accuracy" in evaluation:
        told = with_half_width(evaluation, "mode_accuracy")
        lines.append(
            f"It tells the family of {told} of the tasks. A `mode` is one of its own codes, named after the "
            "family that most of its tasks are of."
        )
    return lines


def _use(settings: Settings, source: Source, run_id: str) -> str:
    inputs = ", ".join(f"`{name}`" for name in numbered("x", source.x_size))
    support = ", ".join(_point(number, source.x_size) for number in (-2.0, 0.5, 3.0))
    query = ", ".join(_point(number, source.x_size) for number in (0.0, 1.0))
    return f"""In Python, with this library:

```python
from mcb import Predictor

predictor = Predictor.load("runs:/{run_id}")  # or the run's folder
posterior = predictor.adapt([{support}], [0.9, 0.1, -0.4])  # one task's support points
prediction = posterior.predict([{query}])
prediction.mean, prediction.interval(0.9), posterior.is_unusual
```

With MLflow alone; `rows` is a table with columns `task`, `set` (support or query), {inputs} and `y`:

```python
import mlflow

model = mlflow.pyfunc.load_model("runs:/{run_id}/{settings.recipe}")
model.predict(rows, params={{"level": 0.9}})
```

As a service (all three look in the store that `MLFLOW_TRACKING_URI` names):

```sh
mcb register {run_id} --name {settings.recipe}
mlflow models serve -m models:/{settings.recipe}@champion --env-manager local
```"""


def _point(number: float, x_size: int) -> str:
    return str(number) if x_size == 1 else str([number] * x_size)


def _rows_by_family(evaluation: Figures) -> dict[str, Figures]:
    """Of measured curves the rows by family, which weigh curves equally; of others those by true mode."""
    return {name: row for name, row in evaluation.get("families", evaluation["modes"]).items() if name != POOLED}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right."""
    line = "|" + " --- |" + " ---: |" * (len(head) - 1) if len(head) > 2 else "|" + " --- |" * len(head)
    cells = [" | ".join(value.replace("|", "\\|") for value in row) for row in [head, *rows]]
    first, *others = (f"| {row} |" for row in cells)
    return "\n".join([first, line, *others])
