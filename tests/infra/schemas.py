"""Strict validation of manifests: against KubeRay's own CRDs, and core objects against Kubernetes' schemas."""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
CRDS = ROOT.parent / "shared" / "schemas"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Refused(Exception):
    """A manifest that its schema refuses: where, and why."""


@functools.cache
def crd(kind: str) -> jsonschema.Draft202012Validator:
    """Validates a KubeRay kind at `ray.io/v1` and refuses unknown fields; skips the test where no CRD is at hand."""
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's CRD is not at {path}")
    definition = yaml.load(path.read_text(), LOADER)
    (version,) = (version for version in definition["spec"]["versions"] if version["name"] == "v1")
    return jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))


def closed(schema: Any) -> Any:
    """The schema that refuses the fields which the API server would silently drop."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: closed(part) for name, part in schema.items()}
    is_object = isinstance(schema.get("properties"), Mapping) and "type" in schema
    if is_object and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


def with_defaults(schema: Any, value: Any) -> Any:
    """A copy of the value with the defaults that the API server fills in before it validates."""
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict):
        return value
    parts = schema.get("properties", {})
    filled = {name: part["default"] for name, part in parts.items() if "default" in part} | value
    return {name: with_defaults(parts.get(name, {}), part) for name, part in filled.items()}


def validate(manifest: dict[str, Any]) -> None:
    """Raise `Refused` for a manifest that does not fit the schema of its kind, or whose kind has none."""
    _accepted(json.dumps(manifest, sort_keys=True))


@functools.cache
def _accepted(text: str) -> None:
    """Overlays leave most objects as they are: each is validated once."""
    manifest = json.loads(text)
    match manifest["apiVersion"].partition("/")[0]:
        case "ray.io":
            validator = crd(manifest["kind"])
            for error in validator.iter_errors(with_defaults(validator.schema, manifest)):
                raise Refused(f"{error.json_path}: {error.message}")
        case "monitoring.coreos.com" | "kustomize.config.k8s.io":
            pass  # kubectl reads the second itself; of the first no schema is to be had offline
        case _:
            try:
                kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                raise Refused(str(error)) from error


def manifests(*folders: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of every object in the files of these folders below `infra/kubernetes`."""
    for folder in folders:
        for path in sorted((INFRA / "kubernetes" / folder).glob("*.yaml")):
            for manifest in yaml.safe_load_all(path.read_text()):
                if isinstance(manifest, dict):
                    yield f"{folder}/{path.name}: {manifest['kind']}", manifest


def pod_specs(manifest: Any) -> Iterator[dict[str, Any]]:
    """Every pod specification in a manifest, however deep."""
    if isinstance(manifest, dict):
        if isinstance(manifest.get("containers"), list):
            yield manifest
        for part in manifest.values():
            yield from pod_specs(part)
    elif isinstance(manifest, list):
        for part in manifest:
            yield from pod_specs(part)
