"""What a tracked run says of its code and its machine."""

import re
import subprocess

from jobs.settings.recipes import recipe
from jobs.training.train import run_tags


def test_tags_name_the_recipe_and_the_versions(tmp_path):
    tags = run_tags(recipe("two-modes"), tmp_path)
    assert tags["recipe"] == "two-modes" and tags["run_folder"] == str(tmp_path)
    assert re.match(r"\d+\.\d+", tags["torch"])


def test_a_run_needs_no_git(monkeypatch, tmp_path):
    """A container's image has none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "mlflow.source.git.commit" not in run_tags(recipe("two-modes"), tmp_path)


def test_the_commit_of_a_repository_that_only_surrounds_an_installed_package_is_not_the_runs(monkeypatch, tmp_path):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "--quiet"], [*who, "commit", "--quiet", "--allow-empty", "--message", "another project"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr("jobs.training.record.__file__", str(tmp_path / "record.py"))
    assert "mlflow.source.git.commit" not in run_tags(recipe("two-modes"), tmp_path)
