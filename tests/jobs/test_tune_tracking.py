"""What MLflow shows of a search whose driver was killed, and of one during which MLflow did not answer."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tiny_searches import report

from cluster.tracking_store import TrackingError, open_store
from jobs.arguments import TuneOptions
from jobs.search.search import FoundSearch, find_search, save
from jobs.search.tracking import SearchTracking
from jobs.search.trial import TrialPlan
from jobs.search.trials import Report, Trial, Trials
from jobs.settings.recipes import recipe


def begin(found: FoundSearch) -> SearchTracking:
    save(found)
    return SearchTracking(found, TrialPlan(found.search.settings, 30))


def test_a_search_killed_at_its_start_keeps_its_parent_run(workplace: Path):
    base = recipe("two-modes")
    found = find_search(TuneOptions("two-modes", name="killed"), base, {})
    parent = begin(found).parent.run_id
    other = begin(find_search(TuneOptions("two-modes", name="other"), base, {})).parent.run_id
    found.identity_file.unlink()  # as if the driver had died before it wrote it
    again = begin(find_search(TuneOptions(name="killed", resume=True), None, {}))
    assert again.parent.run_id == parent != other


def test_what_a_trial_reported_is_in_the_store_before_the_run_is_closed(workplace: Path):
    found = find_search(TuneOptions("two-modes", name="s"), recipe("two-modes"), {})
    tracking = begin(found)
    trial = tracking.begin(Trial(number=0, point={"modes.num_modes": 3}))
    report = Report(num_steps=2, objective=0.5, seconds=1.0, num_modes=2)
    tracking.report(trial.model_copy(update={"reports": (report,)}), [(1, {"train/nll": 2.0}), (2, {"train/nll": 1.0})])
    client = open_store(found.search.tracking_uri)
    curve = client.get_metric_history(str(trial.run_id), "train/nll")
    assert [(point.step, point.value) for point in curve] == [(1, 2.0), (2, 1.0)]
    assert client.get_run(str(trial.run_id)).data.metrics["validation/nll"] == 0.5


class Store:
    """The tracking store, which answers or not, and a clock: both as a test says."""

    def __init__(self) -> None:
        self.is_down, self.num_refused, self.now = False, 0, 1000.0

    def open(self, *where: str) -> MlflowClient:
        if self.is_down:
            self.num_refused += 1
            raise TrackingError("no answer")
        return open_store(*where)

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    for module in ("cluster.tracking", "jobs.search.tracking"):
        monkeypatch.setattr(f"{module}.open_store", store.open)
        monkeypatch.setattr(f"{module}.time", store)
    return store


@pytest.fixture
def found(workplace: Path) -> FoundSearch:
    return find_search(TuneOptions("two-modes", name="s"), recipe("two-modes"), {})


def told(tracking: SearchTracking, trial: Trial, num_steps: int) -> Trial:
    """A trial that has reported once more, with one point of its curve."""
    reports = (*trial.reports, report(num_steps, 1 / num_steps))
    return tracking.report(trial.model_copy(update={"reports": reports}), [(num_steps, {"train/nll": 1.0})])


def shown(found: FoundSearch, run_id: str | None, metric: str) -> tuple[str, list[int]]:
    """Status of a run, and the meta-steps at which it has a metric."""
    client = open_store(found.search.tracking_uri)
    run = client.get_run(str(run_id))
    return run.info.status, [point.step for point in client.get_metric_history(run.info.run_id, metric)]


def test_a_trial_that_begins_while_the_store_is_away_goes_on_and_is_shown_whole_once_it_is_back(
    found: FoundSearch, store: Store, caplog: pytest.LogCaptureFixture
):
    tracking = begin(found)
    store.is_down = True
    trial = tracking.begin(Trial(number=0, point={"modes.num_modes": 3}))
    trial = told(tracking, trial, 3)
    assert trial.run_id is None and store.num_refused == 1
    assert "trial-0000 has no tracked run for now, the search goes on: no answer" in caplog.text
    store.is_down, store.now = False, store.now + 31
    trial = told(tracking, trial, 6)
    assert shown(found, trial.run_id, "train/nll") == ("RUNNING", [3, 6])
    assert shown(found, trial.run_id, "validation/nll") == ("RUNNING", [3, 6])
    ended = tracking.end(trial.model_copy(update={"state": "finished"}))
    run = open_store(found.search.tracking_uri).get_run(str(ended.run_id))
    assert (run.info.status, run.data.tags["trial_state"]) == ("FINISHED", "finished")
    assert run.data.params["modes.num_modes"] == "3"
    assert run.data.tags["mlflow.parentRunId"] == tracking.parent.run_id
    tracking.close("FINISHED")
    assert "no tracked run, or" not in caplog.text


def test_a_trial_that_is_over_before_the_store_is_back_gets_its_run_then(found: FoundSearch, store: Store):
    tracking, trials = begin(found), Trials(found.trials)
    store.is_down = True
    for number in range(3):
        trial = told(tracking, tracking.begin(Trial(number=number, point={})), 3)
        trials.put(tracking.end(trial.model_copy(update={"state": "stopped"})))
        tracking.catch_up(trials)
    assert [trial.run_id for trial in trials] == [None] * 3
    assert store.num_refused == 1  # it is not asked again at once: an answer that does not come takes seconds
    store.now += 31
    tracking.catch_up(trials)
    assert store.num_refused == 2
    store.is_down, store.now = False, store.now + 31
    tracking.catch_up(trials)
    assert len({trial.run_id for trial in trials} - {None}) == 3
    for trial in trials:
        assert shown(found, trial.run_id, "train/nll") == ("FINISHED", [3])


def test_trials_that_the_store_never_got_are_named_at_the_end_and_added_by_a_resume(
    found: FoundSearch, store: Store, caplog: pytest.LogCaptureFixture
):
    tracking, trials = begin(found), Trials(found.trials)
    store.is_down = True
    trial = told(tracking, tracking.begin(Trial(number=0, point={})), 3)
    trials.put(tracking.end(trial.model_copy(update={"state": "failed", "error": "its process died"})))
    trials.put(told(tracking, tracking.begin(Trial(number=1, point={})), 3))
    tracking.close("KILLED")
    assert "trial-0000, trial-0001: no tracked run, or not all of it, since the store did not answer." in caplog.text
    assert f"Figures are in {found.trials}" in (caplog.text)
    store.is_down = False
    again = begin(find_search(TuneOptions(name="s", resume=True), None, {}))
    trials = Trials(found.trials)
    again.catch_up(trials)
    trials.put(told(again, again.begin(trials[1]), 6))
    again.close("KILLED")
    assert shown(found, trials[0].run_id, "validation/nll") == ("FAILED", [3])
    assert shown(found, trials[1].run_id, "validation/nll") == ("KILLED", [3, 6])
    assert again.parent.run_id == tracking.parent.run_id


def test_a_store_that_is_back_at_the_end_of_the_search_gets_all(found: FoundSearch, store: Store, caplog):
    tracking, trials = begin(found), Trials(found.trials)
    store.is_down = True
    trial = told(tracking, tracking.begin(Trial(number=0, point={})), 3)
    trials.put(tracking.end(trial.model_copy(update={"state": "finished"})))
    store.is_down = False  # a moment ago
    tracking.close("FINISHED")
    assert "no tracked run, or" not in caplog.text
    assert shown(found, Trials(found.trials)[0].run_id, "train/nll") == ("FINISHED", [3])


def test_a_store_that_falls_silent_as_a_trial_ends_gets_what_it_missed_when_the_search_ends(
    found: FoundSearch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def silent(*what: object) -> None:
        raise ConnectionError("no route")

    tracking = begin(found)
    trial = tracking.begin(Trial(number=0, point={}))
    with monkeypatch.context() as silenced:
        for name in ("set_tag", "log_batch", "set_terminated"):
            silenced.setattr(MlflowClient, name, lambda *what, **how: silent())
        ended = tracking.end(trial.model_copy(update={"state": "failed", "error": "its process died"}))
    assert ended.state == "failed" and ended.run_id is None  # so that a resume looks at it again
    assert "the tags of trial-0000 were not recorded: no route" in caplog.text
    Trials(found.trials).put(ended)
    tracking.close("FINISHED")
    run = open_store(found.search.tracking_uri).get_run(str(trial.run_id))
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "its process died")
    assert Trials(found.trials)[0].run_id == trial.run_id


def test_a_run_whose_store_fell_silent_before_it_had_its_parameters_gets_them_when_it_is_taken_up_again(
    found: FoundSearch, monkeypatch: pytest.MonkeyPatch
):
    def silent(*what: object, **how: object) -> None:
        raise ConnectionError("no route")

    tracking = begin(found)
    with monkeypatch.context() as silenced:
        silenced.setattr(MlflowClient, "log_batch", silent)
        assert tracking.begin(Trial(number=0, point={})).run_id is None
    trial = begin(found).begin(Trial(number=0, point={}))
    run = open_store(found.search.tracking_uri).get_run(str(trial.run_id))
    assert run.data.params["recipe"] == found.search.settings.recipe
