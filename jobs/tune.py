"""`mcb tune`: a search over settings with Ray Tune, watched in MLflow, that can be killed and resumed."""

import os
import shlex

import ray
import torch
from rich.console import Console

from cluster.embedded import ray_cluster
from cluster.errors import ClusterError
from cluster.interruption import Interruption, interruption
from cluster.lock import locked
from cluster.placement import bundles, in_words, num_runs_at_once, num_units, total
from cluster.plan import TrainingPlan
from cluster.tracking import Status
from jobs.arguments import TuneOptions
from jobs.build import build_plan
from jobs.errors import Interrupted, UsageError
from jobs.overrides import Overrides
from jobs.report import new_console
from jobs.runs import write_json
from jobs.settings import Settings
from jobs.settings_file import to_yaml
from jobs.space_file import make_space
from jobs.space_points import point_of, settings_at
from jobs.spaces import Space
from jobs.train import ui_command
from jobs.tune_best import print_retrained, retrain
from jobs.tune_plan import Tuning
from jobs.tune_progress import SearchProgress
from jobs.tune_proposals import Proposals, grid_size
from jobs.tune_ray import run_trials
from jobs.tune_search import FoundSearch, Search, find_search, save
from jobs.tune_summary import as_tree, print_summary, write_summary
from jobs.tune_tracking import SearchTracking, best_metrics
from jobs.tune_trial import Curve, TrialPlan
from jobs.tune_trials import Trial, Trials

_NUM_TRIED = 32  # points of a space that are checked before anything starts


