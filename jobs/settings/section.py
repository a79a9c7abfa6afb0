"""What every part of the settings tree is made of."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

HowToChoose = "; what else it needs then starts at its own defaults"


class Section(BaseModel):
    """A part of the tree: frozen, no unknown fields, no infinities or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def count(low: int, high: int, text: str) -> FieldInfo:
    """A whole number in `low..high`."""
    return Field(ge=low, le=high, description=f"{text}, {low}..{high}")


def positive(high: float, text: str) -> FieldInfo:
    """A number above 0 and at most `high`."""
    return Field(gt=0, le=high, description=f"{text}, above 0, at most {high:g}")
