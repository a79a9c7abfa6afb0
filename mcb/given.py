"""What a user gives, numbers as lists, arrays or tensors, checked and made into tensors; refusals are one sentence."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

Numbers = Tensor | np.ndarray | Sequence  # of one task
ManyNumbers = Tensor | np.ndarray | Sequence[Numbers]


def points(name: str, values: Numbers, size: int, may_miss: bool = False) -> Tensor:
    """`(N, size)` float64, from `(N, size)` or, where size is 1, `(N,)`.

    `may_miss` lets columns after the first hold NaN, for inputs that were not measured. Raises ValueError.
    """
    array = _array(name, values)
    if array.ndim == 1 and size == 1:
        array = array[:, None]
    if array.ndim == 1:
        raise ValueError(f"{name} of shape {array.shape} must be (points, {size}): this model has {size} columns of it")
    if array.ndim != 2 or array.shape[1] != size:
        raise ValueError(f"{name} of shape {array.shape} must be (points, {size}){' or (points,)' * (size == 1)}")
    with np.errstate(over="ignore"):
        refused = ~np.isfinite(array.astype(np.float32))
    if may_miss:
        refused[:, 1:] &= ~np.isnan(array[:, 1:])
    if refused.any():
        row, column = (int(place) for place in np.argwhere(refused)[0])
        raise ValueError(
            f"{name}[{row}]{f'[{column}]' * (size > 1)} is {array[row, column]}: every value must be a finite number"
        )
    return torch.from_numpy(array.copy())


def classes(name: str, values: Numbers, num_classes: int) -> Tensor:
    """`(N,)` int64 in 0..num_classes - 1; raises ValueError."""
    array = _array(name, values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name} of shape {array.shape} must be (points,): one class for each point")
    wrong = ~((array >= 0) & (array < num_classes) & (array == np.floor(array)))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{name}[{row}] is {array[row]}: a class must be an integer in 0..{num_classes - 1}")
    return torch.from_numpy(array.astype(np.int64))


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Bool[Tensor, "T N"]]:
    """Tensors of different lengths as one, zeros behind the end of each, and a mask of what is there."""
    count = torch.tensor([len(row) for row in rows])
    if (count == count[0]).all():
        return torch.stack(list(rows)), torch.ones(len(rows), int(count[0]), dtype=torch.bool)
    batch = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return batch, torch.arange(batch.shape[1]) < count[:, None]


def _array(name: str, values: Numbers) -> np.ndarray:
    """As float64; raises ValueError for what is no array of numbers."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is no array of numbers: {error}") from error
