"""Two trained learners on the same test tasks: from their stored scores where these are of the same, else anew."""

from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from cluster.errors import UserError
from jobs.building.objects import Source, build_source
from jobs.evaluation.evaluate import Trained, find_trained, shown
from jobs.evaluation.scores import TEST_SEED, evaluated_indices, score_tasks
from jobs.evaluation.task_scores import Comparison, ScoredTasks, compare, read_tasks, scored_tasks


class Contender(NamedTuple):
    """A checkpoint file and the scores of its run's test tasks, both here; None where the run kept no scores."""

    checkpoint: Path
    tasks: Path | None


def compare_contenders(
    console: Console, candidate: Contender, champion: Contender, data: Path | None = None
) -> Comparison:
    """Test NLL of both; where the stored scores are not of the same tasks, both are evaluated on the champion's.

    `data` is where the measured curves are now, if they moved. Raises `UserError` for learners of different tasks.
    """
    if candidate.tasks is not None and champion.tasks is not None:
        stored = compare(read_tasks(candidate.tasks), read_tasks(champion.tasks))
        if stored is not None:
            return stored
    console.print("evaluating both on the champion's test tasks: there are no stored scores of both on the same")
    champion_now, candidate_now = (find_trained(str(one.checkpoint), None, data, {}) for one in (champion, candidate))
    source = build_source(champion_now.settings, "test")
    mine = build_source(candidate_now.settings)
    if (mine.x_size, mine.y_size) != (source.x_size, source.y_size):
        raise UserError(
            f"the run's tasks have {mine.x_size} inputs and {mine.y_size} targets, the champion's {source.x_size} and "
            f"{source.y_size}: they cannot be compared; register it under another --name"
        )
    scored = [_scored(console, one, source, champion_now) for one in (candidate_now, champion_now)]
    compared = compare(*scored)
    assert compared is not None  # the same tasks were given to both
    return compared


def _scored(console: Console, trained: Trained, source: Source, champion: Trained) -> ScoredTasks:
    """Every test task of the champion's evaluation."""
    plan = champion.settings.evaluation
    indices = evaluated_indices(source, plan)
    with shown(console) as show:
        scores, _ = score_tasks(trained.learner, source, TEST_SEED, indices, plan.batch_size, "evaluating", show)
    return scored_tasks(scores, source, indices)
