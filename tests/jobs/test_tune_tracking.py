"""What MLflow shows of a search whose driver was killed."""

from pathlib import Path

from cluster.tracking_store import open_store
from jobs.arguments import TuneOptions
from jobs.recipes import recipe
from jobs.tune_search import FoundSearch, find_search, save
from jobs.tune_tracking import SearchTracking
from jobs.tune_trial import TrialPlan
from jobs.tune_trials import Report, Trial


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
