"""One run at a time writes a checkpoint folder: a second one is refused, and a killed one leaves no lock behind.

In a folder of this machine (or a network file system) the kernel holds the lock and lets go of it when the process
ends, however it ends. At a URL there is no such help: the run keeps rewriting a small file, a lease, and a lease that
nobody rewrites any more is taken over.
"""

import fcntl
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from platform import node

from cluster.errors import CheckpointError
from cluster.storage import Storage, absolute, is_url, open_storage

NAME = ".lock"
_BEAT_S = 5.0
_NUM_BEATS = 4  # that may stay away before a lease is taken over
_logger = logging.getLogger(__name__)


class Held:
    """A lock that this process holds, unless another took it over meanwhile."""

    def __init__(self, location: str) -> None:
        self.location, self.is_lost = location, False

    def require(self) -> None:
        """Raise `CheckpointError` if the lock was lost."""
        if self.is_lost:
            raise CheckpointError(
                f"another run took {self.location} over, because this one was away for too long: it ends here, "
                "before the two mix their checkpoints"
            )


@contextmanager
def locked(location: str | Path) -> Iterator[Held]:
    """Nobody else writes checkpoints to `location` inside the block; raises `CheckpointError` if somebody does now.

    A lease that its run left behind is found out by waiting 20 s for it to change.
    """
    where = absolute(location)
    if is_url(where):
        with lease(open_storage(where), Held(where)) as held:
            yield held
    else:
        with _file_lock(Path(where)) as held:
            yield held


@contextmanager
def _file_lock(folder: Path) -> Iterator[Held]:
    path = folder / NAME
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except BlockingIOError:
        raise _refusal(str(folder), _read(open_storage(folder))) from None  # it may be gone by now
    except OSError as error:
        raise CheckpointError(f"the checkpoint folder {folder} cannot be used ({error.strerror or error})") from error
    try:
        yield Held(str(folder))
    finally:
        with suppress(OSError):  # the folder may be gone
            path.unlink()  # before the lock is let go: whoever opens the name next makes a new file
        os.close(descriptor)
        with suppress(OSError):  # what was made for the lock alone, and is empty
            for parent in made:
                parent.rmdir()


def _acquire(path: Path) -> int:
    """A locked descriptor of the file that has the name `path` now; raises OSError, BlockingIOError if it is held."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, _identity(secrets.token_hex(8), 0))
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the run before took the name away between the two lines: again, with a new file


@contextmanager
def lease(
    storage: Storage, held: Held, beat_s: float = _BEAT_S, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Held]:
    """A lease at `storage` that is rewritten every `beat_s` seconds; `held` is told if another takes it over."""
    owner = secrets.token_hex(8)
    try:
        before = _read(storage)
        for _ in range(_NUM_BEATS if before else 0):
            sleep(beat_s)
            now = _read(storage)
            if now not in (before, b""):
                raise _refusal(held.location, now)
        storage.write(NAME, _identity(owner, 0))
        sleep(beat_s / 5)  # another may have found no lease, or the same dead one, and write now: the last one has it
        now = _read(storage)
    except OSError as error:
        raise CheckpointError(f"checkpoints cannot be kept at {held.location} ({error})") from error
    if _owner(now) != owner:
        raise _refusal(held.location, now)
    over = threading.Event()
    renewer = threading.Thread(target=_renew, args=(storage, held, owner, beat_s, over), daemon=True)
    renewer.start()
    try:
        yield held
    finally:
        over.set()
        renewer.join()
        if not held.is_lost:
            _let_go(storage)


def _renew(storage: Storage, held: Held, owner: str, beat_s: float, over: threading.Event) -> None:
    """Rewrite the lease until it is let go or lost; a store that does not answer for a while is tried again."""
    beat = 0
    while not over.wait(beat_s):
        beat += 1
        try:
            if _owner(_read(storage)) != owner:
                held.is_lost = True
                return
            storage.write(NAME, _identity(owner, beat))
        except OSError as error:
            _logger.warning("the lock at %s could not be renewed: %s", storage.place(NAME), error)


def _let_go(storage: Storage) -> None:
    try:
        storage.remove(NAME)
    except OSError as error:
        _logger.warning("the lock %s could not be removed, the next run waits for it: %s", storage.place(NAME), error)


def _read(storage: Storage) -> bytes:
    """The lease; empty if there is none."""
    try:
        return storage.read(NAME)
    except FileNotFoundError:
        return b""


def _identity(owner: str, beat: int) -> bytes:
    """Who holds the lock; `beat` counts how often that was said."""
    return json.dumps({"owner": owner, "host": node(), "process": os.getpid(), "beat": beat}).encode()


def _owner(lease: bytes) -> str:
    return _fields(lease).get("owner", "")


def _fields(lease: bytes) -> dict[str, str]:
    try:
        return json.loads(lease)
    except ValueError:  # read in the middle of a write, or not a lease
        return {}


def _refusal(location: str, lease: bytes) -> CheckpointError:
    said = _fields(lease)
    who = f"process {said['process']} on {said['host']}" if said else "another process"
    return CheckpointError(
        f"{location} is being written by another run ({who}): wait for it to end, stop it, or choose another folder"
    )
