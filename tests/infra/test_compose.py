"""The compose stack: valid, secrets by file, ports on loopback, and every variable with a line in `.env.example`."""

import copy
import json
import re
from importlib.resources import files
from typing import Any

import pytest
import yaml
from jsonschema.validators import validator_for
from schemas import INFRA

COMPOSE = INFRA / "compose"
FILES = ("compose.yaml", "compose.gpu.yaml")
TEXTS = {name: (COMPOSE / name).read_text() for name in FILES}
STACK = yaml.safe_load(TEXTS["compose.yaml"])
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


@pytest.fixture(scope="session")
def validator() -> Any:
    """The compose specification's own schema, which check-jsonschema carries."""
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    return validator_for(schema)(schema)


@pytest.mark.parametrize("name", FILES)
def test_files_are_valid(validator, name):
    assert [error.message for error in validator.iter_errors(yaml.safe_load(TEXTS[name]))] == []


@pytest.mark.parametrize(
    ("service", "field", "wrong"),
    [("mlflow", "portz", []), ("ray-head", "healthcheck", {"tests": []}), ("postgres", "secrets", "postgres-password")],
)
def test_a_misspelt_field_or_a_wrong_value_is_refused(validator, service, field, wrong):
    stack = copy.deepcopy(STACK)
    stack["services"][service][field] = wrong
    assert not validator.is_valid(stack)


def test_every_service_says_when_it_is_healthy_starts_again_and_has_a_bound_of_memory():
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
        assert "memory" in service["deploy"]["resources"]["limits"], name


def test_services_wait_for_the_health_of_what_they_need():
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES and how == {"condition": "service_healthy"}


def test_every_port_is_bound_to_loopback():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_secrets_are_files_that_the_repository_does_not_hold():
    used = {name for service in SERVICES.values() for name in service.get("secrets", [])}
    assert used == set(STACK["secrets"])
    for name, source in STACK["secrets"].items():
        assert source == {"file": f"./secrets/{name}"}
        assert (COMPOSE / "secrets" / f"{name}.example").exists()
    assert not re.search(
        r"(password|secret|token|key)\w*:\s*[^/\s{\[]*[a-z0-9]{12}", TEXTS["compose.yaml"], re.IGNORECASE
    )


def test_ray_asks_for_a_token():
    for name in ("ray-head", "ray-worker"):
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray-token"
        assert "ray-token" in SERVICES[name]["secrets"]


def test_images_are_pinned():
    images = [VARIABLE.sub(r"\2", service["image"]) for service in SERVICES.values()]
    for image in images:
        assert re.search(r":v?\d+\.\d+|:RELEASE\.", image), image


def test_every_variable_stands_in_the_example_with_its_default():
    example = dict(line.split("=", 1) for line in (COMPOSE / ".env.example").read_text().splitlines() if "=" in line)
    assert dict(VARIABLE.findall(TEXTS["compose.yaml"])) | {"RAY_WORKER_GPUS": "1"} == example
    assert dict(VARIABLE.findall(TEXTS["compose.gpu.yaml"])).keys() <= example.keys()


def test_what_is_mounted_from_here_is_here():
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", []) if mount.startswith(".")]
    assert len(mounts) == 3
    for mount in mounts:
        source = (COMPOSE / mount.split(":")[0]).resolve()
        assert source.exists() or source.parent.name == "grafana"
        assert mount.endswith(":ro")


def test_builds_name_dockerfiles_that_are_here():
    for service in SERVICES.values():
        if "build" in service:
            assert ((COMPOSE / service["build"]["context"]) / service["build"]["dockerfile"]).resolve().exists()


def test_prometheus_scrapes_the_port_that_rays_nodes_export_at():
    (ray, _) = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())["scrape_configs"]
    (targets,) = ray["dns_sd_configs"]
    for name in targets["names"]:
        assert f"--metrics-export-port={targets['port']}" in SERVICES[name]["command"]
