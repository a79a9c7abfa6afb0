"""The manifests as kustomize renders them."""

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from schemas import INFRA, LOADER


@functools.cache
def rendered(folder: str) -> list[dict[str, Any]]:
    """The objects of a kustomization below `infra/kubernetes`."""
    return rendered_at(INFRA / "kubernetes" / folder)


def rendered_at(path: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization; skips the test where there is no kubectl to render it with."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed, so kustomize cannot render")
    done = subprocess.run([kubectl, "kustomize", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, LOADER))
