"""Settings as YAML and back; what does not fit is refused in one sentence that names the value and the range."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from jobs.errors import UsageError, nearest
from jobs.settings.leaves import leaves
from jobs.settings.tree import Settings


def to_yaml(settings: Settings) -> str:
    """The whole tree, as `--config` takes it."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def from_yaml(text: str, origin: str = "") -> Settings:
    """The inverse of `to_yaml`; sections left out have their defaults.

    Raises `UsageError`, which ends in `origin`, for a text that is not a tree or a value that does not fit.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"the settings are not YAML: {' '.join(str(error).split())}{origin}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"the settings must be a tree of sections, as settings.yaml of a run is{origin}")
    return validate(tree, origin)


def read_yaml(path: Path) -> Settings:
    """The settings in a file; raises `UsageError` if it cannot be read or does not fit."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the settings {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return from_yaml(text, origin=f" (in {path})")


def flatten(tree: Mapping[str, object], path: str = "") -> dict[str, object]:
    """Leaves by path.

    >>> flatten({"train": {"num_steps": 10}, "seed": 0})
    {'train.num_steps': 10, 'seed': 0}
    """
    flat: dict[str, object] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return flat


def validate(tree: Mapping[str, object], origin: str = "") -> Settings:
    """The settings in a tree; raises `UsageError` that says which value does not fit and what would."""
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise UsageError(_sentence(error) + origin) from error


def _sentence(error: ValidationError) -> str:
    """The first problem of a validation error. Its location holds the kinds passed through, which paths leave out."""
    problem = error.errors()[0]
    kinds = {str(leaf.field.default) for leaf in leaves() if leaf.path.endswith(".kind")}
    path = ".".join(part for part in problem["loc"] if isinstance(part, str) and part not in kinds)
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown setting {path}{nearest(path, (leaf.path for leaf in leaves()))}"
        case "union_tag_invalid":
            return f"{path}.kind={context['tag']} must be one of {context['expected_tags']}".replace("'", "")
        case "union_tag_not_found":
            return f"{path} must name its kind"
    wanted = [leaf.wanted for leaf in leaves() if leaf.path == path]
    return f"{path}={problem['input']} must be {wanted[0] if wanted else 'a section of settings'}"
