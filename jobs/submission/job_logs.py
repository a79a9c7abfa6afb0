"""Following a job: its log as it grows, over lost connections, to the job's end."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from cluster.errors import ClusterError
from jobs.submission.job_exit import JobState

_ASK_EVERY_S = 10.0
_GIVE_UP_S = 60.0
_RETRY_S = 1.0


class Jobs(Protocol):
    """What following needs of a client."""

    def state(self, job: str) -> JobState:
        """Where a job stands; raises `ClusterError` if the cluster does not answer."""
        ...

    def tail(self, job: str) -> AsyncIterator[str]:
        """What a job writes, from its beginning on; raises `ClusterError` if the connection is lost."""
        ...


class LostJob(ClusterError):
    """The cluster does not answer any more; the job may go on."""


def follow(client: Jobs, job: str, write: Callable[[str], object], give_up_s: float = _GIVE_UP_S) -> JobState:
    """Write each piece of the log once and return the job's last state.

    A lost connection is made again; raises `LostJob` after `give_up_s` without any answer.
    """
    return asyncio.run(_follow(client, job, write, give_up_s))


async def _follow(client: Jobs, job: str, write: Callable[[str], object], give_up_s: float) -> JobState:
    num_written = 0
    failing_since: float | None = None

    def write_new(text: str, position: int) -> None:
        """Pass on what of a log, repeated from its beginning, is not written yet."""
        nonlocal num_written, failing_since
        new = text[max(0, num_written - position) :]
        if new:
            write(new)
            num_written += len(new)
            failing_since = None

    while True:
        try:
            await _tail(client, job, write_new)
            state = await asyncio.to_thread(client.state, job)
            failing_since = None
            if state.has_ended:
                return state
        except ClusterError as error:
            now = time.monotonic()
            failing_since = now if failing_since is None else failing_since
            if now - failing_since > give_up_s:
                raise LostJob(f"{error}; the job {job} may go on, look with mcb jobs status {job}") from error
        await asyncio.sleep(_RETRY_S)


async def _tail(client: Jobs, job: str, write: Callable[[str, int], None]) -> None:
    """Pass on pieces of the log with their positions until it ends, or until a job that is over writes no more."""
    stream = client.tail(job)
    position = 0
    piece = asyncio.ensure_future(anext(stream, None))
    try:
        while True:
            done, _ = await asyncio.wait([piece], timeout=_ASK_EVERY_S)
            if not done:  # a connection that died silently looks like a job that is silent
                if (await asyncio.to_thread(client.state, job)).has_ended:
                    return
                continue
            text = piece.result()
            if text is None:
                return
            write(text, position)
            position += len(text)
            piece = asyncio.ensure_future(anext(stream, None))
    finally:
        piece.cancel()
        await asyncio.gather(piece, return_exceptions=True)
