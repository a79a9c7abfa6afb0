"""Which search is meant: what it asks for, where it lies, and whether it may be continued."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import ValidationError

from cluster.secrets import without_password
from cluster.tracking_store import absolute_uri
from jobs.arguments import TuneOptions
from jobs.errors import UsageError
from jobs.runs.folder import RUNS, RunFolder, default_tracking_uri, require_place, require_whole
from jobs.search.space_file import read_space
from jobs.settings.file import flatten
from jobs.settings.overrides import Overrides, override
from jobs.settings.section import Section, count
from jobs.settings.tree import Settings

SEARCHES = "tune"
_FILE = "search.yaml"
_NUM_REPORTS = 9
_SHORTER = 10  # times shorter than the recipe, a trial is by default
_MAY_CHANGE = ("num_trials", "num_seeds", "settings.cluster.", "settings.tasks.path", "tracking_uri")


class Search(Section):
    """A whole search; `settings` are what every trial's point is put into."""

    name: str
    space: str | Mapping[str, object]
    settings: Settings
    num_trials: Annotated[int, count(1, 100_000, "trials")] = 24
    searcher: Literal["tpe", "random", "grid"] = "tpe"
    scheduler: Literal["asha", "hyperband", "pbt", "none"] = "asha"
    second_objective: Literal["seconds", "num-modes"] | None = None
    num_validation_tasks: Annotated[int, count(2, 10**8, "validation tasks")] = 2000
    num_seeds: Annotated[int, count(0, 1000, "runs of the best trial's settings with fresh seeds")] = 3
    tracking_uri: str

    @property
    def space_name(self) -> str:
        """The space in words."""
        return self.space if isinstance(self.space, str) else "a YAML file's"

    @property
    def shown(self) -> dict[str, object]:
        """The search as it is written down and tracked: without a password."""
        return {**self.model_dump(mode="json"), "tracking_uri": without_password(self.tracking_uri)}


class FoundSearch(NamedTuple):
    """A search that is ready to start or to go on, and its folder."""

    search: Search
    folder: Path
    resume: bool

    @property
    def trials(self) -> Path:
        """Where the trials lie."""
        return self.folder / "trials"

    @property
    def best(self) -> Path:
        """The best trial's settings, as `mcb train --config` takes them."""
        return self.folder / "best.yaml"

    @property
    def retrained(self) -> Path:
        """Where the runs with fresh seeds lie."""
        return self.folder / "best"

    @property
    def summary(self) -> Path:
        """Tables and figures of the search."""
        return self.folder / "summary"

    @property
    def result(self) -> Path:
        """The trials and the best one, as `--json` writes them."""
        return self.folder / "result.json"

    @property
    def identity_file(self) -> Path:
        """The tracked run that shows the search."""
        return self.folder / "run.json"

    @property
    def identity(self) -> Mapping[str, str]:
        """`run_id` and `tracking_uri`; empty where they cannot be read."""
        return RunFolder(self.folder).read_identity()

    @property
    def file(self) -> Path:
        """What the search asks for."""
        return self.folder / _FILE


def find_search(options: TuneOptions, base: Settings | None, overrides: Overrides) -> FoundSearch:
    """The search that the words of the command mean; nothing is written.

    Raises `UsageError` for a place that holds another search, or none to resume, and for what cannot change midway.
    """
    if options.json is not None:
        require_place(options.json)
    if options.resume or (options.auto_resume and _is_begun(options)):
        return _resumed(options, base, overrides)
    if base is None:
        raise UsageError("name a recipe, or settings with --config")
    search = _new(options, base, overrides)
    folder = options.out.absolute() if options.out else RUNS.absolute() / SEARCHES / search.name
    if (folder / _FILE).exists():
        before = _read(folder)
        if before.space != search.space:
            raise UsageError(
                f"the search {before.name!r} exists with another space, {before.space_name} and not "
                f"{search.space_name}: choose another --name or --out"
            )
        raise UsageError(f"the search {before.name!r} exists: go on with --resume, or choose another --name or --out")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds other files: choose another --out")
    return FoundSearch(search, folder, resume=False)


def save(found: FoundSearch) -> None:
    """Make the folder and write what the search asks for."""
    found.folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(found.search.shown, sort_keys=False)
    temporary = found.file.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(found.file)


