"""Which run is meant: settings, folder and tracking store, of a new run or of one to be resumed."""

from typing import NamedTuple

from cluster.tracking_store import absolute_uri
from jobs.arguments import TrainOptions
from jobs.errors import UsageError
from jobs.overrides import Overrides, override
from jobs.runs import RunFolder, begun_folder, default_tracking_uri, new_folder, require_place
from jobs.settings import Settings
from jobs.settings_file import flatten, read_yaml

_MAY_CHANGE = ("cluster.", "evaluation.", "train.num_steps", "train.checkpoint_", "tasks.path")
_MAY_NOT = ("cluster.policy.", "cluster.gradient_wire", "cluster.parameter_wire")  # parts of the result


class Job(NamedTuple):
    """A run that is ready to start."""

    folder: RunFolder
    settings: Settings
    tracking_uri: str
    resume: bool


def find_job(options: TrainOptions, base: Settings | None, overrides: Overrides) -> Job:
    """The run that the words of the command mean; nothing is written. `base` are the settings named by them, if any.

    Raises `UsageError` for a folder that holds a run, or none, and for settings that a resumed run cannot change.
    """
    if options.json is not None:
        require_place(options.json)
    if options.resume:
        return _resumed(options, base, overrides)
    if base is None:
        raise UsageError("name a recipe, or settings with --config")
    settings = override(base, overrides)
    uri = options.tracking_uri or default_tracking_uri()
    return Job(new_folder(settings.recipe, options.out), settings, absolute_uri(uri), resume=False)


def _resumed(options: TrainOptions, base: Settings | None, overrides: Overrides) -> Job:
    folder = begun_folder(options.recipe, options.out)
    saved = read_yaml(folder.settings)
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
    uri = options.tracking_uri or folder.read_identity().get("tracking_uri") or default_tracking_uri()
    return Job(folder, settings, absolute_uri(uri), resume=True)
