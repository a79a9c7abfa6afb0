"""What a submitted job is: its name, the place of its run, the `mcb` command that the cluster runs. No Ray here."""

import dataclasses
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cluster.secrets import holds_password, is_variable_name, without_password
from cluster.storage import absolute, is_url
from jobs.arguments import EvaluateOptions, TrainOptions, TuneOptions
from jobs.errors import UsageError
from jobs.settings.overrides import Overrides
from jobs.submission.arguments import Submission, SubmitEvaluateOptions, SubmitTrainOptions, SubmitTuneOptions

RUN_KEY, NAME_KEY = "mcb_run", "job_name"
_STORAGE = "MCB_STORAGE"
_TRACKING = "$MLFLOW_TRACKING_URI"  # the cluster's
_STOP_WAIT_S = 60  # to finish a meta-step and write a checkpoint; by default Ray kills after 3
_CHECKPOINTS = "train.checkpoint_dir"
_NOT_SENT = ("out", "resume", "auto_resume", "name", "json", "debug", "tracking_uri")


class JobRequest(NamedTuple):
    """A job that is ready to be submitted; `files` are named by its command and must travel."""

    name: str
    place: str | None
    tracking_uri: str
    command: tuple[str, ...]
    files: tuple[PurePosixPath, ...]
    credentials: tuple[str, ...]

    @property
    def entrypoint(self) -> str:
        """The shell command. `exec`: signals and exit codes are then the driver's own."""
        needs = ["--credentials", ",".join(self.credentials)] if self.credentials else []
        return "exec " + shlex.join(["python", "-m", "jobs.job_entry", *needs, *self.command])

    @property
    def metadata(self) -> dict[str, str]:
        """What the dashboard and `mcb jobs list` show."""
        place = {} if self.place is None else {RUN_KEY: self.place}
        return {NAME_KEY: self.name, "mcb_command": self.command[0], **place}

    def new_id(self) -> str:
        """An id that no job has yet, from the name."""
        return f"{self.name}-{secrets.token_hex(3)}"


def train_request(
    options: SubmitTrainOptions, overrides: Overrides, recipe: str, environment: Mapping[str, str], root: Path
) -> JobRequest:
    """The job of `mcb submit train`; raises `UsageError` for what cannot be meant."""
    _require_sendable(options)
    place = _place(options.out, options.storage, options.name or _default_name(recipe), environment)
    name = PurePosixPath(place).name
    if is_url(place) and _CHECKPOINTS in overrides:
        raise UsageError("--train.checkpoint-dir and a URL as --storage are two places for checkpoints: give one")
    if is_url(place):
        where = ["--out", f"runs/{name}", "--auto-resume", f"--train.checkpoint-dir={place}"]
    else:
        where = ["--out", place, "--auto-resume"]
    return _request("train", TrainOptions, options, overrides, name, place, where, root)


def tune_request(
    options: SubmitTuneOptions, overrides: Overrides, recipe: str, environment: Mapping[str, str], root: Path
) -> JobRequest:
    """The job of `mcb submit tune`; raises `UsageError` for what cannot be meant."""
    _require_sendable(options)
    space = PurePosixPath(options.space or "modes").stem
    place = _place(options.out, options.storage, options.name or _default_name(f"{recipe}-{space}"), environment)
    if is_url(place):
        raise UsageError(f"a search is kept in a folder that all nodes share, not at {place}: give one as --storage")
    where = ["--out", place, "--auto-resume"]
    return _request("tune", TuneOptions, options, overrides, PurePosixPath(place).name, place, where, root)


def evaluate_request(options: SubmitEvaluateOptions, overrides: Overrides, root: Path) -> JobRequest:
    """The job of `mcb submit evaluate`; raises `UsageError` for what cannot be meant."""
    _require_sendable(options)
    where = []
    if options.out is not None:
        where = ["--out", _place(options.out, None, "", {})]
    name = _default_name("evaluate")
    return _request("evaluate", EvaluateOptions, options, overrides, name, None, where, root)