def _new(options: TuneOptions, base: Settings, overrides: Overrides) -> Search:
    space = read_space(options.space or "modes")
    name = options.name or (options.out.name if options.out else _default_name(base, options.space or "modes"))
    if "/" in name or name.startswith("."):
        raise UsageError(f"--name {name!r} must be a plain name, without a slash or a leading dot")
    short = base.train.model_copy(update={"num_steps": -(-base.train.num_steps // _SHORTER)})
    alone = base.cluster.model_copy(update={"num_workers": 1})
    settings = override(base.model_copy(update={"train": short, "cluster": alone}), overrides)
    num_reports = _NUM_REPORTS if options.num_reports is None else options.num_reports
    if not 1 <= num_reports <= settings.train.num_steps:
        raise UsageError(f"--num-reports {num_reports} must lie in 1..train.num_steps={settings.train.num_steps}")
    if "train.checkpoint_every" not in overrides:
        every = {"checkpoint_every": -(-settings.train.num_steps // num_reports)}
        settings = settings.model_copy(update={"train": settings.train.model_copy(update=every)})
    return _validated({**_given(options), "name": name, "space": space, "settings": settings.model_dump()})


def _default_name(base: Settings, space: str) -> str:
    stem = f"{base.recipe}-{Path(space).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = [path.name for path in (RUNS.absolute() / SEARCHES).glob(f"{stem}*")]
    return stem if stem not in taken else f"{stem}-{len(taken)}"


def _given(options: TuneOptions) -> dict[str, object]:
    """The options that are part of a search, where they were given."""
    names = ("num_trials", "searcher", "scheduler", "second_objective", "num_validation_tasks", "num_seeds")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return {**given, "tracking_uri": absolute_uri(options.tracking_uri or default_tracking_uri())}


def _resumed(options: TuneOptions, base: Settings | None, overrides: Overrides) -> FoundSearch:
    folder = _folder_to_resume(options, base)
    before = _read(folder)
    if base is not None and base.recipe != before.settings.recipe:
        raise UsageError(
            f"the search {before.name!r} is of recipe {before.settings.recipe!r}, not {base.recipe!r}: name that one"
        )
    changes = {name: value for name, value in _given(options).items() if name != "tracking_uri" or options.tracking_uri}
    if options.space is not None:
        changes["space"] = read_space(options.space)
    _require_reports(options.num_reports, before)
    settings = override(before.settings, overrides)
    after = _validated({**before.model_dump(), **changes, "settings": settings.model_dump()})
    require_whole(after.tracking_uri)
    was, now = flatten(before.model_dump()), flatten(after.model_dump())
    for path in {**was, **now}:
        if was.get(path) != now.get(path) and not path.startswith(_MAY_CHANGE):
            raise UsageError(
                f"a search is resumed as it was set: {path} is {was.get(path)} there, not {now.get(path)}; leave it "
                "out, or start another search with --name"
            )
    return FoundSearch(after, folder, resume=True)


def _require_reports(num_reports: int | None, before: Search) -> None:
    """Refuse a number of reports that would put the checkpoints of a search elsewhere than they are."""
    train = before.settings.train
    if num_reports is not None and (num_reports < 1 or -(-train.num_steps // num_reports) != train.checkpoint_every):
        raise UsageError(
            f"a search is resumed as it was set: its trials report every {train.checkpoint_every} of "
            f"{train.num_steps} meta-steps, which --num-reports {num_reports} would change; leave it out, or start "
            "another search with --name"
        )


def _is_begun(options: TuneOptions) -> bool:
    """Whether there is a search to continue where the command says that there may be one."""
    if options.out is None and options.name is None:
        raise UsageError("--auto-resume needs the place of the search: give --out or --name")
    return (_named_folder(options) / _FILE).exists()


def _named_folder(options: TuneOptions) -> Path:
    return options.out.absolute() if options.out else RUNS.absolute() / SEARCHES / str(options.name)


def _folder_to_resume(options: TuneOptions, base: Settings | None) -> Path:
    """The folder that is named, or that of the newest search (of the recipe)."""
    if options.out is not None or options.name is not None:
        folder = _named_folder(options)
        if not (folder / _FILE).exists():
            raise UsageError(f"{folder} holds no search to resume: leave out --resume to start one there")
        return folder
    files = sorted((RUNS.absolute() / SEARCHES).glob(f"*/{_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        if base is None or _read(file.parent).settings.recipe == base.recipe:
            return file.parent
    of = "" if base is None else f"of recipe {base.recipe!r} "
    raise UsageError(
        f"there is no search {of}to resume below {RUNS.absolute() / SEARCHES}: name it with --name or --out"
    )


def _read(folder: Path) -> Search:
    try:
        return Search.model_validate(yaml.safe_load((folder / _FILE).read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise UsageError(f"the search {folder / _FILE} cannot be read: {' '.join(str(error).split())}") from error


def _validated(tree: Mapping[str, object]) -> Search:
    try:
        return Search.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        option = "--" + "-".join(str(part) for part in problem["loc"]).replace("_", "-")
        message = problem["msg"]
        raise UsageError(f"{option} {problem['input']}: {message[0].lower()}{message[1:]}") from error
