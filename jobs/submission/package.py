"""What of the working directory travels to the cluster: code and named files; no environments, data, runs, secrets."""

import io
import os
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from cluster.errors import UserError

LIMIT_BYTES = 95 * 1024**2  # Ray's dashboard takes 100 in one request
LIMIT_FILES = 20_000
_SECRET = ("secrets", "*.pem", "*.key", "id_rsa*", "id_ed25519*")
EXCLUDED = ("__pycache__", "venv", "node_modules", "mlruns", "*.egg-info", "*.pyc", "*.db", ".*", *_SECRET)  # anywhere
EXCLUDED_AT_TOP = ("runs", "data", "build", "dist", "shared", "mlartifacts", "artifacts")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def chosen(paths: Iterable[PurePosixPath], excludes: Sequence[str], named: Sequence[PurePosixPath] = ()) -> list[str]:
    """The paths that travel, in order; `excludes` are patterns of names or whole paths, `named` files always travel.

    >>> paths = [PurePosixPath(p) for p in ("mcb/learner.py", ".env", "runs/mlflow.db", "mcb/data/x.py", "big.bin")]
    >>> chosen(paths, ["*.bin"])
    ['mcb/data/x.py', 'mcb/learner.py']
    """
    kept = {path for path in paths if not _is_excluded(path, excludes)}
    return sorted(str(path) for path in kept | set(named))


def candidates(root: Path, excludes: Sequence[str]) -> list[PurePosixPath]:
    """The files below `root`: what git tracks or would track, or all but excluded folders where there is no git.

    Raises `UserError` for a folder of more than 20,000 files.
    """
    listed = _listed_by_git(root)
    found: list[PurePosixPath] = []
    for path in _walked(root, excludes) if listed is None else listed:
        found.append(path)
        if len(found) > LIMIT_FILES:
            raise UserError(
                f"{root} holds more than {LIMIT_FILES:,} files: submit from the folder of a project, or leave some out "
                "with --exclude"
            )
    return found


def pack(root: Path, paths: Sequence[str]) -> bytes:
    """A zip archive of the files, the same bytes for the same contents.

    Raises `UserError` for more than 95 MiB before anything is read, and for a file that cannot be read.
    """
    try:
        sizes = {path: (root / path).stat().st_size for path in paths}
        _require_small(root, sizes)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
            for path in paths:
                entry = zipfile.ZipInfo(path, _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (0o755 if os.access(root / path, os.X_OK) else 0o644) << 16
                file.writestr(entry, (root / path).read_bytes())
    except OSError as error:
        raise UserError(f"{error.filename} cannot be uploaded: {error.strerror}") from error
    return archive.getvalue()


def _require_small(root: Path, sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    if total <= LIMIT_BYTES:
        return
    largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
    names = ", ".join(f"{path} ({_megabytes(sizes[path])})" for path in largest)
    raise UserError(
        f"the files of {root} come to {_megabytes(total)}, and a job takes at most {_megabytes(LIMIT_BYTES)}: leave "
        f"some out with --exclude, and keep data where all nodes reach them; the largest are {names}"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1024**2:,.0f} MiB"


def _is_excluded(path: PurePosixPath, excludes: Sequence[str]) -> bool:
    names = path.parts
    if any(fnmatch(names[0], pattern) for pattern in EXCLUDED_AT_TOP):
        return True
    if any(fnmatch(name, pattern) for name in names for pattern in (*EXCLUDED, *excludes)):
        return True
    folders = (str(part) for part in (path, *path.parents[:-1]))
    patterns = [pattern.rstrip("/") for pattern in excludes]
    return any(fnmatch(folder, pattern) for folder in folders for pattern in patterns)


def _listed_by_git(root: Path) -> Iterator[PurePosixPath] | None:
    """What git tracks, and what it neither tracks nor ignores; None where there is no git or no repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        asked = subprocess.run(command, cwd=root, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except OSError:
        return None
    if b"not a git repository" in asked.stderr:
        return None
    if asked.returncode != 0:  # without its answer, what it ignores would travel
        reason = " ".join(asked.stderr.decode(errors="replace").split())
        raise UserError(f"git cannot list the files of {root}: {reason}")
    names = dict.fromkeys(asked.stdout.decode(errors="surrogateescape").split("\0"))
    return (PurePosixPath(name) for name in names if name and (root / name).is_file())


def _walked(root: Path, excludes: Sequence[str]) -> Iterator[PurePosixPath]:
    for folder, folders, files in os.walk(root):
        here = PurePosixPath(Path(folder).relative_to(root).as_posix())
        folders[:] = sorted(name for name in folders if not _is_excluded(here / name, excludes))
        yield from (here / name for name in sorted(files) if (root / here / name).is_file())
