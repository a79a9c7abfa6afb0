"""What Ray Tune asks for and tells in a search: the next trial, and how trials go."""

from collections.abc import Sequence
from pathlib import Path

from ray.tune.callback import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from jobs.search.plan import Tuning, Watcher
from jobs.search.trials import Report, Trial, TrialFolder, trial_name


class Suggestions(Searcher):
    """First the trials that a killed driver left behind, then new ones."""

    def __init__(self, tuning: Tuning, unfinished: Sequence[int], watcher: Watcher) -> None:
        super().__init__(metric="objective", mode="min")
        self._tuning, self._unfinished, self._watcher = tuning, list(unfinished), watcher

    def suggest(self, trial_id: str) -> dict | None:
        """As `next`."""
        return self.next()

    def next(self) -> dict:
        """What the next trial does; it is on record before it starts."""
        trials = self._tuning.trials
        if self._unfinished:
            trial = trials[self._unfinished.pop(0)]
        else:
            number = len(trials)
            trial = Trial(number=number, point=self._tuning.propose(number, list(trials)))
            trials.put(trial)
        trials.put(self._watcher.begun(trial))
        return {"number": trial.number, "point": dict(trial.point)}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: the record of trials says it all."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""
        Path(checkpoint_path).touch()

    def __getstate__(self) -> dict:
        """Tune pickles its configuration, and never reads it again here."""
        return {}


class Record(Callback):
    """Keeps the trials' record and passes on what happens."""

    def __init__(self, tuning: Tuning, watcher: Watcher) -> None:
        self._tuning, self._watcher = tuning, watcher

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: object) -> None:
        """A trial is about to train, perhaps at a point that PBT has changed: on record before its first meta-step."""
        before, point = self._trial(trial), dict(trial.config["point"])
        if point != before.point:
            self._tuning.trials.put(before.model_copy(update={"point": point}))

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: object) -> None:
        """A trial reported, perhaps again what it did before a restart."""
        before = self._trial(trial)
        report = Report(**{name: result[name] for name in Report.model_fields})
        earlier = tuple(one for one in before.reports if one.num_steps < report.num_steps)
        after = before.model_copy(update={"reports": (*earlier, report)})
        known = before.last.num_steps if before.last is not None else 0
        after = self._watcher.reported(after, [row for row in result["curve"] if row[0] > known])
        self._tuning.trials.put(after)  # last: what is on record here is not told again after a kill

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: object) -> None:
        """A trial did all its meta-steps, or was stopped by the scheduler."""
        before = self._trial(trial)
        is_done = before.last is not None and before.last.num_steps >= self._tuning.run.num_steps
        self._end(before.model_copy(update={"state": "finished" if is_done else "stopped"}))

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: object) -> None:
        """A trial failed twice."""
        before = self._trial(trial)
        path = TrialFolder.of(self._tuning.trials.path, before.number).error
        error = path.read_text() if path.exists() else "its process died"
        self._end(before.model_copy(update={"state": "failed", "error": error}))

    def on_step_end(self, iteration: int, trials: list, **info: object) -> None:
        """A moment passed."""
        self._watcher.tick()

    def __getstate__(self) -> dict:
        """Tune pickles its configuration, and never reads it again here."""
        return {}

    def _trial(self, trial: TuneTrial) -> Trial:
        return self._tuning.trials[number_of(str(trial))]

    def _end(self, trial: Trial) -> None:
        after = self._watcher.ended(trial)
        self._tuning.trials.put(after)  # last: a trial that is over here is not looked at again after a kill


def name_of(trial: TuneTrial) -> str:
    """What Tune calls a trial from its start on."""
    return trial_name(trial.config["number"])


def number_of(name: str) -> int:
    """The inverse; a trial of PBT that takes over another's parameters gets that one's `config`, but keeps its name."""
    return int(name.rpartition("-")[2])
