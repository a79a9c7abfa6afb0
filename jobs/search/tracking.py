"""A search in MLflow: a parent run, and nested in it one run for each trial, all written by the driver."""

import logging
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cluster.secrets import without_password
from cluster.tracking import MlflowTracker, OpenRun, Status, open_run
from cluster.tracking_late import LateRun
from cluster.tracking_store import TrackingError, experiment_id, first_sentence, open_store
from jobs.runs.folder import write_json
from jobs.search.search import FoundSearch
from jobs.search.trial import Curve, TrialPlan
from jobs.search.trials import Report, State, Trial, TrialFolder, Trials, trial_name
from jobs.settings.file import flatten
from jobs.training.train import nested_in, run_tags

_logger = logging.getLogger(__name__)
_STATUS: Mapping[State, Status] = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
_RETRY_AFTER_S = 30.0
_MOST_SEARCHES = 1000  # looked through, the newest first
_TRIAL, _STATE, _SEARCH = "trial", "trial_state", "search"


class _TrialRun(NamedTuple):
    run: LateRun
    tracker: MlflowTracker


class SearchTracking:
    """The parent run and the trials' runs. Raises `TrackingError` if the store does not answer when a search begins.

    Once it has begun, a trial whose run cannot be made goes on without it. The run is made when the store answers
    again, with all that the trial told meanwhile; `close` names the trials for which it never did.
    """

    def __init__(self, found: FoundSearch, plan: TrialPlan) -> None:
        self._found, self._plan, self._uri = found, plan, found.search.tracking_uri
        identity = found.identity
        store = without_password(self._uri)
        known = identity.get("run_id") if identity.get("tracking_uri") == store else None
        if known is None and found.resume:
            known = self._orphaned_parent()
        tags = run_tags(found.search.settings, found.folder) | {"kind": _SEARCH}
        parent = open_run(self._uri, found.search.name, flatten(found.search.shown), tags, known)
        self.parent = MlflowTracker(*parent)
        write_json(found.identity_file, {"run_id": self.parent.run_id, "tracking_uri": store})
        self._open: dict[int, _TrialRun] = {}
        self._may_lack_runs = found.resume
        self._retry_at = -math.inf

    def begin(self, trial: Trial) -> Trial:
        """Make a trial's run, or take up the one that it had; the trial comes back with its id, once it has one."""
        run = self._run_of(trial, trial.reports).run
        _is_made(run)
        return _with_id(trial, run)

    def report(self, trial: Trial, curve: Curve) -> Trial:
        """Add to a trial's learning curves, and its last report; returns as `begin` does.

        If the store answers, it has them when this returns.
        """
        run, tracker = self._run_of(trial, trial.reports[:-1])
        for step, values in curve:
            tracker.metrics(values, step)
        tracker.metrics(report_metrics(trial.reports[-1]), trial.reports[-1].num_steps)
        tracker.flush()
        return _with_id(trial, run)

    def end(self, trial: Trial) -> Trial:
        """Close a trial's run by the trial's state; returns as `begin` does.

        Where the store does not take all of it, that is left to `catch_up`, and the trial comes back without an id.
        """
        run, tracker = self._run_of(trial, trial.reports)
        if not _is_made(run):
            return trial
        client, run_id = run.open()
        is_taken = True
        tags = {_STATE: trial.state} | ({"error": trial.error[:5000]} if trial.error else {})
        try:
            for name, value in tags.items():
                client.set_tag(run_id, name, value)
        except Exception as error:  # as many kinds as there are stores; the trial's own file has them
            _logger.warning("the tags of %s were not recorded: %s", trial.name, first_sentence(error))
            is_taken = False
        folder = TrialFolder.of(self._found.trials, trial.number).run
        if folder.settings.exists():
            tracker.artifact(folder.settings, "")
        if not (tracker.close(_STATUS[trial.state]) and is_taken):
            self._may_lack_runs, self._retry_at = True, time.monotonic() + _RETRY_AFTER_S
            return trial.model_copy(update={"run_id": None})
        del self._open[trial.number]
        return _with_id(trial, run)

    def catch_up(self, trials: Trials) -> None:
        """Make and close the runs that trials which are over lack; their ids go on record.

        Quick where none is missing. A store that did not answer is asked again after half a minute.
        """
        if not self._may_lack_runs or time.monotonic() < self._retry_at:
            return
        for trial in self._unsettled(trials):
            trials.put(self.end(trial))
            if trial.number in self._open:
                return
        self._may_lack_runs = False

    def close(self, status: Status) -> None:
        """Close the parent run, and those of trials that were interrupted; warn of trials that MLflow does not have."""
        lacking: set[str] = set()
        if self._may_lack_runs:
            self._retry_at, trials = -math.inf, Trials(self._found.trials)
            self.catch_up(trials)
            lacking = {trial.name for trial in self._unsettled(trials)}
        for number, (run, tracker) in self._open.items():
            if trial_name(number) in lacking:
                continue
            if _is_made(run):
                tracker.close("KILLED")
            else:
                lacking.add(trial_name(number))
        self.parent.close(status)
        if lacking:
            _logger.warning(
                "%s: no tracked run, or not all of it, since the store did not answer. Figures are in %s; "
                "once it answers, mcb tune --resume --out %s adds what is missing",
                ", ".join(sorted(lacking)),
                self._found.trials,
                shlex.quote(str(self._found.folder)),
            )

    def keep(self, folder: Path) -> None:
        """Keep what lies in `folder` with the parent run."""
        self.parent.artifact(folder, "")

    def _run_of(self, trial: Trial, told: Sequence[Report]) -> _TrialRun:
        """The trial's run; a new one is given what the trial `told` before anybody listened."""
        if trial.number not in self._open:
            settings = self._plan.settings_of(trial.point)
            folder = TrialFolder.of(self._found.trials, trial.number).run.path
            tags = run_tags(settings, folder) | nested_in(self.parent.run_id) | {_TRIAL: trial.name, _STATE: "running"}
            params = flatten(settings.model_dump(mode="json"))
            run = LateRun(lambda: self._make(trial, params, tags))
            tracker = MlflowTracker(run, trial.name)
            for report in told if trial.run_id is None else ():
                tracker.metrics(report_metrics(report), report.num_steps)
            self._open[trial.number] = _TrialRun(run, tracker)
        return self._open[trial.number]

    def _make(self, trial: Trial, params: Mapping[str, object], tags: Mapping[str, str]) -> OpenRun:
        """A trial's run; raises as many kinds of errors as there are stores, for a while without asking them again."""
        if time.monotonic() < self._retry_at:
            raise TrackingError("the tracking store did not answer just now")
        try:
            opened = open_run(self._uri, trial.name, params, tags, trial.run_id or self._orphan(trial))
        except Exception as error:
            if self._retry_at == -math.inf:
                problem = first_sentence(error)
                _logger.warning("%s has no tracked run for now, the search goes on: %s", trial.name, problem)
            self._may_lack_runs, self._retry_at = True, time.monotonic() + _RETRY_AFTER_S
            raise
        self._retry_at = -math.inf
        return opened

    def _unsettled(self, trials: Trials) -> list[Trial]:
        """Trials that are over, but not in MLflow."""
        over = trials.of_state("finished", "stopped", "failed")
        return [trial for trial in over if trial.run_id is None or trial.number in self._open]

    def _orphaned_parent(self) -> str | None:
        """The run that was made for the search by a driver that died before it wrote that down."""
        client = open_store(self._uri)
        experiment = [experiment_id(client, self._uri)]
        searches = client.search_runs(experiment, f"tags.kind = '{_SEARCH}'", max_results=_MOST_SEARCHES)
        mine = (run for run in searches if run.data.tags.get("run_folder") == str(self._found.folder))
        return next((run.info.run_id for run in mine), None)

    def _orphan(self, trial: Trial) -> str | None:
        """The run that was made for a trial by a driver that died before it wrote that down."""
        where = f"tags.`mlflow.parentRunId` = '{self.parent.run_id}' and tags.{_TRIAL} = '{trial.name}'"
        client = open_store(self._uri)  # which says within seconds that it does not answer
        found = client.search_runs([experiment_id(client, self._uri)], where, max_results=1)
        return found[0].info.run_id if found else None


def _is_made(run: LateRun) -> bool:
    """Whether a run is there by now; why it is not was told by whoever could not make it."""
    try:
        run.open()
    except Exception:  # as many kinds as there are stores
        return False
    return True


def _with_id(trial: Trial, run: LateRun) -> Trial:
    """The trial with its run's id, if that is made."""
    return trial if run.run_id is None else trial.model_copy(update={"run_id": run.run_id})


def report_metrics(report: Report) -> dict[str, float]:
    """A trial's report by the names of its numbers in MLflow."""
    return {
        "validation/nll": report.objective,
        "validation/num_modes": report.num_modes,
        "validation/seconds": report.seconds,
    }


def best_metrics(found: Mapping[str, object]) -> dict[str, float]:
    """What is known of the best trial, or of its settings trained again, by the names that it has in MLflow."""
    return {f"best/{name}": value for name, value in found.items() if isinstance(value, float)}
