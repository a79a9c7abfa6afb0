"""Secrets: made at random into files, the same set for compose and Kubernetes, none of them in the repository."""

import shutil
import stat
import subprocess
from base64 import b64decode
from configparser import ConfigParser
from pathlib import Path

import pytest
from rendering import rendered, rendered_at
from schemas import INFRA, ROOT, validate

EXAMPLES = INFRA / "compose" / "secrets"


def make(folder: Path) -> dict[str, str]:
    subprocess.run(["sh", str(INFRA / "make_secrets.sh"), str(folder)], check=True, capture_output=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_every_secret_is_made_once_at_random_and_closed_to_other_users(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    assert first.keys() == second.keys()
    random = {name for name, text in first.items() if len(text) == 64 and int(text, 16)}
    assert random == first.keys() - {"object-store-user", "object-store-credentials"}
    assert not any(first[name] == second[name] for name in random)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert make(tmp_path / "a") == first


def test_a_value_of_ones_own_is_kept_and_used(tmp_path):
    (tmp_path / "object-store-password").write_text("mine")
    made = make(tmp_path)
    assert made["object-store-password"] == "mine"
    credentials = ConfigParser()
    credentials.read_string(made["object-store-credentials"])
    assert dict(credentials["default"]) == {
        "aws_access_key_id": made["object-store-user"],
        "aws_secret_access_key": "mine",
    }


def test_the_examples_show_what_compose_needs(tmp_path):
    examples = {path.stem for path in EXAMPLES.glob("*.example")}
    assert examples == make(tmp_path).keys() - {"redis-password"}


def test_kustomize_makes_the_secrets_that_the_manifests_name(tmp_path):
    shutil.copy(INFRA / "kubernetes" / "secrets" / "kustomization.yaml", tmp_path)
    made = make(tmp_path)
    secrets = {}
    for item in rendered_at(tmp_path):
        validate(item)
        secrets[item["metadata"]["name"]] = {key: b64decode(text).decode() for key, text in item["data"].items()}
    assert secrets["ray-token"] == {"auth_token": made["ray-token"]}
    assert secrets["object-store"]["credentials"] == made["object-store-credentials"]
    named = {
        reference["secretName"] for item in rendered("base") for reference in _named(item) if "secretName" in reference
    } | {"redis"}
    assert named == secrets.keys()


def _named(part: object) -> list[dict]:
    if isinstance(part, dict):
        return [part, *(found for value in part.values() for found in _named(value))]
    return [found for item in part for found in _named(item)] if isinstance(part, list) else []


def test_git_ignores_real_secrets_and_keeps_the_examples():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folders = ("compose/secrets", "kubernetes/secrets")
    real = [f"infra/{folder}/ray-token" for folder in folders] + ["infra/compose/.env"]
    kept = ["infra/compose/secrets/ray-token.example", "infra/kubernetes/secrets/kustomization.yaml"]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *real, *kept], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == real
