"""The command line of one command: its own options by tyro, settings by overrides; refusals are one sentence."""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from jobs.errors import UsageError, nearest
from jobs.settings.leaves import leaves
from jobs.settings.overrides import Overrides, split
from jobs.settings.tree import Settings

Options = TypeVar("Options")
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


@dataclass(frozen=True)
class TrainOptions:
    """Meta-train a recipe, evaluate it, and track it. Any setting is overridden by its path."""

    recipe: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="RECIPE")] = None
    """The named run, see `mcb recipes`; may be left out with --config."""
    out: Folder = None
    """Folder of the run; runs/RECIPE/TIME by default."""
    resume: bool = False
    """Continue the run in --out, or the newest run of the recipe, exactly where it stopped."""
    auto_resume: bool = False
    """Continue the run in --out or --train.checkpoint-dir if there is one, else start it: for jobs that restart."""
    config: File = None
    """Settings of a saved run (settings.yaml) to start from."""
    data: File = None
    """Measured curves in a Parquet file."""
    json: File = None
    """Write the figures of the run here as well."""
    tracking_uri: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """MLflow tracking store; an SQLite file in runs/ by default."""
    tracking_optional: bool = False
    """Go on untracked, with a warning, if the store does not answer."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a run or a checkpoint on the test tasks. Settings under evaluation can be overridden."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run's folder, its id, or a checkpoint file."""
    out: Folder = None
    """Write result.json and the figures here."""
    data: File = None
    """Where the measured curves are now, if they moved."""
    json: File = None
    """Write the figures here."""
    tracking_uri: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """Where to look for a run id that no folder below runs/ has."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class TuneOptions:
    """Search over mode definitions and whatever else a space names. Settings hold for all trials but where it asks."""

    recipe: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="RECIPE")] = None
    """The named run, see `mcb recipes`; its trials are a tenth as long unless --train.num-steps says otherwise."""
    space: Annotated[str | None, tyro.conf.arg(metavar="SPACE")] = None
    """A named space (modes, codebook; modes by default), or a YAML file that extends one."""
    num_trials: int | None = None
    """Trials in all, 24 by default; a grid may have fewer."""
    searcher: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Who chooses what to try: tpe (Optuna's, the default), random or grid."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Who ends trials early, or has them exchange parameters: asha (the default), hyperband, pbt or none."""
    second_objective: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """What is to be small beside the NLL: seconds or num-modes. The Pareto front is shown."""
    num_validation_tasks: int | None = None
    """Tasks that trials are judged by, neither training nor test tasks; 2,000 by default."""
    num_reports: int | None = None
    """Checkpoints of a trial, at which it is judged; 9 by default."""
    num_seeds: int | None = None
    """Fresh seeds that the best settings are trained with again, and evaluated on the test tasks; 3 by default."""
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the search; RECIPE-SPACE-TIME by default."""
    out: Folder = None
    """Folder of the search; runs/tune/NAME by default. All nodes of a cluster must reach it."""
    resume: bool = False
    """Continue the search of --name or --out, or the newest one."""
    auto_resume: bool = False
    """Continue the search of --name or --out if there is one, else start it: for jobs that restart."""
    config: File = None
    """Settings of a saved run (settings.yaml) to start from."""
    data: File = None
    """Measured curves in a Parquet file."""
    json: File = None
    """Write the trials and the best one here as well."""
    tracking_uri: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """MLflow tracking store; an SQLite file in runs/ by default."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class LimitsOptions:
    """Make the Bayes-optimal reference of a recipe's standard test tasks again (minutes on one core)."""

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """two-modes, three-modes or five-modes."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/limits")
    """Folder of the file; the library's own is mcb/reference."""
    num_tasks: int | None = None
    """Test tasks, at least 2; without it, as many as the library's own file has."""
    json: File = None
    """Write the limits here as well."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class UiOptions:
    """Open the MLflow UI at the runs of this project."""

    tracking_uri: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """MLflow tracking store; the SQLite file in runs/ by default."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 5000
    """Port to listen on."""
    browser: bool = True
    """Open a browser."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class ModesOptions:
    """Show the modes of a trained run: how many tasks, which ones, and what each mode expects before it sees data."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run's folder, its id, or a checkpoint file."""
    num_tasks: int = 2000
    """Test tasks that are told apart, at least 2."""
    out: Folder = None
    """Draw the figures of the modes here."""
    data: File = None
    """Where the measured curves are now, if they moved."""
    json: File = None
    """Write the modes here."""
    tracking_uri: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """Where to look for a run id that no folder below runs/ has."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class _TrainHelp:
    options: Annotated[TrainOptions, tyro.conf.arg(name="")]
    settings: Annotated[tyro.conf.FlagConversionOff[Settings], tyro.conf.arg(name="")]


def parse(kind: type[Options], command: str, words: Sequence[str]) -> Options:
    """The options of a command that has no settings; raises `UsageError`, exits after `--help`."""
    refuse_unknown(kind, words, with_settings=False)
    return _read(kind, command, words)


def parse_with_settings(kind: type[Options], command: str, words: Sequence[str]) -> tuple[Options, Overrides]:
    """The options of a command, and the settings that were given; raises `UsageError`, exits after `--help`."""
    overrides, others = split(words)
    refuse_unknown(kind, others, with_settings=True)
    return _read(kind, command, others), overrides


def show_train_help(settings: Settings) -> None:
    """Print the options of `mcb train` and the settings of a recipe with their values."""
    default = _TrainHelp(TrainOptions(), settings)
    with contextlib.suppress(SystemExit):
        tyro.cli(
            tyro.conf.AvoidSubcommands[_TrainHelp],
            prog=f"mcb train {settings.recipe}",
            description=TrainOptions.__doc__,
            default=default,
            args=["--help"],
        )


def refuse_unknown(kind: type, words: Sequence[str], with_settings: bool) -> None:
    """Raise `UsageError` for the first option that is none, with the nearest."""
    fields = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(kind)]
    known = [*fields, *(option.replace("--", "--no-", 1) for option in fields), "--help", "-h"]
    for word in words:
        if word.startswith("-") and word.partition("=")[0].replace("_", "-") not in known:
            option = word.partition("=")[0]
            settings = [leaf.option for leaf in leaves()] if with_settings else []
            found = nearest(option.replace("_", "-"), [*fields, *settings])
            raise UsageError(f"unknown option {option}{found if 'did you mean' in found else ''}")


def _read(kind: type[Options], command: str, words: Sequence[str]) -> Options:
    """Have tyro read the words; its boxed refusals become one sentence."""
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            return tyro.cli(kind, prog=f"mcb {command}", args=list(words))
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(_unboxed(refusal.getvalue(), command)) from None


def _unboxed(text: str, command: str) -> str:
    """The message inside the first part of a box."""
    lines = [line.strip("│| ") for line in text.splitlines()[1:]]
    message = []
    for line in lines:
        if not line.strip("─-╰╯+"):
            break
        message.append(line)
    return f"{' '.join(message).rstrip('.')}; see mcb {command} --help"
