import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster import checkpoint as checkpoints
from cluster.checkpoint import Checkpoint, decode, encode, load, load_newest, paths, place, save, take_up
from cluster.checkpoint_fit import require_fit
from cluster.errors import CheckpointError
from cluster.refresh import Pending
from cluster.storage import open_storage

SHAPES = {"weight": (4, 3), "bias": (4,)}


def example(version: int = 7) -> Checkpoint:
    generator = np.random.default_rng(version)
    state = {"state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.arange(16.0)}}, "param_groups": [{"lr": 0.1}]}
    return Checkpoint(
        version=version,
        parameters=generator.standard_normal(16).astype(np.float32),
        parameter_shapes=SHAPES,
        optimizer="adam",
        optimizer_state=state,
        settings_yaml="recipe: ein Übungslauf\n",
        num_tasks=70,
        num_refused=2,
        train_seconds=1.5,
    )


def test_what_is_read_is_what_was_written(tmp_path: Path):
    written = example()
    read = load(save(written, tmp_path / "new" / "folder", keep=3))
    np.testing.assert_array_equal(read.parameters, written.parameters)
    assert read.optimizer_state["param_groups"] == [{"lr": 0.1}]
    torch.testing.assert_close(read.optimizer_state["state"], written.optimizer_state["state"])
    for field in ("version", "parameter_shapes", "optimizer", "settings_yaml", "num_tasks", "num_refused"):
        assert getattr(read, field) == getattr(written, field)
    assert read.train_seconds == 1.5


def of_format(number: int) -> bytes:
    """A file whose frame is whole and whose header says another format."""
    data = encode(example())
    size = int.from_bytes(data[8:16], "little")
    header = json.dumps({**json.loads(data[16 : 16 + size]), "format_version": number}).encode()
    body = data[:8] + len(header).to_bytes(8, "little") + header + data[16 + size : -32]
    return body + checkpoints.hashlib.sha256(body).digest()


def flipped(place: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


CORRUPTIONS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "truncated or damaged"),
    "a few bytes": (lambda data: data[:5], "truncated or damaged"),
    "header only": (lambda data: data[:60], "truncated or damaged"),
    "last byte missing": (lambda data: data[:-1], "truncated or damaged"),
    "half": (lambda data: data[: len(data) // 2], "truncated or damaged"),
    "longer": (lambda data: data + b"x", "truncated or damaged"),
    "flipped length": (flipped(9), "truncated or damaged"),
    "flipped header": (flipped(30), "truncated or damaged"),
    "flipped payload": (flipped(-200), "truncated or damaged"),
    "flipped checksum": (flipped(-3), "truncated or damaged"),
    "other format": (lambda data: of_format(99), "has checkpoint format 99, .* reads format 1"),
    "text": (lambda data: b"learning_rate: 0.1\n" * 40, "is not a checkpoint of this program"),
    "flipped magic": (flipped(2), "is not a checkpoint of this program"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_is_one_clear_error(name: str, tmp_path: Path):
    corrupt, message = CORRUPTIONS[name]
    path = Path(save(example(), tmp_path, keep=1))
    path.write_bytes(corrupt(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message) as raised:
        load(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_the_one_before_a_damaged_newest_is_used_and_the_damage_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    save(example(8), tmp_path, keep=3)
    newest = Path(save(example(9), tmp_path, keep=3))
    newest.write_bytes(newest.read_bytes()[:-9])
    assert load_newest(tmp_path).version == 8
    assert newest.name in caplog.text
    assert newest.exists()


def test_a_folder_without_an_intact_checkpoint_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for version in (1, 2):
        Path(save(example(version), tmp_path, keep=3)).write_bytes(b"MCB")
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints"):
        load_newest(tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        load_newest(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "absent.mcb")


def test_the_newest_few_are_kept(tmp_path: Path):
    for version in (5, 20, 99_999_999, 100_000_000):
        save(example(version), tmp_path, keep=3)
    assert [load(path).version for path in paths(tmp_path)] == [100_000_000, 99_999_999, 20]


def test_those_above_the_one_just_written_are_left_and_do_not_count(tmp_path: Path):
    for version in (20, 25, 30):
        save(example(version), tmp_path, keep=3)
    written = save(example(26), tmp_path, keep=1)
    assert [load(path).version for path in paths(tmp_path)] == [30, 26]
    assert written == place(tmp_path, 26) == paths(tmp_path)[1]


@pytest.mark.parametrize("at", ["folder", "url"])
def test_what_a_run_passes_over_is_set_aside_and_counts_no_more(
    at: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = str(tmp_path) if at == "folder" else f"memory://bucket/{tmp_path.name}"
    for version in (20, 25, 27):
        save(example(version), folder, keep=3)
    open_storage(folder).write("checkpoint-00000027.mcb", b"MCB")
    assert take_up(folder).version == 25
    save(example(30), folder, keep=2)
    assert [load(path).version for path in paths(folder)] == [30, 25]
    assert open_storage(folder).read("checkpoint-00000027.mcb.unreadable") == b"MCB"
    assert "checkpoint-00000027.mcb.unreadable" in caplog.text


@pytest.mark.parametrize("written_before", [0, 50])
def test_a_full_disk_leaves_the_previous_checkpoint_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_before: int
):
    save(example(1), tmp_path, keep=1)
    write, written = os.write, 0

    def fill(descriptor: int, data: bytes) -> int:
        nonlocal written
        if written >= written_before:
            raise OSError(28, os.strerror(28))
        written += write(descriptor, data[:written_before])
        return written

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(CheckpointError, match=r"meta-step 2 could not be written .*No space left on device.* intact"):
        save(example(2), tmp_path, keep=1)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001.mcb"]
    np.testing.assert_array_equal(load_newest(tmp_path).parameters, example(1).parameters)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="could not be written"):
        save(example(), tmp_path / "file" / "folder", keep=1)


@pytest.mark.parametrize(
    ("shapes", "optimizer", "message"),
    [
        ({"weight": (4, 3), "bias": (5,)}, "adam", r"bias has shape \(4,\) there and \(5,\) in this run"),
        ({"weight": (4, 3)}, "adam", r"bias has shape \(4,\) there and none in this run"),
        ({**SHAPES, "scale": (1,)}, "adam", r"scale has shape none there and \(1,\) in this run"),
        ({"bias": (4,), "weight": (4, 3)}, "adam", "orders its parameters differently"),
        (SHAPES, "sgd", "made with optimizer=adam, not sgd"),
    ],
)
def test_a_checkpoint_of_another_run_is_one_clear_error(shapes: dict, optimizer: str, message: str):
    with pytest.raises(CheckpointError, match=message):
        require_fit(decode(encode(example()), "x"), shapes, optimizer)


def test_a_state_and_the_refresh_that_is_pending_are_read_as_written():
    pending = Pending(9, np.arange(3, dtype=np.float32), {"silhouette": 0.25, "stability": float("nan")})
    written = replace(example(), mode_state=np.ones(3, dtype=np.float32), pending=pending)
    read = decode(encode(written), "x")
    assert read.mode_state is not None and read.mode_state.tolist() == [1, 1, 1]
    assert read.pending is not None and read.pending.version == 9 and read.pending.state.tolist() == [0, 1, 2]
    assert read.pending.metrics == pytest.approx(pending.metrics, nan_ok=True)


def test_a_checkpoint_of_a_run_without_a_state_has_no_word_of_one():
    read = decode(encode(example()), "x")
    assert read.mode_state is None and read.pending is None
    assert b"mode_state" not in encode(example()) and b"pending" not in encode(example())
