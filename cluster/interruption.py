"""Ctrl-C and SIGTERM as a question that a run asks between steps, not as an exception in the middle of one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether a signal asked this process to stop. The first asks, a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._requested = False

    def __bool__(self) -> bool:
        return self._requested

    def install(self) -> None:
        """Handle SIGINT and SIGTERM from here on; without effect outside the main thread, where signals cannot come."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Signals handled inside the block, and as before after it."""
    requested = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    requested.install()
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
