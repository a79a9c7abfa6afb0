"""The processes of a collective run as one of them sees them, and what all of them compute together."""

from typing import Protocol, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist

Value = TypeVar("Value")


class Ring(Protocol):
    """One rank's view of a fixed number of ranks; every rank calls the same methods in the same order."""

    @property
    def index(self) -> int:
        """This rank, 0..size - 1."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value, in rank order, on every rank."""
        ...

    def share(self, value: Value) -> Value:
        """Rank 0's value on every rank."""
        ...

    def total(self, vector: np.ndarray) -> np.ndarray:
        """The float32 sum of every rank's vector, the same bits on every rank."""
        ...


class TorchRing:
    """The default process group of torch.distributed; vectors are summed on `device` (gloo on a CPU, nccl on a GPU).

    Plain values travel by gloo, whatever the device. Raises RuntimeError when another rank is gone.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")  # None: the default one

    @property
    def index(self) -> int:
        """This rank, 0..size - 1."""
        return dist.get_rank()

    @property
    def size(self) -> int:
        """How many there are."""
        return dist.get_world_size()

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value (picklable), in rank order, on every rank."""
        values = [value] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def share(self, value: Value) -> Value:
        """Rank 0's value (picklable) on every rank."""
        values = [value]
        dist.broadcast_object_list(values, src=0, group=cast(dist.ProcessGroup | None, self._group))
        return values[0]

    def total(self, vector: np.ndarray) -> np.ndarray:
        """The float32 sum of every rank's vector; `vector` itself is left as it was."""
        tensor = torch.tensor(vector, device=self._device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()