def tune(options: TuneOptions, base: Settings | None, overrides: Overrides) -> None:
    """Run a search to its end: trials, the best one again with fresh seeds, tables, figures, `options.json`.

    Raises `UserError` for what cannot be done, before anything is written; `Interrupted` after Ctrl-C.
    """
    console = new_console()
    found = find_search(options, base, overrides)
    search = found.search
    space = make_space(search.space, search.settings)
    num_trials = min(search.num_trials, grid_size(space)) if search.searcher == "grid" else search.num_trials
    run = _required(search, space)
    if "RAY_ADDRESS" not in os.environ and not ray.is_initialized():
        _at_once(run, [_machine()], "this machine")
    with locked(found.folder):
        save(found)
        plan = TrialPlan(search.settings, search.num_validation_tasks)
        tracking = SearchTracking(found, plan)
        status: Status = "FAILED"
        trials = Trials(found.trials)
        try:
            with interruption() as interrupted, ray_cluster(found.folder, _num_cpus(), len(run.parameters) * 4):
                interrupted.install()
                num_at_once = _at_once(run, _nodes(), "the Ray cluster")
                first = point_of(space, search.settings)
                seed, second = search.settings.seed, search.second_objective
                propose = Proposals(space, search.searcher, seed, num_trials, first, second)
                tuning = Tuning(
                    plan, run, trials, propose, num_trials, num_at_once, search.scheduler, found.folder / "ray"
                )
                _say_begin(console, found, tuning)
                with SearchProgress(console, trials, num_trials) as progress:
                    run_trials(tuning, _Watcher(tracking, progress, interrupted, found))
                retrained = _finish(console, found, trials, tracking, num_at_once)
            tree = {
                "parent_run_id": tracking.parent.run_id,
                "name": search.name,
                **as_tree(trials, second),
                **retrained,
            }
            for path in [found.result] + ([] if options.json is None else [options.json]):
                write_json(path, tree)
            tracking.parent.artifact(found.result, "")
            status = "FINISHED"
        except (Interrupted, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            tracking.close(status)
    console.print(f"look at the search with\n  {ui_command(search.tracking_uri)}", soft_wrap=True)


class _Watcher:
    """Tells MLflow and the screen; ends the search when the user asks for it."""

    def __init__(
        self, tracking: SearchTracking, progress: SearchProgress, interrupted: Interruption, found: FoundSearch
    ) -> None:
        self._tracking, self._progress, self._interrupted, self._found = tracking, progress, interrupted, found

    def begun(self, trial: Trial) -> Trial:
        return self._tracking.begin(trial)

    def reported(self, trial: Trial, curve: Curve) -> None:
        self._tracking.report(trial, curve)

    def ended(self, trial: Trial) -> None:
        self._tracking.end(trial)
        self._progress.ended(trial)

    def tick(self) -> None:
        self._progress.tick()
        if self._interrupted:
            raise Interrupted(_farewell(self._found))


def _finish(
    console: Console, found: FoundSearch, trials: Trials, tracking: SearchTracking, num_at_once: int
) -> dict[str, object]:
    """Tables, figures and the best settings; then the best ones again with fresh seeds."""
    best, search = trials.best, found.search
    if best is None:
        first = next((trial.error for trial in trials.of_state("failed")), "there is none")
        raise UsageError(f"no trial of {len(trials)} gave a result; the first error: {first}")
    print_summary(console, trials, search.second_objective)
    write_summary(found.summary, trials, search.second_objective)
    alone = settings_at(search.settings, best.point)
    workers = {"num_workers": alone.cluster.num_workers * num_at_once}
    settings = alone.model_copy(update={"cluster": alone.cluster.model_copy(update=workers)})
    found.best.write_text(to_yaml(settings))
    tracking.parent.metrics(best_metrics({"nll": best.reports[-1].objective}), len(trials))
    tracking.parent.artifact(found.best, "")
    tracking.keep(found.summary)
    console.print(f"the best settings: mcb train --config {shlex.quote(str(found.best))}", soft_wrap=True)
    try:
        retrained = retrain(console, found, settings, tracking.parent.run_id)
    except Interrupted:
        raise Interrupted(_farewell(found)) from None
    print_retrained(console, retrained)
    if "test_nll" in retrained:
        tracking.parent.metrics(best_metrics(retrained), len(trials))
    return retrained


def _required(search: Search, space: Space) -> TrainingPlan:
    """What a trial asks of the cluster; raises `UsageError` if points of the space do not fit the settings."""
    settings = search.settings
    if settings.cluster.strategy != "server":
        raise UsageError(f"cluster.strategy={settings.cluster.strategy} cannot be searched: trials need the server's")
    if settings.train.checkpoint_dir is not None:
        raise UsageError("train.checkpoint_dir cannot be set: each trial's checkpoints lie below --out")
    first = point_of(space, settings)
    some = Proposals(space, "random", settings.seed, _NUM_TRIED, first)
    plans = [build_plan(settings_at(settings, some(number, ())), "", "", resume=False) for number in range(_NUM_TRIED)]
    widest = max(plans, key=lambda plan: (num_units(plan), len(plan.parameters)))
    changing = {path for path in first if path.startswith("cluster.")}
    if changing:
        raise UsageError(f"the space asks about {min(changing)}: a trial's machines are the same for all trials")
    return widest


def _at_once(run: TrainingPlan, nodes: list[dict[str, float]], where: str) -> int:
    """Trials that fit at once; raises `ClusterError`, with the numbers, if not even one does."""
    num = num_runs_at_once(run, nodes)
    if num == 0:
        asked = total(bundles(run) * max(1, num_units(run)))
        raise ClusterError(
            f"a trial of {run.num_workers} workers asks for {in_words(asked)}, but {where} has "
            f"{in_words(total(nodes))}: lower --cluster.num-workers, --cluster.ranks-per-worker, "
            "--cluster.threads-per-worker or --cluster.gpus-per-worker"
        )
    return num


def _say_begin(console: Console, found: FoundSearch, tuning: Tuning) -> None:
    search = found.search
    verb = "goes on" if found.resume else "begins"
    console.print(
        f"{search.name} {verb}: {tuning.num_trials} trials of {search.settings.train.num_steps:,} meta-steps, "
        f"{tuning.num_at_once} at once, in {found.folder}",
        soft_wrap=True,
    )


def _farewell(found: FoundSearch) -> str:
    return (
        f"interrupted; what was done is saved, go on with\n  mcb tune --resume --out {shlex.quote(str(found.folder))}"
    )


def _num_cpus() -> int:
    return os.cpu_count() or 1


def _machine() -> dict[str, float]:
    """What a cluster of the search's own will have."""
    return {"CPU": float(_num_cpus()), "GPU": float(torch.cuda.device_count())}


def _nodes() -> list[dict[str, float]]:
    """What each living node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
