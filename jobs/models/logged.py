"""The trained learner as an MLflow model of its run: the checkpoint, the code that reads it, what it takes and gives.

Nothing of it is pickled. The model carries this program's own sources, so that it is served by the code that it was
trained with, on machines that have only the packages in its requirements.
"""

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from jobs.building.objects import Source
from jobs.evaluation.scores import TEST_SEED
from jobs.models.task_columns import FAMILY, QUERY, SET, SUPPORT, TASK, numbered
from jobs.settings.tree import Settings
from mcb.tasks.curves import CurveTasks
from mcb.types import Task
from mcb.units import Units

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import LoggedModel
    from mlflow.models import Model, ModelSignature
    from mlflow.tracking import MlflowClient

BESIDE = ("test_tasks.parquet", "model_card.md", "figures")  # files of a run that its model carries along
PACKAGES = ("mcb", "cluster", "jobs")
NEEDED = (
    *("mlflow", "torch", "numpy", "pandas", "pydantic", "tyro", "PyYAML", "jaxtyping", "numba", "pyarrow", "scipy"),
    *("scikit-learn", "threadpoolctl", "pytorch-optimizer", "fsspec", "filelock", "psutil", "rich", "matplotlib"),
)
_SHOWN = ("test/nll", "test/mse", "test/crps", "test/coverage_50", "test/coverage_90", "test/mode_accuracy")


def log_model(
    client: "MlflowClient",
    run_id: str,
    settings: Settings,
    source: Source,
    checkpoint: Path,
    beside: Sequence[Path],
    num_steps: int,
) -> str:
    """Log the learner of `checkpoint` as a model named by the recipe, with the files `beside`; returns its id.

    `num_steps` are the meta-steps that it has seen. Raises as many kinds of errors as there are artefact stores; the
    model is then marked as failed.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id, settings.recipe, run_id, {"recipe": settings.recipe}, run.data.params
    )
    is_ready = False
    try:
        with TemporaryDirectory() as folder:
            place, name = logged.artifact_location, logged.model_id
            identity = Model(place, run_id, model_id=name, model_uuid=name)
            save_model(Path(folder) / "model", source, checkpoint, beside, identity)
            client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        is_ready = True
    finally:
        client.finalize_logged_model(logged.model_id, "READY" if is_ready else "FAILED")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, num_steps)])
    _show_scores(client, run_id, logged)
    return logged.model_id


def newest_model(client: "MlflowClient", run_id: str, num_steps: int) -> str | None:
    """The id of the model that a run logged after `num_steps` meta-steps; None if it logged none."""
    outputs = client.get_run(run_id).outputs
    logged = [] if outputs is None else [model.model_id for model in outputs.model_outputs if model.step == num_steps]
    ready = [model_id for model_id in logged if client.get_logged_model(model_id).status == "READY"]
    return ready[-1] if ready else None


def save_model(
    folder: Path, source: Source, checkpoint: Path, beside: Sequence[Path] = (), identity: "Model | None" = None
) -> None:
    """Write the model into a new folder, with the files `beside` among its artefacts."""
    from mlflow import pyfunc

    with TemporaryDirectory() as code:
        pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).parent / "pyfunc_model.py"),
            artifacts={"checkpoint": str(checkpoint)} | {path.stem: str(path) for path in beside},
            code_paths=_sources(Path(code)),
            signature=signature(source),
            input_example=(example(source), {"level": 0.9}),
            pip_requirements=requirements(),
            mlflow_model=identity,
        )


def signature(source: Source) -> "ModelSignature":
    """What the model of a learner of such tasks takes and gives, see `jobs.models.task_frame`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    def columns(kind: str, *names: str, required: bool = True) -> list[ColSpec]:
        return [ColSpec(kind, name, required=required) for name in names]

    task = ColSpec(AnyType(), TASK, required=False)
    points = columns("double", *numbered("x", source.x_size), *numbered("y", source.y_size))
    answers = [name for kind in ("mean", "lower", "upper") for name in numbered(kind, source.y_size)]
    mode = [*columns("string", "mode"), *columns("double", "mode_probability")]
    return ModelSignature(
        Schema([task, *columns("string", FAMILY, required=False), *columns("string", SET), *points]),
        Schema([task, *columns("double", *answers), *mode, *columns("boolean", "unusual", required=False)]),
        ParamSchema([ParamSpec("level", "double", 0.9)]),
    )


def example(source: Source) -> "pd.DataFrame":
    """Two test tasks as a caller would send them, in the caller's units."""
    import pandas as pd

    tasks = source.sample(TEST_SEED, torch.arange(2))
    if isinstance(source, CurveTasks):
        tasks = _in_units(tasks, source.units)
    return pd.concat([_rows(Task(*(leaf[number] for leaf in tasks)), number) for number in range(2)], ignore_index=True)


def requirements() -> list[str]:
    """The packages that the model needs, at the versions that are installed here."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in NEEDED]


def _in_units(tasks: Task, units: Units) -> Task:
    """Tasks of measured curves as they were measured."""
    x_mean, x_scale, y_mean, y_scale = (
        leaf[tasks.mode, None].float() for leaf in (units.x_mean, units.x_scale, units.y_mean, units.y_scale)
    )
    return tasks._replace(
        support_x=x_mean + x_scale * tasks.support_x,
        support_y=y_mean + y_scale * tasks.support_y,
        query_x=x_mean + x_scale * tasks.query_x,
    )


def _rows(task: Task, number: int) -> "pd.DataFrame":
    import pandas as pd

    parts = []
    for kind, x, y, mask in (
        (SUPPORT, task.support_x, task.support_y, task.support_mask),
        (QUERY, task.query_x, torch.full_like(task.query_y, torch.nan), task.query_mask),
    ):
        columns = [*numbered("x", x.shape[1]), *numbered("y", y.shape[1])]
        rows = pd.DataFrame(torch.cat([x, y], dim=1)[mask].numpy(), columns=columns)
        rows = rows.map(lambda value: float(f"{value:.5g}"))
        rows = rows.astype(object).where(rows.notna(), None)  # JSON has null, and no NaN
        rows.insert(0, SET, kind)
        rows.insert(0, TASK, f"task {number}")
        parts.append(rows)
    return pd.concat(parts)


def _sources(folder: Path) -> list[str]:
    """This program's packages, copied without anything but their modules."""
    for name in PACKAGES:
        package = Path(__file__).parents[2] / name
        for module in package.rglob("*.py"):
            place = folder / name / module.relative_to(package)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, place)
    return [str(folder / name) for name in PACKAGES]


def _show_scores(client: "MlflowClient", run_id: str, logged: "LoggedModel") -> None:
    """The run's scores beside the model; they are the same entries of the run."""
    from mlflow.entities import Metric

    known = client.get_run(run_id).data.metrics
    for name in _SHOWN:
        if name in known:
            last = client.get_metric_history(run_id, name)[-1]
            shown = Metric(name, last.value, last.timestamp, last.step, model_id=logged.model_id, run_id=run_id)
            client.log_batch(run_id, metrics=[shown])
