"""Checkpoints: one file each, written whole or not at all, checked when read, the newest few kept.

Layout: 8 magic bytes; the header's length (8 bytes, little-endian); the header (JSON: `format_version`, the run's
settings, where it stands, names and shapes of the parameters, sha256 of the payload); the payload (`torch.save` of
tensors and plain values, read with `weights_only`); 32 bytes of sha256 over everything before.
"""

import fnmatch
import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from cluster.errors import CheckpointError
from cluster.ledger import OpenShards
from cluster.refresh import Pending
from cluster.storage import open_storage, split

FORMAT_VERSION = 1
_MAGIC = b"MCBMAML\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that a run needs to continue exactly: `version` meta-steps are done.

    `parameters` is flat float32 in the order of `parameter_shapes`; `optimizer_state` is that of the torch optimiser
    named `optimizer`. The counts run from the beginning of the run, over every resume. `average` is the exponential
    average of the parameters, in runs that keep one; `open_shards` says where the stream of shards stands, in runs
    whose policy does not end one meta-batch before the next. `mode_state` is the flat float32 state that the last
    meta-step was computed under, in runs that refresh one, the initial state before the first; `pending` is the refresh
    that a later one is to adopt. `task_form` says what of the tasks' form no setting tells (plain values; empty where
    settings tell all).
    """

    version: int
    parameters: np.ndarray
    parameter_shapes: Mapping[str, tuple[int, ...]]
    optimizer: str
    optimizer_state: Mapping[str, object]
    settings_yaml: str = ""
    num_tasks: int = 0
    num_refused: int = 0
    train_seconds: float = 0.0
    average: np.ndarray | None = None
    open_shards: OpenShards | None = None
    mode_state: np.ndarray | None = None
    pending: Pending | None = None
    task_form: Mapping[str, object] = field(default_factory=dict)

    @property
    def evaluated_parameters(self) -> np.ndarray:
        """What evaluation uses: the average where the run keeps one."""
        return self.parameters if self.average is None else self.average


def encode(checkpoint: Checkpoint) -> bytes:
    """The bytes of a checkpoint file."""
    buffer = io.BytesIO()
    tensor = torch.from_numpy(checkpoint.parameters.copy())
    average = None if checkpoint.average is None else torch.from_numpy(checkpoint.average.copy())
    vectors = {"parameters": tensor, "average": average}
    modes = _encode_modes(checkpoint)
    torch.save({**vectors, "optimizer_state": dict(checkpoint.optimizer_state), **modes}, buffer)
    payload = buffer.getvalue()
    header = {
        "format_version": FORMAT_VERSION,
        "version": checkpoint.version,
        "num_parameters": len(checkpoint.parameters),
        "parameter_shapes": {name: list(shape) for name, shape in checkpoint.parameter_shapes.items()},
        "optimizer": checkpoint.optimizer,
        "settings": checkpoint.settings_yaml,
        "num_tasks": checkpoint.num_tasks,
        "num_refused": checkpoint.num_refused,
        "train_seconds": checkpoint.train_seconds,
        "open_shards": checkpoint.open_shards,
        "task_form": dict(checkpoint.task_form),
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    head = json.dumps(header).encode()
    body = _MAGIC + len(head).to_bytes(8, "little") + head + payload
    return body + hashlib.sha256(body).digest()


def decode(data: bytes, name: str) -> Checkpoint:
    """The checkpoint in `data`; raises `CheckpointError` that calls it `name` and says what is wrong with it."""
    if data[: len(_MAGIC)] != _MAGIC[: len(data)]:
        raise CheckpointError(f"{name} is not a checkpoint of this program")
    body, digest = data[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError(f"{name} is truncated or damaged ({len(data)} bytes): its checksum does not match")
    start = len(_MAGIC) + 8
    end = start + int.from_bytes(body[len(_MAGIC) : start], "little")
    header = json.loads(body[start:end])
    if header["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{name} has checkpoint format {header['format_version']}, but this version of the program reads "
            f"format {FORMAT_VERSION}: use the version that wrote it"
        )
    try:
        payload = torch.load(io.BytesIO(body[end:]), weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:  # refused; no archive of tensors at all
        raise CheckpointError(
            f"{name} holds more than numbers, which could run any code when it is loaded: it is refused; "
            "use a checkpoint that this program wrote"
        ) from error
    average, shards = payload.get("average"), header.get("open_shards")
    return Checkpoint(
        version=header["version"],
        parameters=payload["parameters"].numpy(),
        parameter_shapes={key: tuple(shape) for key, shape in header["parameter_shapes"].items()},
        optimizer=header["optimizer"],
        optimizer_state=payload["optimizer_state"],
        settings_yaml=header["settings"],
        num_tasks=header["num_tasks"],
        num_refused=header["num_refused"],
        train_seconds=header["train_seconds"],
        average=None if average is None else average.numpy(),
        open_shards=None if shards is None else OpenShards(shards[0], tuple(shards[1]), *shards[2:]),
        mode_state=payload["mode_state"].numpy() if "mode_state" in payload else None,
        pending=_decode_pending(payload.get("pending")),
        task_form=header.get("task_form", {}),
    )


def _encode_modes(checkpoint: Checkpoint) -> dict[str, object]:
    """The payload's entries of a run that refreshes a state; none of another."""
    entries: dict[str, object] = {}
    if checkpoint.mode_state is not None:
        entries["mode_state"] = torch.from_numpy(checkpoint.mode_state.copy())
    if checkpoint.pending is not None:
        version, state, metrics = checkpoint.pending
        metrics = {name: float(value) for name, value in metrics.items()}
        entries["pending"] = {"version": version, "state": torch.from_numpy(state.copy()), "metrics": metrics}
    return entries


