"""Where checkpoints lie: a folder of this machine or any fsspec URL, behind a few operations."""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol
from urllib.parse import urlsplit

import fsspec

from cluster.errors import CheckpointError

_LOCAL = ("file", "local")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_LEFT_BEHIND_S = 900.0  # of a temporary file: nobody writes to it any more


class Storage(Protocol):
    """A flat folder of files. All that touches them raises OSError."""

    def place(self, name: str) -> str:
        """The path or URL of a file."""
        ...

    def names(self) -> list[str]:
        """The files there are; an absent folder has none."""
        ...

    def read(self, name: str) -> bytes:
        """A whole file."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """A file, whole or not at all: under a temporary name first."""
        ...

    def age_s(self, name: str) -> float:
        """Seconds since a file was last written to; 0 where the store does not say."""
        ...

    def move(self, name: str, to: str) -> None:
        """Another name for a file, in place of what has it now."""
        ...

    def remove(self, name: str) -> None:
        """Away with a file, if it is there."""
        ...


def is_url(location: str | Path) -> bool:
    """Whether a location is a URL that leads away from this machine's own files.

    >>> is_url("s3://bucket/run"), is_url("file:///srv/run"), is_url("runs/x")
    (True, False, False)
    """
    return "://" in str(location) and urlsplit(str(location)).scheme not in _LOCAL


def absolute(location: str | Path) -> str:
    """A location that means the same from any folder.

    >>> absolute("s3://bucket/run/"), absolute("file:///srv/run")
    ('s3://bucket/run', '/srv/run')
    """
    if is_url(location):
        return str(location).rstrip("/")
    text = str(location)
    return str(Path(urlsplit(text).path if "://" in text else text).absolute())


def open_storage(location: str | Path) -> Storage:
    """The folder at a path or URL, made by the first write; raises `CheckpointError` for a URL that none can read."""
    if not is_url(location):
        return LocalFolder(Path(absolute(location)))
    try:
        return RemoteFolder(absolute(location))
    except (ImportError, ValueError) as error:  # fsspec: a protocol whose driver is missing, or unknown
        raise CheckpointError(
            f"checkpoints cannot lie at {location} ({error}): install the protocol's fsspec driver, for s3:// with "
            "pip install 'mcb-maml[s3]', or give a folder"
        ) from error


def split(location: str | Path) -> tuple[str, str]:
    """Folder and name of one file.

    >>> split("s3://bucket/run/checkpoint-1.mcb"), split("/srv/run/checkpoint-1.mcb")
    (('s3://bucket/run', 'checkpoint-1.mcb'), ('/srv/run', 'checkpoint-1.mcb'))
    """
    folder, _, name = absolute(location).rpartition("/")
    return folder, name


@contextmanager
def local_copy(location: str | Path) -> Iterator[Path]:
    """A file as a file of this machine, for the length of the block; raises OSError, `CheckpointError`."""
    if not is_url(location):
        yield Path(absolute(location))
        return
    folder, name = split(location)
    with TemporaryDirectory() as here:
        path = Path(here) / name
        path.write_bytes(open_storage(folder).read(name))
        yield path


def sweep(location: str | Path) -> None:
    """Away with what killed writers left half written, as far as the store lets it; a live writer's file is young."""
    storage = open_storage(location)
    with suppress(OSError):
        for name in filter(_TEMPORARY.fullmatch, storage.names()):
            if storage.age_s(name) > _LEFT_BEHIND_S:
                storage.remove(name)


class LocalFolder:
    """Files that reach the disk before they take their name, which lasts through a power cut."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def place(self, name: str) -> str:
        """The absolute path of a file."""
        return str(self._path / name)

    def names(self) -> list[str]:
        """The files there are."""
        return [path.name for path in self._path.iterdir()] if self._path.is_dir() else []

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self._path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Write, flush, rename, and flush the folder; a failure leaves no rest.

        Another process may write the same file at once, and one of the two stays.
        """
        self._path.mkdir(parents=True, exist_ok=True)
        temporary = self._path / _temporary(name)
        try:
            _write_through(temporary, data)
            os.replace(temporary, self._path / name)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(self._path)

    def age_s(self, name: str) -> float:
        """Seconds by this machine's clock."""
        return time.time() - (self._path / name).stat().st_mtime

    def move(self, name: str, to: str) -> None:
        """Rename, and flush the folder."""
        os.replace(self._path / name, self._path / to)
        _sync(self._path)

    def remove(self, name: str) -> None:
        """Away with a file."""
        (self._path / name).unlink(missing_ok=True)


class RemoteFolder:
    """Files at an fsspec URL; what its driver raises, of any kind, is raised as OSError."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._fs, self._root = fsspec.core.url_to_fs(url)

    def place(self, name: str) -> str:
        """The URL of a file."""
        return f"{self._url}/{name}"

    def names(self) -> list[str]:
        """The files there are now, whatever the driver remembers."""
        self._fs.invalidate_cache()
        with suppress(FileNotFoundError), _os_errors():
            return [path.rpartition("/")[2] for path in self._fs.ls(self._root, detail=False)]
        return []

    def read(self, name: str) -> bytes:
        """A whole file."""
        with _os_errors():
            return self._fs.cat_file(f"{self._root}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """Write and rename; another process may write the same file at once, and one of the two stays."""
        temporary = f"{self._root}/{_temporary(name)}"
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(temporary, data)
            self._fs.mv(temporary, f"{self._root}/{name}")
        except Exception as error:
            with suppress(Exception):
                self._fs.rm_file(temporary)
            raise OSError(str(error)) from error

    def age_s(self, name: str) -> float:
        """Seconds from the store's clock to this machine's; 0 too where it names no time zone."""
        with _os_errors(), suppress(NotImplementedError, TypeError):  # no times at all; times without a zone
            return (datetime.now(UTC) - self._fs.modified(f"{self._root}/{name}")).total_seconds()
        return 0.0

    def move(self, name: str, to: str) -> None:
        """Rename, which object stores do by a copy."""
        with _os_errors():
            self._fs.mv(f"{self._root}/{name}", f"{self._root}/{to}")

    def remove(self, name: str) -> None:
        """Away with a file."""
        with suppress(FileNotFoundError), _os_errors():
            self._fs.rm_file(f"{self._root}/{name}")


@contextmanager
def _os_errors() -> Iterator[None]:
    """What is raised in the block, of any kind, is raised as OSError; a missing file as what it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise OSError(str(error)) from error


def _temporary(name: str) -> str:
    """A name that no other writer has."""
    return f".{name}.{secrets.token_hex(8)}.tmp"


def _write_through(path: Path, data: bytes) -> None:
    """Write and flush to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
