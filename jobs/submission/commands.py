"""`mcb submit ACTION ...` and `mcb jobs ACTION ...`: what each does with its words, refused here and not there."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.storage import is_url
from jobs.arguments import parse, parse_with_settings
from jobs.commands import base_settings
from jobs.errors import UsageError, nearest
from jobs.settings.overrides import Overrides, override
from jobs.settings.recipes import RECIPES
from jobs.settings.tree import Settings
from jobs.submission.arguments import (
    JobLogsOptions,
    JobOptions,
    JobsListOptions,
    SubmitEvaluateOptions,
    SubmitTrainOptions,
    SubmitTuneOptions,
)
from jobs.submission.plan import evaluate_request, train_request, tune_request

_SUBMIT: Mapping[str, str] = {
    "train": "meta-train a recipe, evaluate it, and track it",
    "tune": "search over mode definitions and other settings",
    "evaluate": "evaluate a run or a checkpoint on the test tasks",
}
_JOBS: Mapping[str, str] = {
    "list": "list the jobs of a cluster",
    "status": "say where a job stands; exit code 5 while it goes on",
    "logs": "print what a job writes; --follow to its end",
    "stop": "have a job save and end",
}


def submit(words: Sequence[str]) -> int:
    """Submit what the words say; returns the exit code."""
    action = _action("submit", _SUBMIT, words, "Run a command of mcb as a job of a Ray cluster.")
    if action is None:
        return 0
    name, rest = action
    _require_none_of_the_jobs(rest)
    here = Path.cwd()
    if name == "evaluate":
        options, overrides = parse_with_settings(SubmitEvaluateOptions, "submit evaluate", rest)
        request = evaluate_request(options, overrides, here)
    elif name == "tune":
        options, overrides = parse_with_settings(SubmitTuneOptions, "submit tune", rest)
        settings = _settings(options, overrides)
        request = tune_request(options, overrides, settings.recipe, os.environ, here)
    else:
        options, overrides = parse_with_settings(SubmitTrainOptions, "submit train", rest)
        settings = _settings(options, overrides)
        request = train_request(options, overrides, settings.recipe, os.environ, here)
        _require_own_checkpoints(settings, overrides, request.place or "")
    from jobs.submission.submit import submit as run

    return run(options, request)


def _require_own_checkpoints(settings: Settings, overrides: Overrides, place: str) -> None:
    """Raise `UsageError` for a saved file that names another run's checkpoints, which the job would go on from."""
    if settings.train.checkpoint_dir and "train.checkpoint_dir" not in overrides and not is_url(place):
        raise UsageError(
            f"--config keeps checkpoints at {settings.train.checkpoint_dir}, where the run that it was saved by has "
            "its own: remove train.checkpoint_dir from the file, or give a URL as --storage"
        )


def jobs(words: Sequence[str]) -> int:
    """Show or stop jobs; returns the exit code."""
    action = _action("jobs", _JOBS, words, "Show and stop the jobs of a Ray cluster.")
    if action is None:
        return 0
    name, rest = action
    kinds = {"list": JobsListOptions, "logs": JobLogsOptions}
    options = parse(kinds.get(name, JobOptions), f"jobs {name}", rest)
    from jobs.submission import ray_jobs

    match options:
        case JobsListOptions():
            return ray_jobs.list_jobs(options)
        case JobLogsOptions():
            return ray_jobs.show_logs(options)
    return ray_jobs.show_status(options) if name == "status" else ray_jobs.stop_job(options)


def _require_none_of_the_jobs(words: Sequence[str]) -> None:
    """Raise `UsageError` for options of mcb train and mcb tune that a job does without."""
    given = {word.partition("=")[0].replace("_", "-") for word in words}
    if given & {"--resume", "--auto-resume"}:
        raise UsageError("a job continues its run by itself: submit it again with the same --name, without --resume")
    if "--json" in given:
        raise UsageError("--json is a file of this machine: the figures are in result.json in the run's place")


def _settings(options: SubmitTrainOptions | SubmitTuneOptions, overrides: Overrides) -> Settings:
    """The settings of the run as the cluster will have them; raises `UsageError` for what it would refuse."""
    base = base_settings(options)
    if base is None:
        raise UsageError(f"name a recipe: {', '.join(RECIPES)}")
    data = {} if options.data is None else {"tasks.path": [str(options.data)]}
    return override(base, {**overrides, **data})


def _action(command: str, actions: Mapping[str, str], words: Sequence[str], what: str) -> tuple[str, list[str]] | None:
    """The action and its words; None after help was printed. Raises `UsageError` for an unknown one."""
    if not words or words[0] in ("-h", "--help"):
        rows = [f"  {name:<10} {text}" for name, text in actions.items()]
        print("\n".join([f"usage: mcb {command} ACTION [OPTIONS]", "", what, "", "actions:", *rows, ""]))
        print(f"mcb {command} ACTION --help lists an action's options.")
        return None
    name, *rest = words
    if name not in actions:
        raise UsageError(f"unknown action {name!r} of mcb {command}{nearest(name, actions)}")
    return name, rest
