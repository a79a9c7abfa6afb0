"""What a run is given by a test that neither watches nor stops it."""

from cluster.plan import StepRecord


def never() -> bool:
    """Do not stop."""
    return False


def ignore(record: StepRecord) -> None:
    """Look at no meta-step."""
