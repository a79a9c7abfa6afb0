"""The manifests as kustomize renders them, once for all tests."""

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from schemas import INFRA

Rendered = list[dict[str, Any]]


@pytest.fixture(scope="session")
def rendered() -> Callable[[str], Rendered]:
    """A kustomization below `infra/kubernetes` to its objects; skips where there is no kubectl to render it with."""
    kubectl = shutil.which("kubectl")
    known: dict[str, Rendered] = {}

    def render(folder: str) -> Rendered:
        if kubectl is None:
            pytest.skip("kubectl is not installed, so kustomize cannot render")
        if folder not in known:
            command = [kubectl, "kustomize", str(INFRA / "kubernetes" / folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            known[folder] = list(yaml.load_all(done.stdout, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        return known[folder]

    return render
