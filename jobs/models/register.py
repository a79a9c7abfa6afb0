"""`mcb register`: the model of a run becomes a version of a registered model, and takes the alias if it is no worse."""

import re
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console

from cluster.checkpoint import load
from cluster.errors import UserError
from cluster.tracking_store import first_sentence, without_password
from jobs.building.objects import build_source
from jobs.errors import UsageError
from jobs.evaluation.report import new_console, with_half_width
from jobs.evaluation.task_scores import Comparison
from jobs.models.contenders import Contender, compare_contenders
from jobs.models.logged import BESIDE, log_model, newest_model
from jobs.models.register_arguments import RegisterOptions
from jobs.models.registry import add_version, fetch_version, holder, model_of
from jobs.runs.folder import require_place, write_json
from jobs.runs.tracked_files import run_checkpoint
from jobs.runs.tracked_run import TrackedRun, fetch, find_tracked_run
from jobs.settings.file import from_yaml
from jobs.settings.overrides import override

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def register(options: RegisterOptions) -> None:
    """Register the model of `options.run` under a name and give it the alias.

    Raises `UserError` for a run that is unknown or has no finished evaluation, for a store that does not answer, and
    for a model that is worse than the one that has the alias now, unless `options.force`: then nothing is changed.
    """
    _check(options)
    console = new_console()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = find_tracked_run(options.run, options.tracking_uri, folder)
        checkpoint = run_checkpoint(run.run_id, run.uri)
        champion = holder(run.client, options.name, options.alias)
        model_id = newest_model(run.client, run.run_id, run.figures["num_steps"])
        compared = None
        if champion is not None and (model_id is None or model_of(champion) != model_id):
            contender = Contender(checkpoint, fetch(run.client, run.run_id, "test_tasks.parquet", folder))
            compared = _compared(console, options, run, contender, champion, folder)
        model_id = model_id or _log(run, checkpoint, options.data, folder)
        version = _take_alias(run, options, model_id)
    _say(console, options, run, version, compared)
    if options.json is not None:
        identity = {"name": options.name, "version": int(version.version), "alias": options.alias, "run_id": run.run_id}
        write_json(options.json, identity | ({} if compared is None else _tree(compared)))


def _check(options: RegisterOptions) -> None:
    """Raise `UsageError` for words that MLflow would refuse later."""
    if not options.name.strip() or set(options.name) & set("/:"):
        raise UsageError(f"--name {options.name!r} must be a name without / and :")
    if not re.fullmatch(r"[\w-]+", options.alias) or re.fullmatch(r"latest|v\d+", options.alias.lower()):
        raise UsageError(
            f"--alias {options.alias!r} must be of letters, digits, _ and -, and not latest or a version such as v3"
        )
    if options.json is not None:
        require_place(options.json)


def _compared(
    console: Console,
    options: RegisterOptions,
    run: TrackedRun,
    candidate: Contender,
    champion: "ModelVersion",
    folder: Path,
) -> Comparison | None:
    """Both on the same test tasks; None where that cannot be and is forced. Raises `UserError` if it must not be."""
    whom = f"{options.name} version {champion.version}, the {options.alias}"
    try:
        its = fetch_version(run.client, run.uri, champion, folder)
        compared = compare_contenders(console, candidate, its, options.data)
    except (UserError, ValueError) as error:
        if options.force:
            console.print(f"not compared with {whom}: {error}", soft_wrap=True)
            return None
        raise UserError(f"the run cannot be compared with {whom}: {error}; --force replaces it") from error
    if not compared.difference <= 0 and not options.force:  # NaN is worse
        raise UserError(
            f"the run is worse than {whom}: {in_words(compared)}; nothing was changed, --force gives it the alias"
        )
    return compared


def in_words(compared: Comparison) -> str:
    """Both numbers and their difference.

    >>> in_words(Comparison(0.62, 0.61, 0.003, 20_000))
    'NLL 0.6200 against 0.6100 nats on the same 20,000 test tasks, + 0.0100 ± 0.0030'
    """
    sign = "+" if compared.difference > 0 else "−"
    return (
        f"NLL {compared.candidate:.4f} against {compared.champion:.4f} nats on the same {compared.num_tasks:,} test "
        f"tasks, {sign} {abs(compared.difference):.4f} ± {compared.half_width:.4f}"
    )


def _log(run: TrackedRun, checkpoint: Path, data: Path | None, folder: Path) -> str:
    """Log the model of a run that has none, as one that was trained before there were any; returns its id."""
    settings = from_yaml(load(checkpoint).settings_yaml, origin=f" (in {checkpoint})")
    if data is not None:
        settings = override(settings, {"tasks.path": [str(data.absolute())]})
    beside = [fetch(run.client, run.run_id, name, folder) for name in BESIDE]
    try:
        return log_model(
            run.client,
            run.run_id,
            settings,
            build_source(settings, "test"),
            checkpoint,
            [path for path in beside if path is not None],
            run.figures["num_steps"],
        )
    except Exception as error:  # MLflow and its artefact stores have no error in common
        raise UserError(f"the model of run {run.run_id} cannot be logged: {first_sentence(error)}") from error


def _take_alias(run: TrackedRun, options: RegisterOptions, model_id: str) -> "ModelVersion":
    """The version of the run's model, which has the alias now."""
    try:
        version = add_version(run, options.name, model_id, _description(run))
        run.client.set_registered_model_alias(options.name, options.alias, str(version.version))
    except Exception as error:  # MLflow and its stores have no error in common
        raise UserError(f"{options.name} cannot be registered: {first_sentence(error)}") from error
    return version


def _description(run: TrackedRun) -> str:
    """What the registry shows of a version."""
    evaluation = run.figures["evaluation"]
    text = f"{run.figures['num_steps']:,} meta-steps. On {evaluation['num_tasks']:,} test tasks: NLL "
    text += f"{with_half_width(evaluation, 'nll')} nats per query point, 90 % intervals cover "
    text += with_half_width(evaluation, "coverage_90")
    if "bayes" in evaluation:
        text += f"; Bayes-optimal is NLL {with_half_width(evaluation['bayes'], 'nll')}"
    return f"{text}. The model card is model_card.md of the run {run.run_id}."


def _say(
    console: Console, options: RegisterOptions, run: TrackedRun, version: "ModelVersion", compared: Comparison | None
) -> None:
    if compared is not None:
        console.print(in_words(compared), soft_wrap=True)
    console.print(f"{options.name} version {version.version} is now the {options.alias}")
    serve = ["mlflow", "models", "serve", "-m", f"models:/{options.name}@{options.alias}", "--env-manager", "local"]
    shown = without_password(run.uri)
    uri = f'"{shown}"' if "$" in shown and not shown.startswith("sqlite:") else shlex.quote(shown)  # the shell expands
    console.print(f"serve it with\n  MLFLOW_TRACKING_URI={uri} {shlex.join(serve)}", soft_wrap=True, markup=False)


def _tree(compared: Comparison) -> dict[str, object]:
    return {**compared._asdict(), "difference": compared.difference}
