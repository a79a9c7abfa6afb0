import io
import subprocess
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from cluster.errors import UserError
from jobs.submission import package
from jobs.submission.package import candidates, chosen, pack

_SHIPPED = ("mcb/learner.py", "mcb/data/table.csv", "curves.parquet", "jobs/runs/x.py")
_LEFT = (
    *(".git/config", ".venv/bin/python", "venv/x", ".env", ".aws/credentials", "runs/mlflow.db", "data/big.parquet"),
    *(
        "mcb/__pycache__/x.pyc",
        "mlruns/1",
        "x.egg-info/PKG",
        "build/lib/x.py",
        ".pytest_cache/x",
        "node_modules/a/b.js",
        "secrets/token",
        "infra/server.pem",
        "tls.key",
        "id_rsa.old",
        "id_ed25519",
    ),
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (*_SHIPPED, *_LEFT):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def _files(tree: Path, *excludes: str) -> set[str]:
    return set(chosen(candidates(tree, excludes), excludes))


def test_code_travels_and_environments_runs_data_caches_and_secrets_stay(tree):
    assert _files(tree) == set(_SHIPPED)


def test_patterns_of_names_and_of_paths_exclude(tree):
    assert _files(tree, "*.parquet", "mcb/data") == {"mcb/learner.py", "jobs/runs/x.py"}
    assert _files(tree, "mcb/*", "jobs/") == {"curves.parquet"}


def test_what_git_ignores_stays_too(tree):
    (tree / ".gitignore").write_text("*.parquet\n")
    (tree / ".git" / "config").unlink()
    subprocess.run(["git", "init", "-q", tree], check=True)
    assert _files(tree) == set(_SHIPPED) - {"curves.parquet"}


def test_a_git_that_fails_is_refused_and_no_repository_is_none_in_any_language(tree, tmp_path_factory, monkeypatch):
    (tree / ".git" / "config").unlink()
    subprocess.run(["git", "init", "-q", tree], check=True)
    (tree / ".git" / "index").write_text("damaged")
    with pytest.raises(UserError, match=f"git cannot list the files of {tree}: .*index"):
        candidates(tree, [])
    programs = tmp_path_factory.mktemp("bin")
    git = programs / "git"
    git.write_text(
        """#!/bin/sh
case "$LC_ALL" in C) echo "fatal: not a git repository" ;; *) echo "fatal: kein Git-Repository" ;; esac >&2
exit 128
"""
    )
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert _files(tree) == set(_SHIPPED)


def test_a_file_that_is_named_travels_in_spite_of_everything(tree):
    named = PurePosixPath("data/big.parquet")
    assert "data/big.parquet" in chosen(candidates(tree, ["*"]), ["*"], [named])


def test_the_same_contents_are_the_same_bytes_so_that_nothing_is_uploaded_twice(tree):
    first = pack(tree, _SHIPPED)
    for name in _SHIPPED:
        (tree / name).touch()
    assert pack(tree, _SHIPPED) == first
    (tree / "mcb/learner.py").write_text("other")
    assert pack(tree, _SHIPPED) != first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.read("mcb/data/table.csv") == b"mcb/data/table.csv"


def test_too_much_is_refused_with_the_largest_files_and_before_it_is_read(tree):
    big = tree / "big.bin"
    with big.open("wb") as file:
        file.truncate(2 * package.LIMIT_BYTES)  # a hole, not bytes
    with pytest.raises(UserError, match=r"come to 190 MiB, and a job takes at most 95 MiB.*big\.bin \(190 MiB\)"):
        pack(tree, ["big.bin", *_SHIPPED])


def test_a_folder_of_too_many_files_and_a_file_that_went_away_are_refused(tree, monkeypatch):
    with pytest.raises(UserError, match=r"gone\.py cannot be uploaded: No such file"):
        pack(tree, ["gone.py"])
    monkeypatch.setattr(package, "LIMIT_FILES", 3)
    with pytest.raises(UserError, match="more than 3 files"):
        candidates(tree, [])
