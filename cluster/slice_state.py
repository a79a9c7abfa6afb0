"""What a range of the meta-parameters is continued from: cut out of the whole, and put together again."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch


class SliceState(NamedTuple):
    """A range of the parameters, of each vector in the torch optimiser's state, and of the average if there is one."""

    parameters: np.ndarray
    optimizer_state: Mapping[str, object]
    average: np.ndarray | None


def cut(whole: SliceState, bounds: Sequence[int]) -> list[SliceState]:
    """The states of the ranges between `bounds`."""
    vectors = _vectors(whole)
    return [
        SliceState(
            whole.parameters[start:stop],
            _with_vectors(whole, {name: vector[start:stop].clone() for name, vector in vectors.items()}),
            None if whole.average is None else whole.average[start:stop],
        )
        for start, stop in pairwise(bounds)
    ]


def join(slices: Sequence[SliceState]) -> SliceState:
    """The state of the whole; what is no vector (a count of steps) is the same in every slice."""
    vectors = [_vectors(one) for one in slices]
    averages = [one.average for one in slices if one.average is not None]
    return SliceState(
        np.concatenate([one.parameters for one in slices]),
        _with_vectors(slices[0], {name: torch.cat([own[name] for own in vectors]) for name in vectors[0]}),
        np.concatenate(averages) if averages else None,
    )


def _entries(state: SliceState) -> dict[str, object]:
    """What the optimiser keeps of its only parameter; nothing before its first step."""
    return cast(dict[int, dict[str, object]], state.optimizer_state.get("state", {})).get(0, {})


def _vectors(state: SliceState) -> dict[str, torch.Tensor]:
    """The entries with one number for each parameter."""
    shape = state.parameters.shape
    return {name: value for name, value in _entries(state).items() if torch.is_tensor(value) and value.shape == shape}


def _with_vectors(state: SliceState, vectors: Mapping[str, torch.Tensor]) -> dict[str, object]:
    """The optimiser's state with other vectors."""
    entries = {**_entries(state), **vectors}
    return {**state.optimizer_state, "state": {0: entries}} if entries else dict(state.optimizer_state)