def _decode_pending(entry: Mapping[str, Any] | None) -> Pending | None:
    return None if entry is None else Pending(entry["version"], entry["state"].numpy(), entry["metrics"])


def save(checkpoint: Checkpoint, folder: str | Path, keep: int) -> str:
    """Write the checkpoint into `folder`, a path or URL, and remove older ones but for `keep` with it; where it lies.

    The bytes go to a temporary name, reach the disk, and only then take the final name, so a crash or a full disk
    leaves every earlier checkpoint as it was. Those above its own version, of a future that the run has left, stay and
    do not count. Raises `CheckpointError` if the file cannot be written.
    """
    storage, name = open_storage(folder), _name(checkpoint.version)
    try:
        storage.write(name, encode(checkpoint))
        up_to_it = [found for found in _newest_first(storage.names()) if _rank(found) <= _rank(name)]
        for old in up_to_it[keep:]:
            storage.remove(old)
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint of meta-step {checkpoint.version} could not be written to {folder} "
            f"({error.strerror or error}); earlier checkpoints are intact: make room or choose another folder, "
            "then resume"
        ) from error
    return storage.place(name)


def place(folder: str | Path, version: int) -> str:
    """Where `save` puts the checkpoint of so many meta-steps."""
    return open_storage(folder).place(_name(version))


def load(file: str | Path) -> Checkpoint:
    """Read one checkpoint file; raises `CheckpointError` if it is missing or not whole."""
    folder, name = split(file)
    try:
        data = open_storage(folder).read(name)
    except OSError as error:
        raise CheckpointError(f"the checkpoint {file} cannot be read ({error.strerror or error})") from error
    return decode(data, str(file))


def paths(folder: str | Path) -> list[str]:
    """The checkpoint files of a folder, newest first; an absent folder has none. Raises `CheckpointError`."""
    storage = open_storage(folder)
    try:
        return [storage.place(name) for name in _newest_first(storage.names())]
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be listed ({error.strerror or error})") from error


def load_newest(folder: str | Path) -> Checkpoint:
    """The newest intact checkpoint of a folder; each damaged one that is passed over is logged as a warning.

    Raises `CheckpointError` if the folder holds none, or none that is intact.
    """
    return _newest_intact(folder)[0]


def take_up(folder: str | Path) -> Checkpoint:
    """`load_newest` for a run that goes on from it, under the folder's lock.

    Those passed over are renamed to `*.unreadable`, so that none is among the newest, or among those kept, again.
    """
    newest, passed_over = _newest_intact(folder)
    storage = open_storage(folder)
    for name in passed_over:
        aside = f"{name}.unreadable"
        try:
            storage.move(name, aside)
        except OSError as error:
            raise CheckpointError(
                f"{storage.place(name)} cannot be set aside ({error.strerror or error}): move it away, then resume"
            ) from error
        _logger.warning("%s is set aside as %s", storage.place(name), aside)
    return newest


def _newest_intact(folder: str | Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that can be read, and the names of those above it."""
    found, passed_over = paths(folder), []
    if not found:
        raise CheckpointError(f"there is no checkpoint in {folder}: name a run's checkpoint folder")
    for path in found:
        try:
            return load(path), passed_over
        except CheckpointError as error:
            _logger.warning("%s; the checkpoint before it is tried", error)
            passed_over.append(split(path)[1])
    raise CheckpointError(f"none of the {len(found)} checkpoints in {folder} is intact: start the run anew")


def _name(version: int) -> str:
    return f"checkpoint-{version:08d}.mcb"


def _rank(name: str) -> tuple[int, str]:
    """Orders names by version, also where one has more digits."""
    return len(name), name


def _newest_first(names: Iterable[str]) -> list[str]:
    """The checkpoints among the files of a folder."""
    return sorted(fnmatch.filter(names, "checkpoint-*.mcb"), key=_rank, reverse=True)
