"""Which run is meant: settings, folder and tracking store, of a new run or of one to be resumed."""

from typing import NamedTuple

from cluster.checkpoint import load_newest, paths
from cluster.storage import absolute
from cluster.tracking_store import absolute_uri
from jobs.arguments import TrainOptions
from jobs.errors import UsageError
from jobs.runs.folder import RunFolder, begun_folder, default_tracking_uri, new_folder, require_place, require_whole
from jobs.settings.file import flatten, from_yaml, read_yaml
from jobs.settings.overrides import Overrides, override
from jobs.settings.tree import Settings

_MAY_CHANGE = ("cluster.", "evaluation.", "tracking.", "train.num_steps", "train.checkpoint_", "tasks.path")
_MAY_NOT = ("cluster.policy.", "cluster.gradient_wire", "cluster.parameter_wire")  # parts of the result


class Job(NamedTuple):
    """A run that is ready to start."""

    folder: RunFolder
    settings: Settings
    tracking_uri: str
    resume: bool

    @property
    def checkpoints(self) -> str:
        """Folder or URL of the checkpoints."""
        return self.settings.train.checkpoint_dir or self.folder.checkpoints


def find_job(options: TrainOptions, base: Settings | None, overrides: Overrides) -> Job:
    """The run that the words of the command mean; nothing is written. `base` are the settings named by them, if any.

    Raises `UsageError` for a folder that holds a run, or none, and for settings that a resumed run cannot change.
    """
    if options.json is not None:
        require_place(options.json)
    if options.resume or (options.auto_resume and _is_begun(options, base, overrides)):
        return _resumed(options, base, overrides)
    if base is None:
        raise UsageError("name a recipe, or settings with --config")
    settings = override(base, overrides)
    uri = options.tracking_uri or default_tracking_uri()
    return Job(new_folder(settings.recipe, options.out), settings, absolute_uri(uri), resume=False)


def _is_begun(options: TrainOptions, base: Settings | None, overrides: Overrides) -> bool:
    """Whether there is a run to continue where the command says that there may be one."""
    location = _location(base, overrides)
    if location is not None:
        return bool(paths(location))
    if options.out is None:
        raise UsageError("--auto-resume needs the place of the run: give --out or --train.checkpoint-dir")
    return RunFolder(options.out.absolute()).is_begun


def _location(base: Settings | None, overrides: Overrides) -> str | None:
    """Where the command itself says that the checkpoints lie."""
    named = overrides.get("train.checkpoint_dir", [])
    if named:
        return None if named[0].lower() in ("none", "null") else absolute(named[0])
    return None if base is None else base.train.checkpoint_dir


def _require_own_checkpoints(options: TrainOptions, overrides: Overrides, location: str | None) -> None:
    """Raise `UsageError` for checkpoints that --config alone names and that are not those of the run in --out."""
    if location is None or options.out is None or "train.checkpoint_dir" in overrides or not paths(location):
        return
    if RunFolder(options.out.absolute()).checkpoints != location:
        raise UsageError(
            f"{options.config} keeps checkpoints at {location}, and some are there that are not those of --out "
            f"{options.out}: begin anew with --train.checkpoint-dir none, or go on from those with "
            f"--train.checkpoint-dir {location}"
        )


def _resumed(options: TrainOptions, base: Settings | None, overrides: Overrides) -> Job:
    location = _location(base, overrides)
    _require_own_checkpoints(options, overrides, location)
    folder, saved = _begun(options, location)
    if options.recipe not in (None, saved.recipe):
        raise UsageError(f"{folder.path} holds a run of recipe {saved.recipe!r}, not {options.recipe!r}")
    settings = override(saved if options.config is None or base is None else base, overrides)
    before, after = flatten(saved.model_dump()), flatten(settings.model_dump())
    for path in after:
        may = path.startswith(_MAY_CHANGE) and not path.startswith(_MAY_NOT)
        if after[path] != before.get(path) and not may:
            raise UsageError(
                f"a run is resumed as it was set: {path} is {before.get(path)} there, not {after[path]}; "
                "leave the setting out, or start another run without --resume"
            )
    known = folder.read_identity().get("tracking_uri") or default_tracking_uri()
    uri = options.tracking_uri or require_whole(known)
    return Job(folder, settings, absolute_uri(uri), resume=True)


def _begun(options: TrainOptions, location: str | None) -> tuple[RunFolder, Settings]:
    """The folder of the run to resume and its settings: those in its checkpoints at `location`, if that is given."""
    if location is None:
        folder = begun_folder(options.recipe, options.out)
        return folder, read_yaml(folder.settings)
    saved = from_yaml(load_newest(location).settings_yaml, origin=f" (in {location})")
    return RunFolder(options.out.absolute()) if options.out else new_folder(saved.recipe, None), saved
