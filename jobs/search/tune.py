"""`mcb tune`: a search over settings with Ray Tune, watched in MLflow, that can be killed and resumed."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from cluster.embedded import ray_cluster
from cluster.errors import UserError
from cluster.interruption import Interruption, interruption
from cluster.lock import locked
from cluster.plan import TrainingPlan
from cluster.tracking import Status
from jobs.arguments import TuneOptions
from jobs.errors import Interrupted
from jobs.evaluation.report import new_console
from jobs.runs.folder import write_json
from jobs.search.best import print_retrained, retrain
from jobs.search.checks import num_at_once, num_cpus, require_places, required
from jobs.search.plan import LEARNING_RATE, Tuning
from jobs.search.progress import SearchProgress
from jobs.search.proposals import Proposals, grid_size
from jobs.search.ray_tune import run_trials
from jobs.search.search import FoundSearch, find_search, save
from jobs.search.space_ends import asked
from jobs.search.space_file import make_space
from jobs.search.space_points import point_of, settings_at
from jobs.search.spaces import Space
from jobs.search.summary import as_tree, print_summary, write_summary
from jobs.search.tracking import SearchTracking, best_metrics
from jobs.search.trial import Curve, TrialPlan
from jobs.search.trials import Trial, Trials
from jobs.settings.file import to_yaml
from jobs.settings.overrides import Overrides
from jobs.settings.tree import Settings
from jobs.training.train import ui_command


def tune(options: TuneOptions, base: Settings | None, overrides: Overrides) -> None:
    """Run a search to its end: trials, the best one again with fresh seeds, tables, figures, `options.json`.

    Raises `UserError` for what cannot be done, before anything is written; `Interrupted` after Ctrl-C.
    """
    console = new_console()
    found = find_search(options, base, overrides)
    search = found.search
    space = make_space(search.space, search.settings)
    run = required(search, space)
    require_places(run, found.folder)
    with locked(found.folder):
        save(found)
        plan = TrialPlan(search.settings, search.num_validation_tasks)
        with _tracked(found, plan) as tracking, ray_cluster(found.folder, num_cpus(), len(run.parameters) * 4):
            tuning = _tuning(found, space, plan, run)
            _say_begin(console, found, tuning)
            _run(console, tuning, tracking)
            _finish(console, found, tuning, tracking, options.json)
    console.print(f"look at the search with\n  {ui_command(search.tracking_uri)}", soft_wrap=True)


@contextmanager
def _tracked(found: FoundSearch, plan: TrialPlan) -> Iterator[SearchTracking]:
    """The search's tracked runs for the length of the block; a user's wish to end it is told with how to go on."""
    tracking = SearchTracking(found, plan)
    status: Status = "FAILED"
    try:
        yield tracking
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt, SystemExit):  # the last is Ray's answer to SIGTERM
        status = "KILLED"
        folder = shlex.quote(str(found.folder))
        raise Interrupted(
            f"interrupted; what was done is saved, go on with\n  mcb tune --resume --out {folder}"
        ) from None
    finally:
        tracking.close(status)


def _tuning(found: FoundSearch, space: Space, plan: TrialPlan, run: TrainingPlan) -> Tuning:
    """How the trials run in the Ray cluster that is there."""
    search = found.search
    num_trials = min(search.num_trials, grid_size(space)) if search.searcher == "grid" else search.num_trials
    first, seed = point_of(space, search.settings), search.settings.seed
    return Tuning(
        plan=plan,
        run=run,
        trials=Trials(found.trials),
        propose=Proposals(space, search.searcher, seed, num_trials, first, search.second_objective),
        num_trials=num_trials,
        num_at_once=num_at_once(run),
        scheduler=search.scheduler,
        rates=asked(space, LEARNING_RATE),
        folder=found.folder / "ray",
    )


def _run(console: Console, tuning: Tuning, tracking: SearchTracking) -> None:
    """Run the trials; from its end on, Ctrl-C is an exception again, since nobody asks for it between trials."""
    with interruption() as interrupted, SearchProgress(console, tuning.trials, tuning.num_trials) as progress:
        watcher = _Watcher(tracking, tuning.trials, progress, interrupted)
        run_trials(tuning, watcher)
        watcher.tick()  # a signal may have come after the last one


class _Watcher:
    """Tells MLflow and the screen; ends the search when the user asks for it."""

    def __init__(
        self, tracking: SearchTracking, trials: Trials, progress: SearchProgress, interrupted: Interruption
    ) -> None:
        self._tracking, self._trials, self._progress, self._interrupted = tracking, trials, progress, interrupted

    def begun(self, trial: Trial) -> Trial:
        return self._tracking.begin(trial)

    def reported(self, trial: Trial, curve: Curve) -> Trial:
        return self._tracking.report(trial, curve)

    def ended(self, trial: Trial) -> Trial:
        after = self._tracking.end(trial)
        self._progress.ended(after)
        return after

    def tick(self) -> None:
        self._progress.tick()
        self._tracking.catch_up(self._trials)
        if self._interrupted:
            raise Interrupted("interrupted")


def _finish(console: Console, found: FoundSearch, tuning: Tuning, tracking: SearchTracking, copy: Path | None) -> None:
    """Numbers, tables, figures and the best settings; then these again with fresh seeds, which the numbers gain.

    Raises `UserError`, with the numbers written, if no trial gave a result.
    """
    trials, search = tuning.trials, found.search
    tree = {"parent_run_id": tracking.parent.run_id, "name": search.name, **as_tree(trials, search.second_objective)}
    _write_result(found, tracking, tree, copy)
    best = trials.best
    if best is None:
        first = next((trial.error for trial in trials.of_state("failed")), "there is none")
        raise UserError(f"no trial of {len(trials)} gave a result; the first error: {first}")
    settings = _best_settings(search.settings, best, tuning.num_at_once)
    _summarise(console, found, trials, best, settings, tracking)
    retrained = retrain(console, found, best, settings, tracking.parent.run_id)
    print_retrained(console, retrained)
    tracking.parent.metrics(best_metrics(retrained), len(trials))
    _write_result(found, tracking, {**tree, **retrained}, copy)


def _summarise(
    console: Console, found: FoundSearch, trials: Trials, best: Trial, settings: Settings, tracking: SearchTracking
) -> None:
    """Tables, figures and the best settings: on the screen, in the search's folder, and with its tracked run."""
    print_summary(console, trials, found.search.second_objective)
    write_summary(found.summary, trials, found.search.second_objective)
    found.best.write_text(to_yaml(settings))
    tracking.parent.metrics(best_metrics({"nll": best.reports[-1].objective}), len(trials))
    tracking.parent.artifact(found.best, "")
    tracking.keep(found.summary)
    console.print(f"the best settings: mcb train --config {shlex.quote(str(found.best))}", soft_wrap=True)


def _best_settings(base: Settings, best: Trial, num_trials_at_once: int) -> Settings:
    """The best trial's settings on all the machines that the trials had together."""
    alone = settings_at(base, best.point)
    workers = {"num_workers": alone.cluster.num_workers * num_trials_at_once}
    return alone.model_copy(update={"cluster": alone.cluster.model_copy(update=workers)})


def _write_result(found: FoundSearch, tracking: SearchTracking, tree: Mapping[str, object], copy: Path | None) -> None:
    for path in [found.result] + ([] if copy is None else [copy]):
        write_json(path, tree)
    tracking.parent.artifact(found.result, "")


def _say_begin(console: Console, found: FoundSearch, tuning: Tuning) -> None:
    search = found.search
    verb = "goes on" if found.resume else "begins"
    console.print(
        f"{search.name} {verb}: {tuning.num_trials} trials of {search.settings.train.num_steps:,} meta-steps, "
        f"{tuning.num_at_once} at once, in {found.folder}",
        soft_wrap=True,
    )
