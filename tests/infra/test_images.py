"""The Dockerfiles by hadolint, and that what they copy and read is there."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from schemas import INFRA, ROOT

DOCKER = INFRA / "docker"
IMAGES = ("Dockerfile", "mlflow.Dockerfile")


def lint(path: Path) -> str:
    """What hadolint says of a Dockerfile; skips where it has no build for this machine."""
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    hadolint = shutil.which("hadolint", path=here)
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "--no-color", str(path)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", IMAGES)
def test_hadolint_has_nothing_to_say(name):
    assert lint(DOCKER / name) == ""


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("FROM python:3.11.14-slim-bookworm\n", "FROM python\n", "DL3006"),
        ("USER 1000:1000", "USER root", "DL3002"),
        ("pip install --no-deps .", "cd /src; pip install numpy", "DL3013"),
        ("\"$(grep '^torch==' constraints.txt)\"", "$(grep '^torch==' constraints.txt)", "SC2046"),
        ("WORKDIR /src", "WORKDRI /src", "unexpected"),
    ],
)
def test_hadolint_refuses_what_is_broken_on_purpose(tmp_path, before, after, rule):
    text = (DOCKER / "Dockerfile").read_text()
    assert before in text
    broken = tmp_path / "Dockerfile"
    broken.write_text(text.replace(before, after))
    assert rule in lint(broken)


@pytest.mark.parametrize("name", IMAGES)
def test_the_last_stage_is_pinned_and_runs_without_privileges(name):
    text = (DOCKER / name).read_text()
    bases = re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    assert len(bases) == 2 and all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    assert re.findall(r"^USER (\S+)", text, flags=re.MULTILINE) == ["1000:1000"]


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_copied_from_here_is_here_and_not_ignored(name):
    ignored = (DOCKER / f"{name}.dockerignore").read_text().split()
    assert ignored[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / name).read_text(), flags=re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists() and f"!{source}" in ignored


def test_the_list_of_requirements_is_the_projects():
    """The Dockerfile's own line of Python, run here."""
    text = (DOCKER / "Dockerfile").read_text()
    (program,) = re.findall(r'python -c "(.+?)" > requirements.txt', text, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program.replace("\\\n", "")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.stdout.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["s3"]]


@pytest.mark.parametrize("package", ["torch", "ray", "mlflow", "psycopg2-binary", "boto3", "s3fs"])
def test_what_the_images_install_by_name_is_constrained(package):
    assert re.search(rf"^{package}==\S+$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)


def test_the_image_has_what_rays_launcher_and_mlflows_artefacts_in_s3_need():
    """The launcher goes from the head to the workers by ssh and rsync, into login shells; MLflow asks for boto3."""
    build, last = (DOCKER / "Dockerfile").read_text().rsplit("\nFROM ", 1)
    assert re.search(r"pip install -c constraints\.txt -r requirements\.txt .*\bboto3\b", build)
    (installed,) = re.findall(r"apt-get install -y --no-install-recommends (.+?) \\", last)
    assert {"openssh-client", "rsync"} <= set(installed.split())
    (profile,) = re.findall(r'echo "export PATH=(\S+?):\\\$PATH" > /etc/profile\.d/\w+\.sh', last)
    (path,) = re.findall(r"^ENV PATH=(\S+?):\$PATH", last, flags=re.MULTILINE)
    assert profile == path
