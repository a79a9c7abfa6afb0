"""The refusal of data that are not finite, before they reach a result."""

from torch import Tensor


def refuse_non_finite(*values: Tensor) -> None:
    """Raises `ValueError` where a number is not finite, naming the first row (the task, in a batch)."""
    for value in values:
        if value.is_floating_point() and not (finite := value.isfinite().unsqueeze(-1).flatten(1).all(-1)).all():
            row = int((~finite).nonzero()[0])
            raise ValueError(f"row {row} of the data holds a number that is not finite: remove or impute it")
