"""Errors that a user can mend: the command line prints them as one sentence, without a traceback."""


class UserError(Exception):
    """What was asked cannot be done; the message names the value, the range and the remedy."""


class CheckpointError(UserError):
    """A checkpoint cannot be read, does not fit this run, or cannot be written."""


class RefusedSteps(UserError):
    """More meta-steps had a non-finite meta-gradient than the run tolerates."""


class ClusterError(UserError):
    """The Ray cluster cannot hold the run, or a part of the run died and was not replaced."""


class GroupBroken(ClusterError):
    """A rank of a group died or does not answer, so that the others cannot go on."""


class Superseded(Exception):
    """A generation of the server was asked that is over: another goes on from a checkpoint. No user sees it."""


def last_line(error: Exception) -> str:
    """The exception at the end of the remote traceback that Ray puts into its message."""
    return str(error).strip().splitlines()[-1].strip()


def require_at_least(low: int, **values: int) -> None:
    """Raise `UserError` for the first value below `low`."""
    for name, value in values.items():
        if value < low:
            raise UserError(f"{name}={value} must be at least {low}")
