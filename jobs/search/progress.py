"""How a search shows where it stands: a live line on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from jobs.search.trials import Trial, Trials

_LINE_EVERY_S = 30.0


class SearchProgress:
    """Trials done and running, the best so far, and the time left, of a search of `num_trials`."""

    def __init__(self, console: Console, trials: Trials, num_trials: int) -> None:
        self._console, self._trials, self._num_trials = console, trials, num_trials
        self._began_at, self._num_before = time.monotonic(), self._num_done
        self._line_at = time.monotonic() + _LINE_EVERY_S
        self._bar = Progress(
            TextColumn("trials"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("trials", total=num_trials, completed=self._num_done, text="")

    def __enter__(self) -> Self:
        """Show the line."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the line as it stands."""
        self._bar.stop()

    def tick(self) -> None:
        """Show what changed."""
        now = time.monotonic()
        self._bar.update(self._task, completed=self._num_done, text=self._text())
        if not self._console.is_terminal and now >= self._line_at:
            self._line_at = now + _LINE_EVERY_S
            self._say(f"{self._num_done}/{self._num_trials} trials  {self._text()}")

    def ended(self, trial: Trial) -> None:
        """Say how a trial ended."""
        objective = "" if trial.objective is None else f", NLL {trial.objective:.4f}"
        steps = "" if trial.last is None else f" after {trial.last.num_steps:,} meta-steps"
        error = f": {trial.error}" if trial.error else ""
        self._say(f"{trial.name} {trial.state}{steps}{objective}{error}")
        self.tick()

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)

    @property
    def _num_done(self) -> int:
        return len(self._trials) - len(self._trials.of_state("running"))

    def _text(self) -> str:
        best = self._trials.best
        so_far = "none yet" if best is None else f"{best.objective:.4f} ({best.name})"
        num_new = self._num_done - self._num_before
        left = "?"
        if num_new:
            seconds = (time.monotonic() - self._began_at) / num_new * (self._num_trials - self._num_done)
            left = f"{round(seconds) // 60}:{round(seconds) % 60:02}"
        return f"{len(self._trials.of_state('running'))} running  best NLL {so_far}  {left} left"