def runtime_environment(archive: Path, job: str) -> dict[str, object]:
    """Ray's runtime environment: the files, and what the job must know of itself. It is shown to everybody."""
    return {
        "working_dir": str(archive),
        "env_vars": {"MCB_JOB": job, "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S)},
    }


def resources(options: Submission) -> dict[str, float | int]:
    """What the driver reserves, as Ray's client takes it; raises `UsageError` for a negative amount."""
    amounts = {
        "entrypoint_num_cpus": options.entrypoint_num_cpus,
        "entrypoint_num_gpus": options.entrypoint_num_gpus,
        "entrypoint_memory_gb": options.entrypoint_memory_gb,
    }
    for name, amount in amounts.items():
        if not 0 <= amount < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} {amount:g} must be at least 0")
    memory = int(amounts.pop("entrypoint_memory_gb") * 1e9)
    given: dict[str, float | int] = {name: amount for name, amount in amounts.items() if amount}
    return given | ({"entrypoint_memory": memory} if memory else {})


def _request(
    command: str,
    kind: type,
    options: SubmitTrainOptions | SubmitTuneOptions | SubmitEvaluateOptions,
    overrides: Overrides,
    name: str,
    place: str | None,
    where: Sequence[str],
    root: Path,
) -> JobRequest:
    """The command line for the cluster, made of the options that the command itself has."""
    tracking_uri = options.tracking_uri or _TRACKING
    words, files = [command], []
    for field in dataclasses.fields(kind):
        value = getattr(options, field.name)
        if field.name in _NOT_SENT or value == field.default:
            continue
        if field.name in ("config", "data", "space"):
            value, sent = _named_file(field.name, str(value), root)
            files += sent
        option = [] if field.name in ("recipe", "run") else [_option(field.name)]
        words += option if value is True else [*option, str(value)]
    for path, values in overrides.items():  # without a value: true, or an empty list
        words.append(f"{_option(path)}={','.join(values)}" if any(values) else _option(path))
    words += [*where, "--tracking-uri", tracking_uri]
    return JobRequest(name, place, tracking_uri, tuple(words), tuple(files), options.credentials)


def _require_sendable(options: SubmitTrainOptions | SubmitTuneOptions | SubmitEvaluateOptions) -> None:
    for name in options.credentials:
        if not is_variable_name(name):
            raise UsageError("--credentials takes names of environment variables alone: letters, digits and _")
    if options.tracking_uri is not None and holds_password(options.tracking_uri):
        raise UsageError(
            f"--tracking-uri {without_password(options.tracking_uri)} holds a password, which everybody who sees the "
            "job would see: name a variable of the cluster in its place, 'postgresql://mcb:$DB_PASSWORD@db/mlflow'"
        )


def _place(out: Path | None, storage: str | None, name: str, environment: Mapping[str, str]) -> str:
    """Where the run lies on the cluster: `out`, or a folder of its own below the storage."""
    if out is not None:
        if not out.is_absolute():
            raise UsageError(f"--out {out} must be a whole path on the cluster: it begins with /")
        return str(out)
    root = storage or environment.get(_STORAGE)
    if not root:
        raise UsageError(
            f"say where the cluster keeps runs: --storage with a folder that all nodes share or a URL (s3://...), or "
            f"the variable {_STORAGE}"
        )
    if not is_url(root) and not root.startswith(("/", "file:")):
        raise UsageError(f"--storage {root} must be a URL, or a whole path on the cluster: it begins with /")
    if not name or "/" in name or name.startswith(".") or not name.isprintable():
        raise UsageError(f"--name {name!r} must be a plain name, without a slash or a leading dot")
    return f"{absolute(root).rstrip('/')}/{name}"


def _named_file(option: str, name: str, root: Path) -> tuple[str, list[PurePosixPath]]:
    """What a file is called on the cluster, and itself if it travels: what lies in the working directory does."""
    path = Path(name)
    inside = (root / path).resolve()
    if inside.is_file() and inside.is_relative_to(root.resolve()):
        relative = PurePosixPath(inside.relative_to(root.resolve()).as_posix())
        return str(relative), [relative]
    if option == "space" and not path.suffix:
        return name, []
    if path.is_absolute() and option == "data":
        return name, []  # a file of the cluster's own
    problem = "lies outside of" if inside.is_file() else "is no file of"
    raise UsageError(f"--{option} {name} {problem} the working directory {root}, which is what a job is sent")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _default_name(stem: str) -> str:
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
