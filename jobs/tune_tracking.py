"""A search in MLflow: a parent run, and nested in it one run for each trial, all written by the driver."""

import logging
from collections.abc import Mapping
from pathlib import Path

from cluster.secrets import without_password
from cluster.tracking import MlflowTracker, Status, open_tracker
from cluster.tracking_store import experiment_id, first_sentence, open_store
from jobs.runs import write_json
from jobs.settings_file import flatten
from jobs.train import nested_in, run_tags
from jobs.tune_search import FoundSearch
from jobs.tune_trial import Curve, TrialPlan
from jobs.tune_trials import Report, State, Trial, TrialFolder

_logger = logging.getLogger(__name__)
_STATUS: Mapping[State, Status] = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
_MOST_SEARCHES = 1000  # looked through, the newest first
_TRIAL, _STATE, _SEARCH = "trial", "trial_state", "search"


class SearchTracking:
    """The parent run and the trials' runs. Raises `TrackingError` if the store does not answer."""

    def __init__(self, found: FoundSearch, plan: TrialPlan) -> None:
        self._found, self._plan, self._uri = found, plan, found.search.tracking_uri
        identity = found.identity
        self._client = open_store(self._uri)
        store = without_password(self._uri)
        known = identity.get("run_id") if identity.get("tracking_uri") == store else None
        if known is None and found.resume:
            known = self._orphaned_parent()
        tags = run_tags(found.search.settings, found.folder) | {"kind": _SEARCH}
        self.parent = open_tracker(self._uri, found.search.name, flatten(found.search.shown), tags, known)
        write_json(found.identity_file, {"run_id": self.parent.run_id, "tracking_uri": store})
        self._open: dict[int, MlflowTracker] = {}

    def begin(self, trial: Trial) -> Trial:
        """Make a trial's run, or take up the one that it had; the trial comes back with the run's id."""
        settings = self._plan.settings_of(trial.point)
        folder = TrialFolder.of(self._found.trials, trial.number).run.path
        tags = run_tags(settings, folder) | nested_in(self.parent.run_id) | {_TRIAL: trial.name, _STATE: "running"}
        params = flatten(settings.model_dump(mode="json"))
        known = trial.run_id or self._orphan(trial)
        tracker = open_tracker(self._uri, trial.name, params, tags, known)
        self._open[trial.number] = tracker
        return trial.model_copy(update={"run_id": tracker.run_id})

    def report(self, trial: Trial, curve: Curve) -> None:
        """Add to a trial's learning curves, and its last report; written when this returns, if the store answers."""
        tracker = self._tracker(trial)
        for step, values in curve:
            tracker.metrics(values, step)
        tracker.metrics(report_metrics(trial.reports[-1]), trial.reports[-1].num_steps)
        tracker.flush()

    def end(self, trial: Trial) -> None:
        """Close a trial's run by the trial's state."""
        tracker = self._tracker(trial)
        tags = {_STATE: trial.state} | ({"error": trial.error[:5000]} if trial.error else {})
        try:
            for name, value in tags.items():
                self._client.set_tag(tracker.run_id, name, value)
        except Exception as error:  # as many kinds as there are stores; the trial's own file has them
            _logger.warning("the tags of %s were not recorded: %s", trial.name, first_sentence(error))
        folder = TrialFolder.of(self._found.trials, trial.number).run
        if folder.settings.exists():
            tracker.artifact(folder.settings, "")
        tracker.close(_STATUS[trial.state])
        del self._open[trial.number]

    def close(self, status: Status) -> None:
        """Close the parent run, and those of trials that were interrupted."""
        for tracker in self._open.values():
            tracker.close("KILLED")
        self.parent.close(status)

    def keep(self, folder: Path) -> None:
        """Keep what lies in `folder` with the parent run."""
        self.parent.artifact(folder, "")

    def _tracker(self, trial: Trial) -> MlflowTracker:
        if trial.number not in self._open:
            self.begin(trial)
        return self._open[trial.number]

    def _orphaned_parent(self) -> str | None:
        """The run that was made for the search by a driver that died before it wrote that down."""
        experiment = [experiment_id(self._client, self._uri)]
        searches = self._client.search_runs(experiment, f"tags.kind = '{_SEARCH}'", max_results=_MOST_SEARCHES)
        mine = (run for run in searches if run.data.tags.get("run_folder") == str(self._found.folder))
        return next((run.info.run_id for run in mine), None)

    def _orphan(self, trial: Trial) -> str | None:
        """The run that was made for a trial by a driver that died before it wrote that down."""
        where = f"tags.`mlflow.parentRunId` = '{self.parent.run_id}' and tags.{_TRIAL} = '{trial.name}'"
        found = self._client.search_runs([experiment_id(self._client, self._uri)], where, max_results=1)
        return found[0].info.run_id if found else None


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
