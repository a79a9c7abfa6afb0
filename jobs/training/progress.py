"""How a run shows where it stands: a live bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.plan import StepRecord

_LINE_EVERY_S = 10.0


class Average:
    """Exponential moving average over about `span` values, unbiased at the start; NaN is passed over."""

    def __init__(self, span: float = 50.0) -> None:
        self._decay = 1 - 1 / span
        self._sum = self._weight = 0.0

    def add(self, value: float) -> None:
        """Take a value in."""
        if value == value:
            self._sum = self._decay * self._sum + (1 - self._decay) * value
            self._weight = self._decay * self._weight + (1 - self._decay)

    @property
    def value(self) -> float:
        """The average so far; NaN before the first value."""
        return self._sum / self._weight if self._weight else float("nan")


class TrainingProgress:
    """Step, tasks/s, NLL and MSE (averaged over recent meta-steps), modes and time left of a run of `num_steps`."""

    def __init__(self, console: Console, num_steps: int) -> None:
        self._console, self._num_steps = console, num_steps
        self._nll, self._mse, self._step_s, self._tasks = Average(), Average(), Average(), Average()
        self._line_at: float | None = None
        self._modes = ""
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[scores]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=num_steps, scores="")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def update(self, record: StepRecord) -> None:
        """Show a meta-step."""
        now = time.monotonic()
        if self._line_at is None:  # the first step of a resumed run is not step 1, and says nothing of the pace
            self._line_at = now
            self._bar.reset(self._task, total=self._num_steps, completed=record.version)
        self._nll.add(record.nll)
        self._mse.add(record.squared_error)
        self._step_s.add(record.step_s)
        self._tasks.add(record.num_tasks)
        speed = self._tasks.value / self._step_s.value
        scores = f"{speed:,.0f} tasks/s  NLL {self._nll.value:.3f}  MSE {self._mse.value:.3f}"
        if "num_modes" in record.refresh:
            self._modes = f"  {record.refresh['num_modes']:.0f} modes"
        scores += self._modes
        if record.refused:
            scores += f"  {record.refused} refused"
        self._bar.update(self._task, completed=record.version, scores=scores)
        if not self._console.is_terminal and (now >= self._line_at or record.version == self._num_steps):
            self._line_at = now + _LINE_EVERY_S
            left = round((self._num_steps - record.version) * self._step_s.value)
            text = f"step {record.version}/{self._num_steps}  {scores}  {left // 60}:{left % 60:02} left"
            self._console.print(text, soft_wrap=True)
