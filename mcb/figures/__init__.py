"""Figures of a run, for papers and reports: tensors in, a `matplotlib.figure.Figure` out; no pyplot, no global state.

Nothing else in `mcb` imports this package, because matplotlib is slow to import.
"""

from mcb.figures.calibration import calibration
from mcb.figures.found_modes import found_against_true, representative_tasks, tasks_by_mode
from mcb.figures.learning import learning_curve
from mcb.figures.modes import embeddings_by_mode, responsibilities_by_mode
from mcb.figures.posterior import posterior_predictive
from mcb.figures.search import parallel_coordinates, pareto_front, search_history, setting_importances

__all__ = [
    "calibration",
    "embeddings_by_mode",
    "found_against_true",
    "learning_curve",
    "parallel_coordinates",
    "pareto_front",
    "posterior_predictive",
    "representative_tasks",
    "responsibilities_by_mode",
    "search_history",
    "setting_importances",
    "tasks_by_mode",
]
