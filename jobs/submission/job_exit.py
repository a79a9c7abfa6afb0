"""How a job of a Ray cluster ended, as an exit code and in words."""

from typing import NamedTuple

INTERRUPTED = 130
DIED = 3
LOST = 4
UNFINISHED = 5
_SIGNALS = 128
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class JobState(NamedTuple):
    """Where a job stands: Ray's word for it, the exit code of its command, Ray's explanation."""

    status: str
    command_code: int | None = None
    message: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in _ENDED


def exit_code(state: JobState) -> int:
    """The command's own code where it has one, 128 + n for signal n; 130 stopped, 3 died without a code, 5 goes on.

    >>> [exit_code(JobState(*state)) for state in [("SUCCEEDED", 0), ("FAILED", 2), ("FAILED", -9), ("FAILED", None)]]
    [0, 2, 137, 3]
    >>> exit_code(JobState("STOPPED")), exit_code(JobState("RUNNING"))
    (130, 5)
    """
    match state:
        case JobState("SUCCEEDED"):
            return 0
        case JobState("STOPPED"):
            return INTERRUPTED
        case JobState("FAILED", None) | JobState("FAILED", 0):
            return DIED
        case JobState("FAILED", int(code)):
            return code if code > 0 else _SIGNALS - code
    return UNFINISHED


def in_words(job: str, state: JobState) -> str:
    """One sentence.

    >>> in_words("a", JobState("FAILED", -9)), in_words("a", JobState("RUNNING"))
    ('job a failed with exit code 137: its process was killed, by want of memory perhaps', 'job a is running')
    """
    code = exit_code(state)
    match state.status:
        case "SUCCEEDED":
            return f"job {job} succeeded"
        case "STOPPED":
            return f"job {job} was stopped"
        case "FAILED" if code == DIED and state.command_code != DIED:
            reason = " ".join(state.message.split())[:300] or "no reason is known"
            return f"job {job} died without an exit code: {reason}"
        case "FAILED":
            killed = ": its process was killed, by want of memory perhaps" if code == _SIGNALS + 9 else ""
            return f"job {job} failed with exit code {code}{killed}"
    return f"job {job} is {state.status.lower()}"
